"""Tests of bfloat16 matrices in the mask decoder on the CPU: upscaling per instruction set, what stays float32."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from decoder_arguments import arguments
from fastsam_core import Predictor, ops
from fastsam_core.models import precision
from fastsam_core.models.decoder_calls import PromptTensors
from fastsam_core.models.decoder_tiled import TiledImage
from fastsam_core.models.sam_model import SamModel
from predictor_examples import dense
from siblings import names_of, use_sibling
from small_model import FEW, QUIET, bgr_image, small_model
from test_precision import BOXES

BF16, F32 = torch.bfloat16, torch.float32
OP = "decoder_upscale"
# The AVX-512 sibling uses the processor's bfloat16 dot products (AVX512-BF16) if it has them.
NATIVE = [name for name in names_of(OP) if name.startswith("cpu")]
SIZE = {"heads": 4, "prompts": 3, "tokens": 7, "dim": 64, "grid": (5, 7)}

native_alone = pytest.mark.skipif(not NATIVE, reason="the compiled operations are off")
each_set = pytest.mark.parametrize("sibling", NATIVE or [pytest.param("", marks=native_alone)])


def upscale(sibling: str, given: tuple[Any, ...]) -> Tensor:
    """Return the logits in a new tensor."""
    *given, out = given
    out = torch.full_like(out, torch.nan)
    ops.siblings(OP)[sibling](*given, out)
    return out


def with_bfloat16_matrices(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert both matrices, `factors` and `conv2`, to bfloat16."""
    return tuple(x.to(BF16) if position in (2, 10) else x for position, x in enumerate(given))


def in_float64(given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)


def check_error(sibling: str, given: tuple[Any, ...]) -> None:
    """Assert that the error is at most twice the reference's, both against float64."""
    exact = upscale("reference", in_float64(given))
    error, usual = (
        float((upscale(name, with_bfloat16_matrices(given)) - exact).abs().max()) for name in (sibling, "reference")
    )
    assert 0 < error <= 2 * usual, (error, usual)


@each_set
@pytest.mark.parametrize(
    "size",
    [
        SIZE,
        {**SIZE, "heads": 8, "dim": 256, "grid": (9, 65)},  # over several spans
        {**SIZE, "heads": 1, "dim": 12, "grid": (1, 17)},  # an odd number of channels
        {**SIZE, "heads": 3, "dim": 24, "tokens": 1, "grid": (2, 8)},
    ],
    ids=str,
)
def test_errors_are_at_most_twice_the_references(sibling: str, size: dict[str, Any]) -> None:
    check_error(sibling, arguments(OP, **size))


@each_set
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9])
def test_masks_of_a_prompt_do_not_depend_on_their_number(sibling: str, count: int) -> None:
    state, selected, factors, _, _, *rest, out = arguments(OP, **SIZE)
    generator = torch.Generator().manual_seed(2)
    index = torch.ones(count, dtype=torch.long)
    weights = torch.randn(count, 8, generator=generator)
    given = state, selected, factors, index, weights, *rest, out[:1].expand(count, -1, -1).contiguous()
    if not count:
        assert upscale(sibling, with_bfloat16_matrices(given)).shape == out[:0].shape
        return
    check_error(sibling, given)
    alone = [
        upscale(sibling, with_bfloat16_matrices((*given[:3], index[:1], w[None], *rest, out[:1].clone())))
        for w in weights
    ]
    assert torch.equal(upscale(sibling, with_bfloat16_matrices(given)), torch.cat(alone))


@each_set
def test_same_bits_for_any_number_of_threads(sibling: str) -> None:
    given = with_bfloat16_matrices(arguments(OP, **{**SIZE, "grid": (20, 33)}))
    torch.set_num_threads(1)
    expected = upscale(sibling, given)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(upscale(sibling, given), expected)


@each_set
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity_stay_within_their_image_token(sibling: str, value: float) -> None:
    state, *rest = with_bfloat16_matrices(arguments(OP, **SIZE))
    clean = upscale(sibling, (state, *rest))
    state[0, 0, 3, 9] = value  # token 9 (row 1, column 2) of state 0, which belongs to the second prompt of `selected`
    given = upscale(sibling, (state, *rest))
    of_prompt = rest[2] == 1
    assert not given[of_prompt, 4:8, 8:12].isfinite().any()
    given[of_prompt, 4:8, 8:12] = clean[of_prompt, 4:8, 8:12]
    assert torch.equal(given, clean)


