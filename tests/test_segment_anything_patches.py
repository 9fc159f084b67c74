"""Methods, settings and layers that a user replaces in models, classes and predictors, before or after first use.

Each result is compared with that of calling the model's parts one by one, as Meta's predictor does, with gradients
enabled, which native code can't take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meta_models
from fastsam_core.models import module_cache, sam_model
from fastsam_core.segment_anything import Sam, SamPredictor, modeling
from fastsam_core.segment_anything.modeling.common import LayerNorm2d, MLPBlock
from fastsam_core.segment_anything.modeling.image_encoder import Attention, Block, PatchEmbed
from fastsam_core.segment_anything.modeling.mask_decoder import MLP, MaskDecoder
from fastsam_core.segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom, PromptEncoder
from fastsam_core.segment_anything.modeling.transformer import Attention as DecoderAttention
from fastsam_core.segment_anything.modeling.transformer import TwoWayAttentionBlock, TwoWayTransformer
from fastsam_core.segment_anything.utils.transforms import ResizeLongestSide
from golden_recipe import test_image as rgb_image

IMAGE = rgb_image(40, 56)
POINTS, LABELS, BOX = np.array([[20.0, 12], [40, 30]]), np.array([1, 0]), np.array([5.0, 6, 40, 33])
MASK = np.linspace(-4, 4, 28 * 28, dtype=np.float32).reshape(1, 28, 28)


def build_sam() -> Sam:
    sam: Sam = meta_models.build_sam(modeling, "official")
    return sam


def by_hand(predictor: SamPredictor) -> tuple[np.ndarray, ...]:
    """Return what `predict` should for these prompts: masks as logits, scores and low-resolution logits."""
    model, transform, size = predictor.model, predictor.transform, IMAGE.shape[:2]
    with torch.enable_grad():
        image = torch.from_numpy(transform.apply_image(IMAGE).copy()).permute(2, 0, 1)[None]
        features = model.image_encoder(model.preprocess(image))
        points = torch.from_numpy(transform.apply_coords(POINTS, size)).float()[None]
        box = torch.from_numpy(transform.apply_boxes(BOX, size)).float()
        labels, mask = torch.from_numpy(LABELS)[None], torch.from_numpy(MASK)[None]
        sparse, dense = model.prompt_encoder((points, labels), box, mask)
        low_res, scores = model.mask_decoder(
            image_embeddings=features,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        masks = model.postprocess_masks(low_res, tuple(image.shape[2:]), size)
    return tuple(x[0].detach().numpy() for x in (masks, scores, low_res))


def predict(predictor: SamPredictor) -> tuple[np.ndarray, ...]:
    return predictor.predict(POINTS, LABELS, BOX, MASK, return_logits=True)


def assert_close(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-3, atol=2e-3 * np.abs(other).max())


def differ(found: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, other, strict=True)) > 0.01


def scaled(value: Any) -> Any:
    """Return the value of a patched method: another than the original's, of the same kind."""
    if isinstance(value, tuple):
        return tuple(map(scaled, value))
    if value.dtype == np.uint8:
        return 255 - value
    return value * 1.5


PATCHES: list[tuple[type, str]] = [
    *[(layer, "forward") for layer in (PatchEmbed, Block, Attention, MLPBlock, LayerNorm2d)],
    *[(layer, "forward") for layer in (TwoWayTransformer, TwoWayAttentionBlock, DecoderAttention, MLP)],
    *[(MaskDecoder, "forward"), (MaskDecoder, "predict_masks"), (nn.Linear, "forward"), (nn.GELU, "forward")],
    *[(PromptEncoder, name) for name in ("forward", "_embed_points", "_embed_boxes", "_embed_masks", "get_dense_pe")],
    *[(PositionEmbeddingRandom, name) for name in ("forward", "forward_with_coords", "_pe_encoding")],
    *[(Sam, "preprocess"), (Sam, "postprocess_masks")],
    *[(ResizeLongestSide, "apply_image"), (ResizeLongestSide, "apply_coords")],
]


@pytest.mark.parametrize(("owner", "name"), PATCHES, ids=[f"{owner.__name__}.{name}" for owner, name in PATCHES])
def test_methods_replaced_in_a_class_are_called(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, original = SamPredictor(build_sam()), getattr(owner, name)
    predictor.set_image(IMAGE)
    usual = predict(predictor)
    assert_close(usual, by_hand(predictor))
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: scaled(original(*args, **kwargs)))
    predictor.set_image(IMAGE)
    assert differ(predict(predictor), usual)
    assert_close(predict(predictor), by_hand(predictor))
    monkeypatch.undo()
    predictor.set_image(IMAGE)
    assert_close(predict(predictor), usual)


