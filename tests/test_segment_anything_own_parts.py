"""Parts of the user's own: subclasses that use the private steps of Meta's classes, and parts of other classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meta_models
from fastsam_core.segment_anything import Sam, SamAutomaticMaskGenerator, SamPredictor, build_sam_vit_t, modeling
from fastsam_core.segment_anything.build_sam import _build_sam
from fastsam_core.segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom, PromptEncoder
from fastsam_core.segment_anything.modeling.transformer import Attention
from fastsam_core.segment_anything.utils.transforms import ResizeLongestSide
from golden_recipe import fill_state_dict
from golden_recipe import test_image as rgb_image

IMAGE = rgb_image(40, 56)
BOX = np.array([5, 6, 40, 33])


def small_sam() -> Sam:
    sam: Sam = meta_models.build_sam(modeling, "official")
    return sam


def predict(predictor: SamPredictor, **prompts: Any) -> tuple[np.ndarray, ...]:
    predictor.set_image(IMAGE)
    return predictor.predict(**(prompts or {"box": BOX}), return_logits=True)


def assert_close(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-3, atol=2e-3 * np.abs(other).max())


# -------------------------------------------------------------------------------------------------- the prompt encoder


@torch.no_grad()
def test_steps_of_the_prompt_encoder() -> None:
    encoder = small_sam().prompt_encoder
    points, labels = torch.tensor([[[10.0, 20], [70, 90]]]).expand(2, -1, -1), torch.tensor([[1, 0], [2, -1]])
    boxes, masks = torch.tensor([[5.0, 6, 70, 80], [1, 2, 30, 40]]), torch.randn(2, 1, 28, 28)
    padding = encoder.not_a_point_embed.weight[None].expand(2, 1, -1)
    tokens = encoder._embed_points(points, labels, pad=False)
    assert torch.equal(encoder._embed_points(points, labels, pad=True), torch.cat([tokens, padding], 1))
    assert torch.equal(encoder((points, labels), None, None)[0], torch.cat([tokens, padding], 1))
    assert torch.equal(encoder((points, labels), boxes, None)[0], torch.cat([tokens, encoder._embed_boxes(boxes)], 1))
    assert torch.equal(encoder(None, None, masks)[1], encoder._embed_masks(masks))
    sizes = [encoder._get_batch_size(*given) for given in (((points, labels), None, None), (None, boxes, masks))]
    assert sizes == [2, 2] and encoder._get_batch_size(None, None, None) == 1
    assert encoder._get_device() == torch.device("cpu")


def test_mask_input_size_follows_the_embedding_and_may_be_set() -> None:
    encoder = small_sam().prompt_encoder
    assert encoder.mask_input_size == (28, 28)
    encoder.image_embedding_size = (5, 5)
    assert encoder.mask_input_size == (20, 20)
    encoder.mask_input_size = (3, 4)  # in subclasses with a copy of Meta's `__init__`
    assert encoder.mask_input_size == (3, 4)


class LearntPositions(nn.Module):
    """A position encoding with the methods that a prompt encoder calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 32)

    def forward(self, size: tuple[int, int]) -> Tensor:
        ys, xs = torch.meshgrid(*(torch.arange(side) / side for side in size), indexing="ij")
        embedding: Tensor = self.linear(torch.stack([xs, ys], -1)).permute(2, 0, 1)
        return embedding

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        embedding: Tensor = self.linear(coords_input / image_size[0])
        return embedding


class Louder(PositionEmbeddingRandom):
    def _pe_encoding(self, coords: Tensor) -> Tensor:
        return 2 * super()._pe_encoding(coords)


@pytest.mark.parametrize("layer", [LearntPositions(), Louder(16)])
def test_position_encodings_of_their_own(layer: nn.Module) -> None:
    sam = small_sam()
    sam.prompt_encoder.pe_layer = layer  # type: ignore[assignment]
    corners = torch.from_numpy(SamPredictor(sam).transform.apply_boxes(BOX, IMAGE.shape[:2])).float().view(1, 2, 2)
    with torch.no_grad():
        positions = layer.forward_with_coords(corners + 0.5, (112, 112))
        embeddings = torch.cat([embedding.weight for embedding in sam.prompt_encoder.point_embeddings[2:]])
        found = sam.prompt_encoder(None, corners.view(1, 4), None)[0]
    torch.testing.assert_close(found, positions + embeddings)
    usual = predict(SamPredictor(small_sam()))
    assert np.abs(predict(SamPredictor(sam))[2] - usual[2]).max() > 0.1