@pytest.mark.parametrize("places", [(2,), (10,)])
def test_matrices_of_different_dtypes_are_refused(places: tuple[int, ...]) -> None:
    given = tuple(x.to(BF16) if i in places else x for i, x in enumerate(arguments(OP, **SIZE)))
    with pytest.raises(ValueError, match=r"(factors|conv2) must be torch"):
        ops.decoder_upscale(*given)
    half = tuple(x.half() if i in (2, 10) else x for i, x in enumerate(arguments(OP, **SIZE)))
    with pytest.raises(ValueError, match=r"factors must be torch\.float32, not torch\.float16"):
        ops.decoder_upscale(*half)


# --------------------------------------------------------------------------------------------------------------- models


PROMPTS = torch.rand(5, 1, 2, generator=torch.Generator().manual_seed(1)) * 128, torch.ones(5, 1)
EMBEDDING = torch.randn(1, 128, 8, 8, generator=torch.Generator().manual_seed(0))


def nano() -> SamModel:
    model = small_model()
    model.set_image_size(128)
    return model


@torch.no_grad()
@each_set
def test_logits_are_rounded_and_predicted_iou_is_not(sibling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sibling(monkeypatch, sibling)
    model = nano()
    plain, rounded = model.prepare(EMBEDDING), model.prepare(EMBEDDING, matrices=BF16)
    assert isinstance(rounded.image_decoder, TiledImage) and rounded.dtype == F32
    exact, iou = model._decode(plain, PromptTensors(*PROMPTS), True)
    logits, same_iou = model._decode(rounded, PromptTensors(*PROMPTS), True)
    assert torch.equal(iou, same_iou) and logits.dtype == F32
    assert 0 < (logits - exact).norm() < 0.01 * exact.norm()
    points_iou, some = model.decode_points(rounded, *PROMPTS, iou_threshold=float(iou.median()))
    assert torch.equal(points_iou, iou)
    chosen = [4, 0, 4], [2, 0, 1]
    given = some(*chosen)
    assert 0 < (given - exact[chosen]).norm() < 0.01 * exact[chosen].norm()


@torch.no_grad()
def test_matrices_dtype_is_ignored_by_pytorchs_decoding() -> None:
    """PyTorch decodes if weights are in half precision or a layer has hooks."""
    model = nano()
    cast = nano().bfloat16()
    same = [cast.decode_prompts(cast.prepare(EMBEDDING, None, kind), *PROMPTS) for kind in (BF16, F32)]
    model.mask_decoder.transformer.blocks[0].mlp.register_forward_hook(lambda *_: None)
    image = model.prepare(EMBEDDING, matrices=BF16)
    assert image.image_decoder is None, "the decoder itself is called"
    same += [model.decode_prompts(given, *PROMPTS) for given in (image, EMBEDDING)]
    for given, expected in zip(same[::2], same[1::2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


@torch.no_grad()
@native_alone
def test_prompts_with_masks_are_upscaled_in_bfloat16() -> None:
    model = nano()
    masks = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    made, exact = (model.decode_prompts(model.prepare(EMBEDDING, None, kind), masks=masks) for kind in (BF16, None))
    error = (made[0] - exact[0]).norm() / exact[0].norm()
    assert 0 < error < 0.01


def test_float16_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 or torch\.bfloat16, not torch\.float16"):
        nano().prepare(EMBEDDING, matrices=torch.float16)


@native_alone
def test_predictor_uses_bfloat16_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "why_not_bfloat16", lambda: "")
    monkeypatch.setattr(precision, "cpu_module", SimpleNamespace(has_native_bfloat16=lambda: True))
    predictor = Predictor(overrides={"model": small_model(), **QUIET})
    predictor.set_image(bgr_image(60, 90))
    features, wanted = predictor.features, predictor(bboxes=BOXES)[0]
    ours = predictor(bboxes=BOXES, dtype="bfloat16")[0]
    assert torch.equal(predictor.features, features), "this encoder stays float32"
    assert predictor.model.counts["encoded"] == 1
    assert (dense(ours) == dense(wanted)).mean() > 0.97
    model, image = predictor.model, predictor.current_image
    prepared = image.prepared(model, BF16)
    assert prepared.matrices == BF16 and image.prepared(model, BF16) is prepared
    assert image.prepared(model).matrices == F32
    assert len(predictor(**FEW, dtype="bfloat16")[0]) > 0
    assert predictor(bboxes=BOXES)[0].masks.rle == wanted.masks.rle, "float32 is as before"
