"""Tests of `SamAutomaticMaskGenerator` of the interface of Meta's package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

import golden_recipe
from fastsam_core import Predictor, segment_anything
from fastsam_core.models.mask_scoring import OFFICIAL
from fastsam_core.segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from fastsam_core.segment_anything.utils.amg import MaskData
from small_model import FEW, QUIET, small_model, small_weights

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def sam() -> segment_anything.Sam:
    """Return sam_nano with the recipe's weights and an input size of 128."""
    model = segment_anything.build_sam_nano(None)
    model.load_state_dict(small_weights())
    model.set_image_size(128)
    return model


class Stepwise(SamAutomaticMaskGenerator):
    """A generator that overrides one of the steps, so that all are called as methods."""

    def _process_batch(self, *args: Any) -> MaskData:
        return super()._process_batch(*args)


@pytest.mark.parametrize("kind", [SamAutomaticMaskGenerator, Stepwise])
@pytest.mark.parametrize(
    ("name", "mode"), [("landscape", "binary_mask"), ("crops", "coco_rle"), ("small_regions", "uncompressed_rle")]
)
def test_generated_records_match_reference(
    name: str, mode: str, kind: type[SamAutomaticMaskGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the golden file's blobs in place of the network, the records and their order are the reference's."""
    golden = json.loads((DATA / f"everything_{name}.json").read_text())
    model = segment_anything.build_sam_nano(None)
    model.set_image_size(1024)
    model.mask_scoring = OFFICIAL
    batches = iter(range(10**6))

    def decode(image: Any, points: torch.Tensor, labels: torch.Tensor, iou_threshold: float) -> Any:
        batch = points[:, 0].double().numpy() / 4
        logits, scores = map(torch.from_numpy, golden_recipe.blob_logits(batch, golden["seed"] + next(batches)))
        return scores, lambda point_index, mask_index: logits[point_index, mask_index]

    monkeypatch.setattr(model, "encode_image", lambda images, dtype=None: torch.zeros(1, 128, 64, 64))
    monkeypatch.setattr(model, "decode_points", decode)
    # By default the model chooses, but the golden files were made with batches of 64.
    monkeypatch.setattr(model, "points_per_batch", lambda dtype: 64)
    generator = kind(model, **{**golden["config"], "output_mode": mode})
    records = generator.generate(np.zeros((*golden["image_size"], 3), np.uint8))
    assert len(records) == len(golden["masks"]) > 0
    for record, expected in zip(records, golden["masks"], strict=True):
        assert list(record) == list(expected)
        assert record["predicted_iou"] == expected["predicted_iou"] and record["crop_box"] == expected["crop_box"]
        assert type(record["area"]) is int and abs(record["area"] - expected["area"]) <= 3
        np.testing.assert_allclose(record["bbox"], expected["bbox"], atol=1)
        np.testing.assert_allclose(record["point_coords"], expected["point_coords"], atol=1e-3)
        found = record["segmentation"]
        if mode == "binary_mask":
            assert found.dtype == bool and found.shape == tuple(golden["image_size"])
            found = coco.encode(np.asfortranarray(found.astype(np.uint8)))
        elif mode == "uncompressed_rle":
            assert found["size"] == golden["image_size"] and all(type(count) is int for count in found["counts"])
            found = coco.frPyObjects(found, *found["size"])
        else:
            assert type(found["counts"]) is str
            found = {**found, "counts": found["counts"].encode()}
        theirs = {**expected["segmentation"], "counts": expected["segmentation"]["counts"].encode()}
        assert coco.area(found) == record["area"] and coco.iou([found], [theirs], [0])[0, 0] >= 0.9999


@pytest.mark.parametrize("given", [{}, {"points_per_batch": 64}, {"points_per_batch": 5}])
def test_model_chooses_the_size_of_batches_unless_another_is_given(
    given: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sizes = segment_anything.build_sam_nano(), list[int]()
    model.set_image_size(128)
    decode = model.decode_points

    def counting(image: Any, points: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(points))
        return decode(image, points, *args, **kwargs)

    monkeypatch.setattr(model, "decode_points", counting)
    monkeypatch.setattr(model, "points_per_batch", lambda dtype: 7)
    generator = SamAutomaticMaskGenerator(model, 3, **given)
    generator.generate(golden_recipe.test_image(48, 80))
    assert generator.points_per_batch == given.get("points_per_batch", 64)
    assert sizes == ([5, 4] if generator.points_per_batch == 5 else [7, 2])


# ------------------------------------------------------------------------------------------------------------ predictor


def test_generator_matches_segment_everything(sam: segment_anything.Sam) -> None:
    image = golden_recipe.test_image(48, 80)
    generator = SamAutomaticMaskGenerator(sam, 2, pred_iou_thresh=0, stability_score_thresh=0, crop_n_layers=1)
    records = generator.generate(image)
    options = {**QUIET, **FEW, "crop_n_layers": 1, "min_mask_region_area": 0, "model": small_model()}
    (result,) = Predictor(overrides=options)(image[..., ::-1].copy())
    assert len(records) == len(result) > 0
    for place, record in enumerate(records):
        assert record["segmentation"].dtype == bool
        np.testing.assert_array_equal(record["segmentation"], result.masks.pixels(place))
        assert record["area"] == record["segmentation"].sum()
    own = SamAutomaticMaskGenerator(
        sam, None, point_grids=[np.array([[0.5, 0.5]])], pred_iou_thresh=-1, stability_score_thresh=0
    )
    assert {tuple(record["point_coords"][0]) for record in own.generate(image)} == {(40.0, 24.0)}


def test_generator_refuses_invalid_arguments_and_images(sam: segment_anything.Sam) -> None:
    for arguments, message in (
        ({"points_per_side": None}, "either points_per_side or point_grids"),
        ({"point_grids": [np.zeros((1, 2))]}, "either points_per_side or point_grids"),
        ({"output_mode": "polygon"}, "output_mode must be one of binary_mask, uncompressed_rle, coco_rle"),
        ({"box_nms_thresh": 2}, "iou must be a finite number from 0 to 1"),
        ({"points_per_side": 2, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2}, "without a point"),
        ({"crop_n_layers": 1, "crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SamAutomaticMaskGenerator(sam, **arguments)
    for name in ("crop_n_layers", "crop_n_points_downscale_factor", "pred_iou_thresh"):
        with pytest.raises(TypeError, match=f"{name} must be a"):
            SamAutomaticMaskGenerator(sam, **{name: "2"})
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), "photo.jpg"):
        with pytest.raises(ValueError, match="image must be an RGB array"):
            SamAutomaticMaskGenerator(sam).generate(image)  # type: ignore[arg-type]


def test_generator_warns_if_default_thresholds_do_not_suit_the_model(
    sam: segment_anything.Sam, caplog: pytest.LogCaptureFixture
) -> None:
    SamAutomaticMaskGenerator(sam, pred_iou_thresh=0.4)
    SamAutomaticMaskGenerator(sam_model_registry["vit_t"]())
    assert not caplog.records
    SamAutomaticMaskGenerator(sam)
    assert "pred_iou_thresh=0.45, stability_score_thresh=0.5 suit it" in caplog.text


# -------------------------------------------------------------------------------------------------- models, transforms


def test_invalid_points_per_side_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 2048"):
        SamAutomaticMaskGenerator(small_model(), points_per_side=10**6)
    with pytest.raises(TypeError, match="points_per_side must be an integer"):
        SamAutomaticMaskGenerator(small_model(), points_per_side="32")