def test_decoder_class_that_is_patched_between_two_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, original = SamPredictor(build_sam()), MaskDecoder.predict_masks
    predictor.set_image(IMAGE)
    _, scores, low_res = predict(predictor)
    monkeypatch.setattr(MaskDecoder, "predict_masks", lambda *args, **kwargs: scaled(original(*args, **kwargs)))
    found = predict(predictor)
    np.testing.assert_allclose(found[1], 1.5 * scores, rtol=1e-3)
    np.testing.assert_allclose(found[2], 1.5 * low_res, atol=2e-3 * np.abs(low_res).max())


def replace_method(get: Callable[[Sam], Any], name: str) -> Callable[[SamPredictor], None]:
    """Return a function that replaces a method in the object that `get` finds in a model."""

    def change(predictor: SamPredictor) -> None:
        owner = get(predictor.model)
        original = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: scaled(original(*args, **kwargs)))

    return change


def set_all(kind: type[nn.Module], name: str, value: Any) -> Callable[[SamPredictor], None]:
    """Return a function that sets an attribute of all layers of a kind in the prompt encoder and the decoder."""

    def change(predictor: SamPredictor) -> None:
        for part in (predictor.model.prompt_encoder, predictor.model.mask_decoder):
            for layer in part.modules():
                if isinstance(layer, kind):
                    setattr(layer, name, value)

    return change


def replace_activation(predictor: SamPredictor) -> None:
    predictor.model.mask_decoder.output_upscaling[2] = nn.ReLU()


def halve_mask_tokens(predictor: SamPredictor) -> None:
    predictor.model.mask_decoder.num_mask_tokens = 2


CHANGES: dict[str, Callable[[SamPredictor], None]] = {
    "eps of LayerNorm": set_all(nn.LayerNorm, "eps", 0.5),
    "eps of LayerNorm2d": set_all(LayerNorm2d, "eps", 0.5),
    "heads": set_all(DecoderAttention, "num_heads", 2),
    "first layer's positions": set_all(TwoWayAttentionBlock, "skip_first_layer_pe", True),
    "sigmoid": set_all(MLP, "sigmoid_output", True),
    "activation": replace_activation,
    "mask tokens": halve_mask_tokens,
    "predict_masks": replace_method(lambda sam: sam.mask_decoder, "predict_masks"),
    "decoder's forward": replace_method(lambda sam: sam.mask_decoder, "forward"),
    "transformer's forward": replace_method(lambda sam: sam.mask_decoder.transformer, "forward"),
    "get_dense_pe": replace_method(lambda sam: sam.prompt_encoder, "get_dense_pe"),
    "_embed_points": replace_method(lambda sam: sam.prompt_encoder, "_embed_points"),
    "_embed_boxes": replace_method(lambda sam: sam.prompt_encoder, "_embed_boxes"),
    "_embed_masks": replace_method(lambda sam: sam.prompt_encoder, "_embed_masks"),
    "_pe_encoding": replace_method(lambda sam: sam.prompt_encoder.pe_layer, "_pe_encoding"),
    "postprocess_masks": replace_method(lambda sam: sam, "postprocess_masks"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_between_two_clicks_take_effect(change: Callable[[SamPredictor], None]) -> None:
    predictor = SamPredictor(build_sam())
    predictor.set_image(IMAGE)
    usual = predict(predictor)
    change(predictor)
    found = predict(predictor)
    assert usual[0].shape != found[0].shape or differ(found, usual)
    # The image encoder is the same, so these are what a new predictor finds.
    assert_close(found, by_hand(predictor))


def test_position_embedding_that_depends_on_something_else() -> None:
    predictor, factor = SamPredictor(build_sam()), 1.0
    original = predictor.model.prompt_encoder.get_dense_pe
    predictor.model.prompt_encoder.get_dense_pe = lambda: factor * original()  # type: ignore[method-assign]
    predictor.set_image(IMAGE)
    usual = predict(predictor)
    factor = 2.0
    found = predict(predictor)
    assert differ(found, usual)
    assert_close(found, by_hand(predictor))


def new_mean(sam: Sam) -> None:
    sam.pixel_mean.data = torch.full((3, 1, 1), 200.0)


def new_deviation(sam: Sam) -> None:
    sam.pixel_std.data[0] = 9


def one_value_for_all_channels(sam: Sam) -> None:
    sam.pixel_mean, sam.pixel_std = torch.tensor([[[90.0]]]), torch.tensor([[[70.0]]])


def preprocess(sam: Sam) -> None:
    replace_method(lambda sam: sam, "preprocess")(SamPredictor(sam))


def window(sam: Sam) -> None:
    sam.image_encoder.blocks[0].window_size = 0  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [new_mean, new_deviation, one_value_for_all_channels, preprocess, window])
def test_changes_between_two_images_take_effect(change: Callable[[Sam], None]) -> None:
    predictor = SamPredictor(build_sam())
    predictor.set_image(IMAGE)
    usual = predict(predictor)
    change(predictor.model)
    predictor.set_image(IMAGE)
    assert differ(predict(predictor), usual)
    assert_close(predict(predictor), by_hand(predictor))


class Inverting(ResizeLongestSide):
    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return 255 - super().apply_image(image)

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, ...]) -> np.ndarray:
        return super().apply_coords(coords, original_size) + 2


