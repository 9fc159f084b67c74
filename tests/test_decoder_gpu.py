"""The decoder as it runs on a GPU, here with kernels on the emulator, and on a real GPU where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

import cuda_emulation
from decoder_arguments import arguments_in
from fastsam_core.models import decoder_gpu, registry, sam_model
from fastsam_core.models.decoder_folded import FoldedImage
from fastsam_core.models.decoder_gpu import FoldedPrompts, GpuImage, GpuPrompts, serves_decoder
from fastsam_core.models.decoder_tiled import TiledImage
from fastsam_core.models.mask_decoder import MaskDecoder
from fastsam_core.ops import _native_cuda
from gpu_waits import waits
from siblings import EMULATED, Calls, names_of, use_sibling, why_no_gpu
from test_decoder import OPS, decoder_of, inputs

each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
# The tokens by PyTorch, and by the kernels that have to be asked for.
each_chain = pytest.mark.parametrize("chain", [False, True], ids=["tokens-by-pytorch", "tokens-by-kernels"])
GRID, PROMPTS = (3, 7), 8
PAIRS = torch.cartesian_prod(torch.arange(PROMPTS), torch.arange(4))


def half(dtype: torch.dtype, device: str = "cpu") -> tuple[MaskDecoder, list[Tensor], Tensor]:
    """A decoder of SAM's sizes, an image and prompts."""
    decoder = decoder_of(256, 8).to(device, dtype)
    sparse = torch.randn(PROMPTS, 2, 256, generator=torch.Generator().manual_seed(11))
    return decoder, [x.to(device, dtype) for x in inputs(256, GRID)], sparse.to(device, dtype)