class TextEncoder(nn.Module):
    """A prompt encoder that has nothing in common with this package's but its arguments and `get_dense_pe`."""

    def __init__(self, inner: PromptEncoder) -> None:
        super().__init__()
        self.inner, self.text = inner, nn.Parameter(torch.ones(1, 1, 32))

    def get_dense_pe(self) -> Tensor:
        return self.inner.get_dense_pe()

    def forward(self, points: Any, boxes: Any, masks: Any) -> tuple[Tensor, Tensor]:
        sparse, dense = self.inner(points, boxes, masks)
        return torch.cat([sparse, self.text.expand(len(sparse), -1, -1)], 1), dense


def test_prompt_encoder_of_another_class() -> None:
    sam = small_sam()
    encoder = sam.prompt_encoder
    sam.prompt_encoder = TextEncoder(encoder)  # type: ignore[assignment]
    options: dict[str, Any] = {"pred_iou_thresh": -9e9, "stability_score_thresh": 0, "box_nms_thresh": 1.0}
    found, records = predict(SamPredictor(sam)), SamAutomaticMaskGenerator(sam, 2, **options).generate(IMAGE)
    assert np.abs(found[2] - predict(SamPredictor(small_sam()))[2]).max() > 0.01
    encoder.register_forward_hook(
        lambda module, args, out: (torch.cat([out[0], torch.ones(len(out[0]), 1, 32)], 1), out[1])
    )
    sam.prompt_encoder = encoder
    assert_close(found, predict(SamPredictor(sam)))
    expected = SamAutomaticMaskGenerator(sam, 2, **options).generate(IMAGE)
    assert len(records) == len(expected) == 12
    for record, other in zip(records, expected, strict=True):
        assert record["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-3)


# ---------------------------------------------------------------------------------------------------------- the decoder


class LowRank(Attention):
    """Attention with an adapter, written with the helpers of Meta's class."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.internal_dim = self.q_proj.out_features
        self.down, self.up = nn.Linear(self.embedding_dim, 2), nn.Linear(2, self.internal_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        projected = self.q_proj(q) + self.up(self.down(q)), self.k_proj(k), self.v_proj(v)
        queries, keys, values = (self._separate_heads(x, self.num_heads) for x in projected)
        weights = (queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])).softmax(-1)
        out: Tensor = self.out_proj(self._recombine_heads(weights @ values))
        return out


def test_attention_with_an_adapter_in_a_subclass() -> None:
    torch.manual_seed(0)
    sam, usual = small_sam(), predict(SamPredictor(small_sam()))
    for block in sam.mask_decoder.transformer.blocks:
        original, adapted = block.cross_attn_token_to_image, LowRank(32, 4, 2)
        adapted.load_state_dict(original.state_dict(), strict=False)
        block.cross_attn_token_to_image = adapted
    assert np.abs(predict(SamPredictor(sam))[2] - usual[2]).max() > 0.01
    for module in sam.modules():
        if isinstance(module, LowRank):
            nn.init.zeros_(module.up.weight)
            nn.init.zeros_(module.up.bias)
    assert_close(predict(SamPredictor(sam)), usual)


class Joining(nn.Module):
    """A transformer that needs as many position embeddings as images, and looks at all objects together."""

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Linear(64, 32)

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        source = self.join(torch.cat([image, positions], 1).flatten(2).transpose(1, 2))
        return tokens - tokens.mean(0, keepdim=True) + source.mean(1, keepdim=True), source


def test_transformer_of_another_class_gets_all_objects_at_once() -> None:
    torch.manual_seed(0)
    sam, transformer = small_sam(), Joining()
    decoder = modeling.MaskDecoder(transformer_dim=32, transformer=transformer)  # type: ignore[arg-type]
    decoder.load_state_dict(fill_state_dict(decoder.state_dict()))
    predictor = SamPredictor(Sam(sam.image_encoder, sam.prompt_encoder, decoder).eval())
    predictor.set_image(IMAGE)
    points, labels = torch.rand(20, 1, 2) * 80, torch.ones(20, 1)
    _, scores, low_res = predictor.predict_torch(points, labels)
    features = predictor.get_image_embedding()
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder((points, labels), None, None)
        expected, expected_scores = decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    torch.testing.assert_close((low_res, scores), (expected, expected_scores), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_records_of_decoders_with_another_number_of_masks(count: int) -> None:
    usual = small_sam()
    decoder = modeling.MaskDecoder(
        transformer_dim=32, transformer=usual.mask_decoder.transformer, num_multimask_outputs=count
    )
    decoder.load_state_dict(fill_state_dict(decoder.state_dict()))
    sam = Sam(usual.image_encoder, usual.prompt_encoder, decoder).eval()
    options: dict[str, Any] = {"pred_iou_thresh": -9e9, "stability_score_thresh": -1, "box_nms_thresh": 1.0}
    records = SamAutomaticMaskGenerator(sam, 2, **options).generate(IMAGE)
    assert len(records) == 4 * count
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    for record in records:
        masks, scores, _ = predictor.predict(np.array(record["point_coords"]), np.array([1]))
        assert masks.shape == (count, 40, 56)
        index = np.abs(scores - record["predicted_iou"]).argmin()
        assert scores[index] == pytest.approx(record["predicted_iou"], abs=1e-4)
        assert (masks[index] != record["segmentation"]).mean() < 0.002


# ------------------------------------------------------------------------------------------------------- whole models


class OwnSam(nn.Module):
    """A model of another class that has the parts and methods of Meta's `Sam`."""

    mask_threshold, image_format = 0.2, "RGB"

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.image_encoder, self.prompt_encoder = sam.image_encoder, sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder

    def preprocess(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x / 255, (0, 112 - x.shape[3], 0, 112 - x.shape[2]))

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        square = nn.functional.interpolate(masks, (112, 112), mode="bilinear")
        return nn.functional.interpolate(square[..., : input_size[0], : input_size[1]], original_size, mode="bilinear")


class WithoutNormalisation(Sam):
    mask_threshold = 0.2
    preprocess = OwnSam.preprocess  # type: ignore[assignment]
    postprocess_masks = OwnSam.postprocess_masks


def test_models_of_another_class_or_with_other_methods() -> None:
    sam = small_sam()
    own = OwnSam(sam).eval()
    subclass = WithoutNormalisation(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder).eval()
    normalised = Sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, [0.0] * 3, [255.0] * 3).eval()
    normalised.mask_threshold = 0.2
    expected = predict(SamPredictor(normalised))
    options: dict[str, Any] = {"pred_iou_thresh": -9e9, "stability_score_thresh": 0, "box_nms_thresh": 1.0}
    records = SamAutomaticMaskGenerator(normalised, 3, **options).generate(IMAGE)
    for model in (own, subclass):
        predictor = SamPredictor(model)
        assert predictor.model is model and predictor.device == torch.device("cpu")
        assert_close(predict(predictor), expected)
        found = SamAutomaticMaskGenerator(model, 3, **options).generate(IMAGE)
        assert len(found) == len(records) > 3
        for record, other in zip(*(sorted(x, key=lambda y: y["predicted_iou"]) for x in (found, records)), strict=True):
            assert record["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-3)
            assert (record["segmentation"] != other["segmentation"]).mean() < 0.01


class Named(Sam):
    """A model with methods of its own under names that this package uses."""

    def encode_image(self, path: str) -> Tensor:  # type: ignore[override]
        raise AssertionError(path)

    def prepare(self, batch: list[Tensor]) -> Tensor:  # type: ignore[override]
        raise AssertionError(batch)

    decode_prompts = decode_points = prepare  # type: ignore[assignment]


def test_subclass_may_use_the_names_of_methods_that_metas_class_lacks() -> None:
    sam = small_sam()
    parts = sam.image_encoder, sam.prompt_encoder, sam.mask_decoder
    models = [kind(*parts).eval() for kind in (Named, Sam)]
    assert_close(*(predict(SamPredictor(model)) for model in models))
    named, usual = (
        SamAutomaticMaskGenerator(model, 2, pred_iou_thresh=-9e9, stability_score_thresh=0).generate(IMAGE)
        for model in models
    )
    assert len(named) == len(usual) > 0
    for record, other in zip(named, usual, strict=True):
        assert (record["segmentation"] != other["segmentation"]).mean() < 0.01


@torch.no_grad()
def test_models_for_images_of_four_channels() -> None:
    usual, side = small_sam(), 112
    encoder = meta_models.build_encoder(modeling, {**meta_models.ENCODERS["official"], "in_chans": 4})
    sam = Sam(encoder, usual.prompt_encoder, usual.mask_decoder, [1.0, 2, 3, 4], [5.0, 6, 7, 8]).eval()
    image = torch.full((4, 80, side), 9.0)
    (found,) = sam([{"image": image, "original_size": (40, 56)}], multimask_output=False)
    pixels = nn.functional.pad((image - sam.pixel_mean) / sam.pixel_std, (0, 0, 0, side - 80))
    embedding = encoder(pixels[None])
    low_res, _ = sam.decode_prompts(embedding)
    torch.testing.assert_close(found["low_res_logits"], low_res)


def test_subclass_may_set_the_input_size_as_an_attribute() -> None:
    class Sized(Sam):
        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            self.image_size = 112

    sam = small_sam()
    parts = sam.image_encoder, sam.prompt_encoder, sam.mask_decoder
    assert_close(predict(SamPredictor(Sized(*parts).eval())), predict(SamPredictor(Sam(*parts).eval())))


def test_builder_with_sizes_of_the_users_own(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"encoder_embed_dim": 48, "encoder_depth": 2, "encoder_num_heads": 3}
    sam = _build_sam(**sizes, encoder_global_attn_indexes=[1])
    assert isinstance(sam, Sam) and not sam.training and sam.image_encoder.img_size == 1024
    assert [block.window_size for block in sam.image_encoder.blocks] == [14, 0]  # type: ignore[union-attr]
    torch.save(sam.state_dict(), tmp_path / "own.pth")
    again = _build_sam(**sizes, encoder_global_attn_indexes=[1], checkpoint=tmp_path / "own.pth")
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in sam.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Missing key.*image_encoder\.blocks\.2"):
        _build_sam(48, 3, 3, [1], tmp_path / "own.pth")


MOBILE_SAM: dict[str, Any] = {
    **{"img_size": 1024, "in_chans": 3, "num_classes": 1000, "embed_dims": [64, 128, 160, 320], "depths": [2, 2, 6, 2]},
    **{"num_heads": [2, 4, 5, 10], "window_sizes": [7, 7, 14, 7], "mlp_ratio": 4.0, "drop_rate": 0.0},
    **{"drop_path_rate": 0.0, "use_checkpoint": False, "mbconv_expand_ratio": 4.0, "local_conv_size": 3},
    **{"layer_lr_decay": 0.8},
}


def test_encoder_of_mobile_sam_is_built_as_in_its_package() -> None:
    encoder, built = modeling.TinyViT(**MOBILE_SAM), build_sam_vit_t(None).image_encoder
    assert type(encoder) is type(built) and encoder.img_size == 1024
    state = fill_state_dict(built.state_dict())
    classifier = {"norm_head.weight": torch.ones(320), "head.bias": torch.ones(1000)}  # as in its checkpoint
    encoder.load_state_dict({**state, **classifier})
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*headless\.bias"):
        encoder.load_state_dict({**state, "headless.bias": torch.ones(1)})
    with pytest.raises(ValueError, match=r"drop_path_rate must be 0, not 0\.1"):
        modeling.TinyViT(**{**MOBILE_SAM, "drop_path_rate": 0.1})
    with pytest.raises(TypeError, match="TinyViT has no argument 'patch_size'"):
        modeling.TinyViT(**MOBILE_SAM, patch_size=16)


# -------------------------------------------------------------------------------------------------------- predictors


class Minimal(SamPredictor):
    """A predictor whose methods don't call those of `SamPredictor`."""

    def __init__(self, model: Sam) -> None:
        self.model = model
        self.transform = ResizeLongestSide(model.image_encoder.img_size)  # type: ignore[arg-type]

    def reset_image(self) -> None:
        self.is_image_set, self.features = False, None


def test_predictor_that_overrides_its_construction() -> None:
    assert_close(predict(Minimal(small_sam())), predict(SamPredictor(small_sam())))


def test_embedding_may_be_restored_after_a_reset() -> None:
    predictor = SamPredictor(small_sam())
    expected = predict(predictor)
    features = predictor.features
    predictor.reset_image()
    with pytest.raises(RuntimeError, match="no image is set"):
        predictor.predict(box=BOX)
    predictor.features, predictor.is_image_set = features, True
    assert_close(predictor.predict(box=BOX, return_logits=True), expected)


def test_batch_of_tensors_is_encoded_together() -> None:
    sam, predictor = small_sam(), SamPredictor(small_sam())
    images = torch.rand(3, 3, 112, 80) * 255
    predictor.set_torch_image(images, (56, 40))
    with torch.no_grad():
        expected = sam.image_encoder(sam.preprocess(images))
    torch.testing.assert_close(predictor.get_image_embedding(), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"embedding has shape \(3, 32, 7, 7\), .* takes \(1, 32, 7, 7\)"):
        predictor.predict(box=BOX)