def test_transform_of_the_users_own_is_applied() -> None:
    predictor = SamPredictor(build_sam())
    predictor.set_image(IMAGE)
    usual = predict(predictor)
    predictor.transform = Inverting(112)
    predictor.set_image(IMAGE)
    assert differ(predict(predictor), usual)
    assert_close(predict(predictor), by_hand(predictor))


def test_transform_follows_the_models_input_size() -> None:
    sam = build_sam()
    predictor = SamPredictor(sam)
    sam.set_image_size(96)
    predictor.set_image(IMAGE)
    expected = SamPredictor(sam)
    expected.set_image(IMAGE)
    for array, other in zip(predictor.predict(box=BOX), expected.predict(box=BOX), strict=True):
        np.testing.assert_array_equal(array, other)


def test_overridden_set_torch_image_gets_the_scaled_image() -> None:
    class Negative(SamPredictor):
        def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
            super().set_torch_image(255 - transformed_image.float(), original_image_size)

    negative, predictor = Negative(build_sam()), SamPredictor(build_sam())
    negative.set_image(IMAGE)
    predictor.set_image(IMAGE)
    assert differ(predict(negative), predict(predictor))
    predictor.transform.apply_image = lambda image: 255 - ResizeLongestSide(112).apply_image(image)  # type: ignore
    predictor.set_image(IMAGE)
    assert_close(predict(negative), predict(predictor))


def test_model_whose_images_are_bgr() -> None:
    sam = build_sam()
    expected = SamPredictor(sam)
    expected.set_image(IMAGE[..., ::-1])
    bgr = build_sam()
    bgr.image_format = "BGR"
    predictor = SamPredictor(bgr)
    for image, image_format in ((IMAGE, "RGB"), (IMAGE[..., ::-1], "BGR")):
        predictor.set_image(image, image_format)
        assert_close(predict(predictor), predict(expected))


@pytest.mark.parametrize("part", ["prompt_encoder", "mask_decoder", "mask_decoder.transformer"])
def test_hooks_see_all_objects_of_a_call_at_once(part: str) -> None:
    sam, counts = build_sam(), list[int]()
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    points, labels = torch.rand(20, 1, 2) * 80, torch.ones(20, 1)
    usual = predictor.predict_torch(points, labels)[1:]
    sam.get_submodule(part).register_forward_hook(lambda module, args, out: counts.append(len(out[0])))
    torch.testing.assert_close(predictor.predict_torch(points, labels)[1:], usual, rtol=1e-3, atol=1e-3)
    assert counts == [20]


def test_methods_without_their_no_grad_are_differentiable() -> None:
    predictor = SamPredictor(build_sam())
    image = torch.rand(1, 3, 80, 112).mul_(255).requires_grad_()
    SamPredictor.set_torch_image.__wrapped__(predictor, image, (40, 56))  # type: ignore[attr-defined]
    points, labels = torch.rand(2, 1, 2) * 80, torch.ones(2, 1)
    predict_torch = SamPredictor.predict_torch.__wrapped__  # type: ignore[attr-defined]
    logits, scores, _ = predict_torch(predictor, points, labels, return_logits=True)
    (logits.mean() + scores.sum()).backward()
    assert image.grad is not None and image.grad.abs().max() > 0
    expected = predictor.predict_torch(points, labels, return_logits=True)
    assert not expected[0].requires_grad
    torch.testing.assert_close((logits, scores), expected[:2], rtol=1e-3, atol=1e-3)


def test_tokens_of_points_that_depend_on_something_else_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU those of a grid of points are, and so here."""
    monkeypatch.setattr(module_cache, "CACHED_DEVICES", ["cpu"])
    monkeypatch.setattr(sam_model, "can_use_native", lambda *tensors: False)
    sam, factor = build_sam(), 1.0
    image, original = sam.prepare(torch.zeros(1, 32, 7, 7)), sam.prompt_encoder._embed_points
    given = torch.rand(6, 1, 2) * 80, torch.ones(6, 1, dtype=torch.int64)
    usual = sam._point_tokens(image, *given)
    assert sam._point_tokens(image, *given) is usual
    sam.prompt_encoder._embed_points = lambda *args, **given: factor * original(*args, **given)  # type: ignore
    for factor in (1.0, 2.0, 3.0):
        torch.testing.assert_close(sam._point_tokens(image, *given), factor * usual)
