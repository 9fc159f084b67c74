"""Tests of the mask decoder's operations: siblings against the plain decoder, invalid arguments, tiled decoding."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from decoder_arguments import arguments, randomised
from fastsam_core import ops
from fastsam_core.models import registry
from fastsam_core.models.decoder_folded import FoldedImage
from fastsam_core.models.decoder_tiled import MAX_CACHED_PROMPTS, TiledImage
from fastsam_core.models.mask_decoder import MaskDecoder, TwoWayTransformer
from fastsam_core.ops._decoder.panels import from_panels
from fastsam_core.ops._decoder.weights import mask_shapes
from fastsam_core.ops._native import cpu_module
from fastsam_core.ops._threads import thread_count
from siblings import each_sibling, use_sibling

IMAGE_OPS = ("decoder_first_token_to_image", "decoder_first_pass", "decoder_second_pass", "decoder_upscale")
OPS = (*IMAGE_OPS, "decoder_prompts", "decoder_mask_factors")
SMALL = {"heads": 4, "prompts": 3, "tokens": 7, "dim": 64, "grid": (5, 7)}


def decoder_of(dim: int, heads: int) -> MaskDecoder:
    transformer = TwoWayTransformer(2, dim, heads, 64)
    decoder = randomised(MaskDecoder(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=32))
    assert isinstance(decoder, MaskDecoder)
    return decoder


def inputs(dim: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return draw(1, dim, *grid), draw(1, dim, *grid), draw(1, dim, 1, 1)


def compare(decoder: MaskDecoder, grid: tuple[int, int], prompts: int, tokens: int) -> None:
    """Compare with the plain decoder in float64; in float32 it errs as much as ours, differently on each machine."""
    dim = decoder.iou_token.embedding_dim
    embedding, position, dense = inputs(dim, grid)
    sparse = torch.randn(prompts, tokens - 5, dim, generator=torch.Generator().manual_seed(11))
    expected, expected_iou = torch.empty(0, 4, 4 * grid[0], 4 * grid[1]), torch.empty(0, 4)
    if prompts:
        wide = [x.double() for x in (embedding, position, sparse, dense)]
        expected, expected_iou = (x.float() for x in copy.deepcopy(decoder).double().predict_masks(*wide))
    decoded = TiledImage(decoder, embedding, position, dense).decode(sparse, (0, 1, 2, 3))
    torch.testing.assert_close(decoded.predicted_iou(), expected_iou, rtol=1e-4, atol=1e-5)
    pairs = torch.cartesian_prod(torch.arange(prompts), torch.arange(4))
    made = decoded.logits(pairs[:, 0], pairs[:, 1]).view_as(expected)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", range(6, 17))
@each_sibling
@torch.no_grad()
def test_equals_the_plain_decoder_for_any_number_of_tokens(sibling: str, tokens: int, monkeypatch: Any) -> None:
    use_sibling(monkeypatch, sibling)
    compare(decoder_of(64, 4), (3, 5), 2, tokens)


@pytest.mark.parametrize(("dim", "heads"), [(256, 8), (128, 8), (64, 4), (96, 2), (16, 1)])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (24, 24)])
@each_sibling
@torch.no_grad()
def test_equals_the_plain_decoder_for_any_size(
    sibling: str, dim: int, heads: int, grid: tuple[int, int], monkeypatch: Any
) -> None:
    use_sibling(monkeypatch, sibling)
    compare(decoder_of(dim, heads), grid, 3, 7)


@each_sibling
@torch.no_grad()
def test_is_as_accurate_as_the_plain_decoder_at_full_size(sibling: str, monkeypatch: Any) -> None:
    """Compare absolute errors with the plain decoder's: some of 262,144 logits are near zero."""
    use_sibling(monkeypatch, sibling)
    decoder = decoder_of(256, 8)
    sparse = torch.randn(1, 2, 256, generator=torch.Generator().manual_seed(11))
    given = inputs(256, (64, 64))
    plain = decoder.predict_masks(*given[:2], sparse, given[2])[0][0]
    made = TiledImage(decoder, *given).decode(sparse, (0, 1, 2, 3)).logits([0] * 4, [0, 1, 2, 3])
    exact = decoder.double().predict_masks(*(x.double() for x in (*given[:2], sparse, given[2])))[0][0]
    assert (made - exact).abs().max() <= 2 * (plain - exact).abs().max()


