"""Tests of the mask decoder for GPUs: its kernels run in the emulator and, in tests marked gpu, on a real GPU."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

import cuda_emulation
from decoder_arguments import arguments_in
from fastsam_core.models import decoder_gpu, prepared_image, registry
from fastsam_core.models.decoder_features import prepare_decoder
from fastsam_core.models.decoder_folded import DecodedPrompts, FoldedImage
from fastsam_core.models.decoder_gpu import GpuImage, GpuPrompts, can_use_decoder_kernels
from fastsam_core.models.decoder_tiled import TiledImage
from fastsam_core.models.mask_decoder import MaskDecoder
from fastsam_core.models.prepared_image import PreparedImage
from fastsam_core.ops import _native_cuda
from gpu_waits import waits
from siblings import EMULATED, Calls, names_of, use_sibling
from test_decoder import OPS, decoder_of, inputs

each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
each_dtype = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
GRID, PROMPTS = (3, 7), 8
PAIRS = torch.cartesian_prod(torch.arange(PROMPTS), torch.arange(4))


def decoder_and_inputs(
    dtype: torch.dtype, device: str = "cpu", seed: int = 11, dim: int = 256
) -> tuple[MaskDecoder, list[Tensor], Tensor]:
    """Return a decoder (by default of SAM's width), an image's tensors and prompts, all in `dtype`."""
    decoder = decoder_of(dim, 8).to(device, dtype)
    sparse = torch.randn(PROMPTS, 2, dim, generator=torch.Generator().manual_seed(seed))
    return decoder, [x.to(device, dtype) for x in inputs(dim, GRID)], sparse.to(device, dtype)


def exact_of(decoder: MaskDecoder, given: list[Tensor], sparse: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and IoU computed in float64 from the same rounded weights and inputs."""
    embedding, position, dense = (x.double() for x in given)
    given_as = decoder.iou_token.weight
    twin = decoder_of(decoder.transformer_dim, 8).to(given_as.device, given_as.dtype).double()
    return twin.predict_masks(embedding, position, sparse.double(), dense)


def check_accuracy(dtype: torch.dtype, device: str, counts: tuple[int, ...], dim: int = 256) -> None:
    """Assert that RMS errors of logits and IoU over several draws are at most twice those of the plain decoder.

    counts: numbers of prompts to decode together.
    """
    squares = torch.zeros(2, 2, dtype=torch.float64)  # summed squared errors: (logits, IoU) x (ours, plain decoder's)
    for draw, (masks, prompts) in enumerate(product(((), (0,), (1, 2, 3)), counts)):
        decoder, given, sparse = decoder_and_inputs(dtype, device, 11 + draw, dim)
        exact, exact_iou = exact_of(decoder, given, sparse)
        plain, plain_iou = decoder.predict_masks(given[0], given[1], sparse, given[2])
        image = GpuImage(decoder, *given)
        for begin in range(0, PROMPTS, prompts):
            these = slice(begin, begin + prompts)
            decoded = image.decode(sparse[these], masks)
            assert isinstance(decoded, GpuPrompts)
            pairs = torch.cartesian_prod(torch.arange(prompts), torch.tensor(masks or range(4)))
            logits = decoded.logits(pairs[:, 0], pairs[:, 1])
            assert logits.dtype == torch.float32
            at = tuple(pairs.T.to(device))
            of_logits = logits, plain[these][at], exact[these][at]
            of_iou = decoded.predicted_iou(), plain_iou[these], exact_iou[these]
            for i, (found, usual, wanted) in enumerate((of_logits, of_iou)):
                errors = [(x.double() - wanted).square().sum().cpu() for x in (found, usual)]
                squares[i] += torch.stack(errors)
    assert (squares[:, 0].sqrt() <= 2 * squares[:, 1].sqrt()).all(), squares  # also false for NaN


@pytest.mark.skipif(EMULATED not in names_of("decoder_upscale"), reason="the compiled operations are off")
@each_dtype
@torch.no_grad()
def test_is_as_accurate_as_the_plain_decoder(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sibling(monkeypatch, EMULATED)
    check_accuracy(dtype, "cpu", (PROMPTS, 1) if dtype.itemsize == 2 else (PROMPTS,))


@pytest.mark.skipif(EMULATED not in names_of("decoder_upscale"), reason="the compiled operations are off")
@pytest.mark.parametrize(("dtype", "dim"), [(torch.bfloat16, 128), (torch.bfloat16, 64), (torch.float32, 128)])
@torch.no_grad()
def test_narrower_decoder_is_as_accurate(dtype: torch.dtype, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sibling(monkeypatch, EMULATED)
    check_accuracy(dtype, "cpu", (PROMPTS,), dim)


@torch.no_grad()
def test_logits_of_any_pairs_are_in_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_gpu, "PROMPTS_PER_CHUNK", 2)
    decoder, given, sparse = decoder_and_inputs(torch.bfloat16)
    decoded = GpuImage(decoder, *given).decode(sparse)
    every = decoded.logits(PAIRS[:, 0], PAIRS[:, 1]).view(PROMPTS, 4, 12, 28)
    kept = every.clone()
    prompts, masks = [2, 0, 2, 1, 0], [1, 3, 0, 2, 3]
    assert torch.equal(decoded.logits(prompts, masks), kept[prompts, masks])
    assert torch.equal(every, kept)
    assert decoded.logits([], []).shape == (0, 12, 28)
    few = GpuImage(decoder, *given).decode(sparse, (1, 2, 3))
    torch.testing.assert_close(few.logits(prompts, masks), kept[prompts, masks], atol=0.2, rtol=0.05)
    assert GpuImage(decoder, *given).decode(sparse[:0]).predicted_iou().shape == (0, 4)


@pytest.mark.skipif(EMULATED not in names_of("decoder_upscale"), reason="the compiled operations are off")
@each_half
@pytest.mark.parametrize(("chosen", "dim"), [((), 256), ((1, 2, 3), 256), ((1, 2, 3), 64)])
@torch.no_grad()
def test_precomputed_layouts_equal_the_operations(
    dtype: torch.dtype, chosen: tuple[int, ...], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sibling(monkeypatch, EMULATED)
    decoder, given, sparse = decoder_and_inputs(dtype, dim=dim)
    image = GpuImage(decoder, *given)
    decoded = image.decode(sparse, chosen)
    assert isinstance(decoded, GpuPrompts) and "_upscaler" not in vars(image)
    of_pairs = [PAIRS[PAIRS[:, 1] > 0], torch.tensor([[7, 1], [2, 3], [7, 2], [0, 1], [2, 3]]), PAIRS[1:2], PAIRS[:0]]
    expected = [decoded.logits(pairs[:, 0], pairs[:, 1]) for pairs in of_pairs]
    calls: list[Any] = []
    with _native_cuda.use_module(cuda_emulation.load()):
        for op in ("decoder_prompts", "decoder_mask_factors", "decoder_upscale"):
            monkeypatch.setattr(f"fastsam_core.ops.{op}", lambda *given: calls.append(given))
        again = image.decode(sparse, chosen)
        assert torch.equal(again.predicted_iou(), decoded.predicted_iou())
        for pairs, wanted in zip(of_pairs, expected, strict=True):
            assert torch.equal(again.logits(pairs[:, 0].tolist(), pairs[:, 1].tolist()), wanted)
    assert not calls and "_upscaler" in vars(image)


@pytest.mark.parametrize(("dtype", "together"), [(torch.bfloat16, 4), (torch.float32, 2)])
@torch.no_grad()
def test_float32_decodes_half_as_many_prompts_per_chunk(
    dtype: torch.dtype, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_gpu, "PROMPTS_PER_CHUNK", 4)
    decoder, given, sparse = decoder_and_inputs(dtype)
    decoded = GpuImage(decoder, *given).decode(sparse, (1,))
    assert [len(chunk.state) for chunk in decoded.chunks] == [together] * (PROMPTS // together)
    prompts, masks = [7, 0, 4], [1, 1, 1]
    exact, _ = exact_of(decoder, given, sparse)
    atol, rtol = (0.2, 0.05) if dtype == torch.bfloat16 else (1e-3, 1e-4)
    torch.testing.assert_close(decoded.logits(prompts, masks).double(), exact[prompts, masks], atol=atol, rtol=rtol)


@torch.no_grad()
def test_prompts_of_many_tokens_fall_back_to_pytorch() -> None:
    decoder, given, _ = decoder_and_inputs(torch.float16)
    sparse = torch.randn(2, 4, 256).half()
    decoded = GpuImage(decoder, *given).decode(sparse)
    folded = FoldedImage(decoder, *given).decode(sparse)
    assert isinstance(decoded, DecodedPrompts)
    assert torch.equal(decoded.predicted_iou(), folded.predicted_iou())


@torch.no_grad()
def test_gpu_image_is_used_only_where_kernels_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("sam_nano").eval()
    grid, channels = model.image_size // 16, model.prompt_encoder.embed_dim
    embedding = torch.randn(1, channels, grid, grid)
    assert isinstance(model.prepare(embedding).image_decoder, FoldedImage | TiledImage)
    assert not can_use_decoder_kernels(model.mask_decoder, embedding)
    decoder, given, _ = decoder_and_inputs(torch.float16)
    assert not can_use_decoder_kernels(decoder, *given)  # on the CPU
    monkeypatch.setattr(prepared_image, "can_use_decoder_kernels", lambda *given: True)
    monkeypatch.setattr(prepared_image, "can_use_native", lambda *given: False)
    image = model.prepare(embedding)
    assert isinstance(
        image.image_decoder, GpuImage
    ) and image.image_decoder is image.image_decoder is image.image_decoder_for(1)
    points, labels = torch.rand(5, 1, 2) * model.image_size, torch.ones(5, 1)
    ours, iou = model.decode_prompts(image, points, labels, multimask_output=True)
    monkeypatch.undo()
    theirs, their_iou = model.decode_prompts(model.prepare(embedding), points, labels, multimask_output=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(iou, their_iou, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [FoldedImage, GpuImage])
@torch.no_grad()
def test_few_float32_prompts_use_the_plain_decoder_on_a_gpu(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("sam_nano").eval()
    model.set_image_size(64)
    embedding, points = torch.randn(1, model.prompt_encoder.embed_dim, 4, 4), 64 * torch.rand(5, 1, 2)
    monkeypatch.setattr(prepared_image, "_on_gpu", lambda embedding: True)
    monkeypatch.setattr(PreparedImage, "_image_decoder_type", lambda image: kind)
    image = model.prepare(embedding)
    image.warm_up()
    few, _ = model.decode_prompts(image, points[:4], torch.ones(4, 1), multimask_output=True)
    assert image._image_decoder is None
    many, _ = model.decode_prompts(image, points, torch.ones(5, 1), multimask_output=True)
    assert isinstance(image._image_decoder, kind)
    torch.testing.assert_close(few, many[:4], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [FoldedImage, GpuImage])
@torch.no_grad()
def test_form_made_during_graph_capture_is_not_cached(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("sam_nano").eval()
    model.set_image_size(64)
    image = model.prepare(torch.randn(1, model.prompt_encoder.embed_dim, 4, 4))
    monkeypatch.setattr(PreparedImage, "_image_decoder_type", lambda image: kind)
    monkeypatch.setattr(prepared_image, "is_capturing", lambda: True)
    assert isinstance(image.image_decoder, kind) and image.image_decoder is not image.image_decoder
    monkeypatch.setattr(prepared_image, "is_capturing", lambda: False)
    image.warm_up()
    monkeypatch.setattr(prepared_image, "is_capturing", lambda: True)
    assert image.image_decoder is image.image_decoder
    assert kind is FoldedImage or "_prepared" in vars(image.image_decoder)


@pytest.mark.parametrize("op", OPS)
@each_half
def test_operations_pass_opcheck_and_fakes_match(op: str, dtype: torch.dtype) -> None:
    sizes = {"heads": 8, "prompts": 2, "tokens": 7, "dim": 256, "grid": (4, 8)}  # whole panels
    call = getattr(torch.ops.fastsam_core, op).default
    given = arguments_in(dtype, op, **sizes)
    torch.library.opcheck(call, given)
    with FakeTensorMode() as mode:
        there = tree_map_only(Tensor, mode.from_tensor, given)
        fake = call(*there)
    real = call(*given)
    for a, b in zip(flat(fake), flat(real), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride()


def flat(result: Any) -> tuple[Tensor, ...]:
    return () if result is None else result if isinstance(result, tuple) else (result,)


# ---------------------------------------------------------------------------------------------------------- a real GPU


@pytest.mark.gpu
@each_dtype
@torch.no_grad()
def test_on_a_gpu_it_is_as_accurate_as_the_plain_decoder(dtype: torch.dtype) -> None:
    check_accuracy(dtype, "cuda", (PROMPTS, 1))


@pytest.mark.gpu
@each_dtype
@pytest.mark.parametrize("dim", [128, 64])
@torch.no_grad()
def test_on_a_gpu_a_narrower_decoder_is_as_accurate(dtype: torch.dtype, dim: int) -> None:
    decoder, given, _ = decoder_and_inputs(dtype, "cuda", dim=dim)
    assert can_use_decoder_kernels(decoder, *given)
    check_accuracy(dtype, "cuda", (PROMPTS, 1), dim)


@pytest.mark.gpu
@each_half
@torch.no_grad()
def test_on_a_gpu_a_thousand_prompts_give_the_same_as_few(dtype: torch.dtype) -> None:
    """Matrix products of so many rows use large blocks, which take the emulator too long."""
    decoder, given, _ = decoder_and_inputs(dtype, "cuda")
    sparse = torch.randn(1000, 2, 256, generator=torch.Generator().manual_seed(3)).to("cuda", dtype)
    image = GpuImage(decoder, *given)
    together, few = image.decode(sparse, (1, 2, 3)), image.decode(sparse[-3:], (1, 2, 3))
    assert torch.equal(together.predicted_iou()[-3:], few.predicted_iou())
    masks = [1, 2, 3] * 1000
    every = together.logits(sorted([*range(1000)] * 3), masks)
    assert torch.equal(every[-9:], few.logits([0, 0, 0, 1, 1, 1, 2, 2, 2], masks[:9])) and not every.isnan().any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("count", [PROMPTS, 3])
@torch.no_grad()
def test_on_a_gpu_nothing_synchronises_and_repeats_are_equal(count: int, dtype: torch.dtype) -> None:
    decoder, given, sparse = decoder_and_inputs(dtype, "cuda")
    assert can_use_decoder_kernels(decoder, *given)

    def run() -> Tensor:
        decoded = GpuImage(decoder, *given).decode(sparse[:count], (1, 2, 3))
        return decoded.logits([0, 1, 1, 2], [1, 2, 3, 1])

    expected = run()
    torch.cuda.synchronize()
    with waits() as found:
        repeats = [run() for _ in range(20)]
    assert not found, [str(one.message) for one in found]
    assert all(torch.equal(expected, one) for one in repeats)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("count", [PROMPTS, 1])
@torch.no_grad()
def test_on_a_gpu_decoding_can_be_captured_in_a_graph(count: int, dtype: torch.dtype) -> None:
    decoder, given, sparse = decoder_and_inputs(dtype, "cuda")
    image, sparse = GpuImage(decoder, *given), sparse[:count]
    expected = image.decode(sparse, (1, 2, 3)).predicted_iou()
    still, graph = torch.zeros_like(sparse), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        iou = image.decode(still, (1, 2, 3)).predicted_iou()
    still.copy_(sparse)
    graph.replay()
    assert torch.equal(iou, expected)


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_another_stream_waits_for_prepared_features() -> None:
    decoder, given, sparse = decoder_and_inputs(torch.bfloat16, "cuda")
    expected = GpuImage(decoder_and_inputs(torch.bfloat16, "cuda")[0], *given).decode(sparse).predicted_iou()
    prepare_decoder(decoder, for_gpu=True)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # some tens of milliseconds
        assert GpuImage(decoder, *given).features
    with torch.cuda.stream(torch.cuda.Stream()):
        found = GpuImage(decoder, *given).decode(sparse).predicted_iou()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_the_chain_serves_any_number_of_prompts() -> None:
    decoder, given, sparse = decoder_and_inputs(torch.float16, "cuda")
    image = GpuImage(decoder, *given)
    for count in (1, PROMPTS):
        calls = Calls(_native_cuda.cuda_module)
        with _native_cuda.use_module(calls):
            image.decode(sparse[:count]).logits([0], [1])
        assert {"decoder_prompts", "decoder_mask_factors"} <= calls.names
        assert "decoder_first_pass" not in calls.names