def exact_of(decoder: MaskDecoder, given: list[Tensor], sparse: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and IoU in float64, on the same rounded numbers."""
    embedding, position, dense = (x.double() for x in given)
    twin = decoder_of(256, 8).to(decoder.iou_token.weight.device, decoder.iou_token.weight.dtype).double()
    return twin(embedding, position, sparse.double(), dense)


def check_as_exact(dtype: torch.dtype, masks: tuple[int, ...], device: str = "cpu", prompts: int = PROMPTS) -> None:
    """Errors at most twice those of the plain decoder in the same dtype."""
    decoder, given, sparse = half(dtype, device)
    sparse = sparse[:prompts]
    exact, exact_iou = exact_of(decoder, given, sparse)
    plain, plain_iou = decoder(given[0], given[1], sparse, given[2])
    decoded = GpuImage(decoder, *given).decode(sparse, masks)
    assert isinstance(decoded, GpuPrompts)
    pairs = PAIRS[torch.isin(PAIRS[:, 1], torch.tensor(masks or range(4))) & (PAIRS[:, 0] < prompts)]
    logits = decoded.logits(pairs[:, 0], pairs[:, 1])
    at = tuple(pairs.T.to(device))
    for found, usual, wanted in (
        (logits, plain[at], exact[at]),
        (decoded.predicted_iou(), plain_iou, exact_iou),
    ):
        errors = [float((x.double() - wanted).abs().max()) for x in (found, usual)]
        assert errors[0] <= 2 * errors[1], errors
    assert logits.dtype == torch.float32


@pytest.mark.skipif(EMULATED not in names_of("decoder_upscale"), reason="the compiled operations are off")
@each_half
@each_chain
@pytest.mark.parametrize("masks", [(), (0,), (1, 2, 3)])
@torch.no_grad()
def test_is_as_exact_as_the_plain_decoder(
    dtype: torch.dtype, chain: bool, masks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sibling(monkeypatch, EMULATED)
    with _native_cuda.use_unvalidated(chain):
        check_as_exact(dtype, masks)
        if chain:
            check_as_exact(dtype, masks, prompts=1)


@torch.no_grad()
def test_logits_of_any_pairs_are_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_gpu, "PROMPTS_PER_CHUNK", 2)
    decoder, given, sparse = half(torch.bfloat16)
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
@pytest.mark.parametrize("chosen", [(), (1, 2, 3)])
@torch.no_grad()
def test_masks_put_in_order_on_the_host_are_those_of_the_operation(
    dtype: torch.dtype, chosen: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sibling(monkeypatch, EMULATED)
    decoder, given, sparse = half(dtype)
    image = GpuImage(decoder, *given)
    decoded = image.decode(sparse, chosen)
    assert isinstance(decoded, GpuPrompts) and "_upscaler" not in vars(image)
    of_pairs = [PAIRS[PAIRS[:, 1] > 0], torch.tensor([[7, 1], [2, 3], [7, 2], [0, 1], [2, 3]]), PAIRS[1:2], PAIRS[:0]]
    expected = [decoded.logits(pairs[:, 0], pairs[:, 1]) for pairs in of_pairs]
    with _native_cuda.use_module(cuda_emulation.load()):
        again = image.decode(sparse, chosen)
        calls: list[Any] = []
        monkeypatch.setattr("fastsam_core.ops.decoder_upscale", lambda *given: calls.append(given))
        for pairs, wanted in zip(of_pairs, expected, strict=True):
            assert torch.equal(again.logits(pairs[:, 0].tolist(), pairs[:, 1].tolist()), wanted)
    assert not calls and "_upscaler" in vars(image)


@torch.no_grad()
def test_prompts_of_many_tokens_are_pytorchs() -> None:
    decoder, given, _ = half(torch.float16)
    sparse = torch.randn(2, 4, 256).half()
    decoded = GpuImage(decoder, *given).decode(sparse)
    folded = FoldedImage(decoder, *given).decode(sparse)
    assert isinstance(decoded, FoldedPrompts)
    assert torch.equal(decoded.predicted_iou(), folded.predicted_iou())


@pytest.mark.parametrize("count", range(6))
@torch.no_grad()
def test_few_prompts_are_pytorchs_until_the_tokens_have_kernels(count: int) -> None:
    decoder, given, sparse = half(torch.bfloat16)
    image = GpuImage(decoder, *given)
    decoded = image.decode(sparse[:count], (1, 2, 3))
    few = 1 <= count <= 4
    assert isinstance(decoded, FoldedPrompts if few else GpuPrompts)
    assert ("_ready" not in vars(image)) == (count < 5)  # not made before they are needed
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(1, 4))
    logits = decoded.logits(pairs[:, 0], pairs[:, 1])
    assert logits.dtype == torch.float32 and logits.shape == (3 * count, 12, 28)
    assert decoded.predicted_iou().dtype == torch.bfloat16 and decoded.predicted_iou().shape == (count, 4)
    if few:
        folded = FoldedImage(decoder, *given).decode(sparse[:count])
        assert torch.equal(logits, folded.logits(pairs[:, 0], pairs[:, 1]).float())
    with _native_cuda.use_unvalidated():
        assert isinstance(image.decode(sparse[:count]), GpuPrompts)


@torch.no_grad()
def test_which_decoder_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("sam_nano").eval()
    grid, channels = model.image_size // 16, model.prompt_encoder.embed_dim
    embedding = torch.randn(1, channels, grid, grid)
    assert isinstance(model.prepare(embedding).folded, FoldedImage | TiledImage)
    assert not serves_decoder(model.mask_decoder, embedding)
    decoder, given, _ = half(torch.float16)
    assert not serves_decoder(decoder, *given)  # on the CPU
    monkeypatch.setattr(sam_model, "serves_decoder", lambda *given: True)
    monkeypatch.setattr(sam_model, "serves", lambda *given: False)
    image = model.prepare(embedding)
    assert isinstance(image.folded, GpuImage) and image.folded is image.folded
    points, labels = torch.rand(5, 1, 2) * model.image_size, torch.ones(5, 1)
    ours, iou = model.decode_prompts(image, points, labels, multimask_output=True)
    monkeypatch.undo()
    theirs, their_iou = model.decode_prompts(model.prepare(embedding), points, labels, multimask_output=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(iou, their_iou, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", OPS)
@each_half
def test_operations_can_be_traced_and_checked(op: str, dtype: torch.dtype) -> None:
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
@each_half
@each_chain
@torch.no_grad()
def test_on_a_gpu_it_is_as_exact_as_the_plain_decoder(dtype: torch.dtype, chain: bool) -> None:
    if reason := why_no_gpu():
        pytest.skip(reason)
    with _native_cuda.use_unvalidated(chain):
        for masks in ((), (1, 2, 3)):
            for prompts in (PROMPTS, 1)[: 2 if chain else 1]:
                check_as_exact(dtype, masks, "cuda", prompts)


@pytest.mark.gpu
@each_chain
@pytest.mark.parametrize("count", [PROMPTS, 3])
@torch.no_grad()
def test_on_a_gpu_nothing_waits_and_repeats_are_equal(count: int, chain: bool) -> None:
    if reason := why_no_gpu():
        pytest.skip(reason)
    decoder, given, sparse = half(torch.bfloat16, "cuda")
    assert serves_decoder(decoder, *given)

    def run() -> Tensor:
        decoded = GpuImage(decoder, *given).decode(sparse[:count], (1, 2, 3))
        return decoded.logits([0, 1, 1, 2], [1, 2, 3, 1])

    with _native_cuda.use_unvalidated(chain):
        expected = run()
        torch.cuda.synchronize()
        with waits() as said:
            repeats = [run() for _ in range(20)]
    assert not said, [str(one.message) for one in said]
    assert all(torch.equal(expected, one) for one in repeats)


@pytest.mark.gpu
@each_chain
@pytest.mark.parametrize("count", [PROMPTS, 1])
@torch.no_grad()
def test_on_a_gpu_decoding_can_be_captured_in_a_graph(count: int, chain: bool) -> None:
    if reason := why_no_gpu():
        pytest.skip(reason)
    decoder, given, sparse = half(torch.bfloat16, "cuda")
    image, sparse = GpuImage(decoder, *given), sparse[:count]
    with _native_cuda.use_unvalidated(chain):
        expected = image.decode(sparse, (1, 2, 3)).predicted_iou()
        still, graph = torch.zeros_like(sparse), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            iou = image.decode(still, (1, 2, 3)).predicted_iou()
    still.copy_(sparse)
    graph.replay()
    assert torch.equal(iou, expected)


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_what_serves_is_what_was_asked_for() -> None:
    if reason := why_no_gpu():
        pytest.skip(reason)
    decoder, given, sparse = half(torch.float16, "cuda")
    image = GpuImage(decoder, *given)
    for chain in (False, True):
        calls = Calls(_native_cuda.cuda_module)
        with _native_cuda.use_unvalidated(chain), _native_cuda.use_module(calls):
            image.decode(sparse).logits([0], [1])
            assert isinstance(image.decode(sparse[:1]), GpuPrompts if chain else FoldedPrompts)
        assert ("decoder_prompts" in calls.names) == ("decoder_mask_factors" in calls.names) == chain
        assert ("decoder_first_pass" in calls.names) != chain