@each_sibling
@torch.no_grad()
def test_equals_the_plain_decoder_on_images_of_several_spans(sibling: str, monkeypatch: Any) -> None:
    use_sibling(monkeypatch, sibling)
    compare(decoder_of(64, 4), (2, 300), 1, 21)  # the last span is short


@pytest.mark.parametrize("prompts", [0, 1, 5, 64])
@torch.no_grad()
def test_equals_the_plain_decoder_for_any_number_of_prompts(prompts: int) -> None:
    compare(decoder_of(64, 4), (4, 6), prompts, 8)


# ----------------------------------------------------------------------------------------------------------- operations


def run(call: Callable[..., Any], op: str, given: tuple[Any, ...]) -> list[Tensor]:
    """Return all results of an operation, including those written in place; the caller's tensors are not changed."""
    given = tuple(x.clone() if isinstance(x, Tensor) else x for x in given)
    result = call(*given)
    if op == "decoder_mask_factors":
        return list(result)
    if op == "decoder_prompts":
        return [*result, from_panels(given[-1], given[7])]
    if op == "decoder_first_token_to_image":
        return [result]
    if op == "decoder_upscale":
        return [given[-1]]
    length, state = given[-2:]
    written = from_panels(state, length)  # without the panels' padding, whose contents are unspecified
    if op == "decoder_first_pass":
        rows = state.shape[2] // 2 - 1
        written = written[..., [*range(rows), 2 * rows]]
    return [*result, written]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    "size",
    [
        SMALL,
        {**SMALL, "heads": 8, "dim": 128, "tokens": 6, "grid": (9, 65)},
        {**SMALL, "heads": 1, "dim": 48, "tokens": 13, "grid": (1, 17)},
        {**SMALL, "heads": 3, "dim": 24, "tokens": 1, "grid": (2, 8)},
    ],
    ids=str,
)
@each_sibling
def test_siblings_agree(sibling: str, op: str, size: dict[str, Any]) -> None:
    given = arguments(op, **size)
    pairs = zip(run(ops.siblings(op)["reference"], op, given), run(ops.siblings(op)[sibling], op, given), strict=True)
    for expected, result in pairs:
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("op", ["decoder_first_pass", "decoder_second_pass"])
@each_sibling
def test_large_scores_stay_finite_and_nan_does_not_crash(sibling: str, op: str) -> None:
    given = list(arguments(op, **SMALL))
    keys, queries = (4, 7) if op == "decoder_first_pass" else (5, 15)
    large = [*given]
    large[keys], large[queries] = given[keys] * 1e4, given[queries] * 1e4
    for result in run(ops.siblings(op)[sibling], op, tuple(large)):
        assert bool(result.isfinite().all())
    for value in (float("nan"), float("inf"), -float("inf")):
        spoilt = [*given]
        spoilt[keys] = torch.full_like(given[keys], value)
        run(ops.siblings(op)[sibling], op, tuple(spoilt))


@pytest.mark.parametrize("op", OPS)
@each_sibling
def test_wrong_arguments_are_value_errors(sibling: str, op: str) -> None:
    given = arguments(op, **SMALL)
    for i, argument in enumerate(given):
        bad: list[Any] = []
        if isinstance(argument, Tensor):
            bad = [argument[None], argument.double() if i else argument.half()]
            if argument.dim():
                bad.append(argument[..., :-1].contiguous())
        elif isinstance(argument, int):
            bad = [0, -1, argument + 16]
        elif isinstance(argument, list):
            bad = [argument[:-1] if isinstance(argument[0], Tensor) else [-1, *argument[1:]], []]
        for value in bad:
            with pytest.raises(ValueError):
                ops.siblings(op)[sibling](*given[:i], value, *given[i + 1 :])


@each_sibling
def test_upscale_refuses_prompt_indices_out_of_range(sibling: str) -> None:
    state, selected, factors, index, *rest = arguments("decoder_upscale", **SMALL)
    upscale = ops.siblings("decoder_upscale")[sibling]
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match="index must be indices of the prompts in selected"):
            upscale(state, selected, factors, index.clone().fill_(wrong), *rest)
    for wrong in (-1, SMALL["prompts"]):
        with pytest.raises(ValueError, match="selected must be indices of the prompts that were decoded"):
            upscale(state, selected.clone().fill_(wrong), factors, index, *rest)


@each_sibling
def test_mask_factors_refuse_indices_out_of_range(sibling: str) -> None:
    given = arguments("decoder_mask_factors", **SMALL)
    for at, end in ((3, SMALL["prompts"]), (4, 2), (5, 2)):
        for wrong in (-1, end, 2**63 - 1):
            with pytest.raises(ValueError):
                ops.siblings("decoder_mask_factors")[sibling](*given[:at], given[at] * 0 + wrong, *given[at + 1 :])


@each_sibling
def test_mask_factors_accept_zero_masks(sibling: str) -> None:
    given, call = arguments("decoder_mask_factors", **SMALL), ops.siblings("decoder_mask_factors")[sibling]
    factors, _ = call(*given)
    alone, weights = call(*given[:4], given[4][:0], given[5][:0], *given[6:])
    assert torch.equal(alone, factors) and weights.shape == (0, given[8][2])


@each_sibling
def test_wrong_shape_of_an_image_part_is_named_in_the_error(sibling: str) -> None:
    tokens, weights, sizes, image, *given = arguments("decoder_prompts", **SMALL)
    wanted = re.escape(f"first_values must have shape (for these sizes) = {tuple(image[1].shape)}; got ")
    with pytest.raises(ValueError, match=wanted):
        spoilt = [image[0], image[1][:, 1:], *image[2:]]
        ops.siblings("decoder_prompts")[sibling](tokens, weights, sizes, spoilt, *given)


@each_sibling
def test_mask_factors_refuse_tokens_without_channels(sibling: str) -> None:
    final, *given = arguments("decoder_mask_factors", **SMALL)
    layers, sizes = given[6:8]
    none = torch.zeros(len(layers), mask_shapes(0, *sizes)[1])
    with pytest.raises(ValueError, match="width"):
        ops.siblings("decoder_mask_factors")[sibling](final[..., :0], *given[:6], none, *given[7:])


# ---------------------------------------------------------------------------------------------------------------- model


@torch.no_grad()
def test_masks_made_while_decoding_equal_those_made_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam_core.models.decoder_tiled.PROMPTS_PER_CHUNK", 8)
    decoder, count = decoder_of(64, 4), MAX_CACHED_PROMPTS + 11
    embedding, position, dense = inputs(64, (6, 6))
    sparse = torch.randn(count, 2, 64)
    image = TiledImage(decoder, embedding, position, dense)
    folded = FoldedImage(decoder, embedding, position, dense).decode(sparse)
    later, iou = image.decode(sparse), folded.predicted_iou()
    iou_threshold = float(iou[:, 1:].median())
    at_once = image.decode(sparse, (1, 2, 3), iou_threshold)
    torch.testing.assert_close(later.predicted_iou(), iou, rtol=1e-4, atol=1e-5)
    wanted = torch.tensor([count - 1, 0, 7, 8, MAX_CACHED_PROMPTS, 3, 0])
    masks = torch.tensor([1, 2, 3, 0, 1, 2, 2])
    expected = folded.logits(wanted, masks)
    for decoded in (later, at_once):
        torch.testing.assert_close(decoded.logits(wanted, masks), expected, rtol=1e-4, atol=1e-5)
        assert decoded.logits([], []).shape == (0, 24, 24)
    pairs = (at_once.predicted_iou()[:, 1:] > iou_threshold).nonzero()
    in_order = at_once.logits(pairs[:, 0], pairs[:, 1] + 1)
    torch.testing.assert_close(in_order, folded.logits(pairs[:, 0], pairs[:, 1] + 1), rtol=1e-4, atol=1e-5)
    assert len(pairs) and in_order.data_ptr() == at_once.logits(pairs[:1, 0], pairs[:1, 1] + 1).data_ptr()


@torch.no_grad()
def test_folded_decoding_equals_plain_for_any_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, given = decoder_of(64, 4), inputs(64, (3, 7))
    sparse = torch.randn(8, 2, 64, generator=torch.Generator().manual_seed(5))
    plain, plain_iou = decoder.predict_masks(given[0], given[1], sparse, given[2])
    prompts, masks = torch.tensor([7, 0, 3, 7, 2, 6, 7]), torch.tensor([1, 2, 3, 0, 1, 2, 1])
    for together in ((4, 1), (3, 2), (32, 16)):  # decoded, and upscaled
        monkeypatch.setattr("fastsam_core.models.decoder_folded._CPU_CHUNK_SIZES", together)
        decoded = FoldedImage(decoder, *given).decode(sparse)
        torch.testing.assert_close(decoded.predicted_iou(), plain_iou, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decoded.logits(prompts, masks), plain[prompts, masks], rtol=1e-4, atol=1e-4)
        assert decoded.logits([], []).shape == (0, 12, 28)


@torch.no_grad()
def test_decoder_with_hooks_falls_back_to_pytorch(caplog: pytest.LogCaptureFixture) -> None:
    model = registry.build("sam_nano").eval()
    embedding = torch.zeros(1, model.prompt_encoder.embed_dim, *[model.prompt_encoder.grid_size] * 2)
    if cpu_module is not None:
        assert isinstance(model.prepare(embedding).image_decoder, TiledImage)
    seen: list[Tensor] = []
    model.mask_decoder.iou_prediction_head.register_forward_hook(lambda module, args, result: seen.append(result))
    prepared = [model.prepare(embedding) for _ in range(2)][1]
    (message,) = caplog.messages
    assert message.startswith("MaskDecoder has hooks")
    low_res, iou = model.decode_prompts(prepared, torch.rand(2, 1, 2) * 100, torch.ones(2, 1))
    expected = model.mask_scoring.predicted_iou(torch.cat(seen)[:, :1], low_res)
    assert prepared.image_decoder is None and torch.equal(expected, iou)


@torch.no_grad()
def test_buffers_of_image_tokens_are_reused_but_results_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam_core.models.decoder_tiled.PROMPTS_PER_CHUNK", 8)
    decoder = decoder_of(64, 4)
    image = TiledImage(decoder, *inputs(64, (6, 6)))
    image.decode(torch.randn(16, 2, 64), (0,))  # two chunks of 8 prompts
    # One buffer for each thread that decoded a chunk.
    buffers = {(buffer.data_ptr(), len(buffer)) for buffer in image._free_buffers}
    for count in (1, 8, 3):
        image.decode(torch.randn(count, 2, 64), (0,))
        assert {(buffer.data_ptr(), len(buffer)) for buffer in image._free_buffers} == buffers
    image.decode(torch.randn(40, 2, 64))  # all masks: their image tokens are kept and must not be overwritten
    kept = image.decode(torch.randn(3, 2, 64))
    expected = kept.logits([0, 2], [1, 1]).clone()
    image.decode(torch.randn(9, 2, 64), (0,))
    assert torch.equal(kept.logits([0, 2], [1, 1]), expected)


@pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off")
def test_image_is_prepared_with_one_pytorch_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's threads would keep spinning and slow the native operations that decode the prompts afterwards."""
    seen, linear = list[tuple[int, int]](), ops.linear

    def watched(*given: Any) -> Tensor:
        seen.append((torch.get_num_threads(), thread_count()))
        return linear(*given)

    monkeypatch.setattr(ops, "linear", watched)
    torch.set_num_threads(2)
    with torch.no_grad():
        TiledImage(decoder_of(64, 4), *inputs(64, (6, 6)))
    assert torch.get_num_threads() == 2 and seen and set(seen) == {(1, 2)}
