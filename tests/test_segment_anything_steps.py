"""The steps of `SamAutomaticMaskGenerator`, which code written for Meta's package calls and overrides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fastsam_core.models.mask_scoring import OFFICIAL
from fastsam_core.segment_anything import Sam, SamAutomaticMaskGenerator, SamPredictor, build_sam_nano
from fastsam_core.segment_anything.utils.amg import MaskData, mask_to_rle_pytorch, rle_to_mask
from fastsam_core.segment_anything.utils.transforms import ResizeLongestSide

# Thresholds that some of the masks pass.
OPTIONS: dict[str, Any] = {"points_per_side": 6, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.6}
UNFILTERED = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
CROPS = {**OPTIONS, "points_per_side": 4, "crop_n_layers": 1, "min_mask_region_area": 30}


@pytest.fixture(scope="module")
def sam() -> Sam:
    """Return sam_nano with its weights, scored as the official models are, and a small input."""
    model = build_sam_nano()
    model.mask_scoring = OFFICIAL
    model.set_image_size(256)
    return model


def drawing() -> np.ndarray:
    """Return an RGB image, uint8 (150, 200, 3), of shapes on a plain background."""
    image = np.full((150, 200, 3), (200, 205, 190), np.uint8)
    cv2.circle(image, (45, 40), 25, (180, 30, 30), -1)
    cv2.rectangle(image, (100, 15), (180, 60), (30, 60, 160), -1)
    cv2.ellipse(image, (70, 110), (50, 22), 15, 0, 360, (40, 130, 50), -1)
    cv2.rectangle(image, (140, 85), (175, 135), (230, 180, 20), -1)
    return image


IMAGE = drawing()


def assert_same_records(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 3
    for record, other in zip(found, expected, strict=True):
        assert list(record) == list(other)
        assert np.array_equal(record["segmentation"], other["segmentation"])
        for name in ("predicted_iou", "stability_score"):
            assert record[name] == pytest.approx(other[name], abs=1e-5)
        for name in ("area", "bbox", "point_coords", "crop_box"):
            assert record[name] == other[name]


class OwnMasks(SamAutomaticMaskGenerator):
    def _generate_masks(self, image: np.ndarray) -> MaskData:
        return super()._generate_masks(image)


class OwnCrop(SamAutomaticMaskGenerator):
    def _process_crop(self, *args: Any) -> MaskData:
        return super()._process_crop(*args)


class OwnBatch(SamAutomaticMaskGenerator):
    def _process_batch(self, *args: Any) -> MaskData:
        return super()._process_batch(*args)


class OwnPostprocessing(SamAutomaticMaskGenerator):
    @staticmethod
    def postprocess_small_regions(*args: Any) -> MaskData:
        return SamAutomaticMaskGenerator.postprocess_small_regions(*args)


class OwnPrediction(SamAutomaticMaskGenerator):
    """A generator whose predictor is of a class of its own, with masks of full size."""

    class Predictor(SamPredictor):
        def predict_torch(self, *args: Any, **kwargs: Any) -> Any:
            return super().predict_torch(*args, **kwargs)

    def __init__(self, model: Sam, **options: Any) -> None:
        super().__init__(model, **options)
        self.predictor = self.Predictor(model)


@pytest.mark.parametrize("options", [OPTIONS, CROPS, UNFILTERED], ids=["image", "crops", "unfiltered"])
@pytest.mark.parametrize("kind", [OwnMasks, OwnCrop, OwnBatch, OwnPostprocessing, OwnPrediction])
def test_overridden_steps_that_change_nothing_give_the_same_records(
    sam: Sam, kind: type[SamAutomaticMaskGenerator], options: dict[str, Any]
) -> None:
    expected = SamAutomaticMaskGenerator(sam, **options).generate(IMAGE)
    assert_same_records(kind(sam, **options).generate(IMAGE), expected)


@pytest.mark.parametrize("kind", [SamAutomaticMaskGenerator, OwnBatch])
def test_columns_of_mask_data(sam: Sam, kind: type[SamAutomaticMaskGenerator]) -> None:
    generator = kind(sam, **{**CROPS, "min_mask_region_area": 0})
    data, records = generator._generate_masks(IMAGE), generator.generate(IMAGE)
    columns = dict(data.items())
    assert list(columns) == ["iou_preds", "points", "stability_score", "boxes", "rles", "crop_boxes"]
    assert all(isinstance(columns[name], np.ndarray) for name in columns if name != "rles")
    assert [columns[name].shape for name in ("points", "boxes", "crop_boxes")] == [
        (len(records), 2),
        *[(len(records), 4)] * 2,
    ]
    for rle_dict, record in zip(data["rles"], records, strict=True):
        assert np.array_equal(rle_to_mask(rle_dict), record["segmentation"])
    assert data["points"].tolist() == [record["point_coords"][0] for record in records]


def test_batches_are_as_large_as_asked_for_if_their_step_is_replaced(sam: Sam) -> None:
    generator = SamAutomaticMaskGenerator(sam, **OPTIONS, points_per_batch=10)
    expected, usual, sizes = generator.generate(IMAGE), generator._process_batch, list[int]()

    def counting(points: np.ndarray, *args: Any) -> MaskData:
        sizes.append(len(points))
        return usual(points, *args)

    generator._process_batch = counting  # type: ignore[method-assign]
    assert_same_records(generator.generate(IMAGE), expected)
    assert sizes == [10, 10, 10, 6]


def test_overridden_step_decides_which_masks_are_kept(sam: Sam) -> None:
    class Large(SamAutomaticMaskGenerator):
        def _process_batch(self, *args: Any) -> MaskData:
            data = super()._process_batch(*args)
            data.filter(torch.tensor([sum(rle_dict["counts"][1::2]) > 2000 for rle_dict in data["rles"]]))
            return data

    areas = [record["area"] for record in Large(sam, **OPTIONS).generate(IMAGE)]
    every = [record["area"] for record in SamAutomaticMaskGenerator(sam, **OPTIONS).generate(IMAGE)]
    assert 0 < len(areas) < len(every) and min(areas) > 2000


def test_crop_step_with_an_embedding_that_was_computed_before(sam: Sam) -> None:
    """Some tools leave out `set_image`, and prompt the embedding that the predictor already holds."""

    class Prepared(SamAutomaticMaskGenerator):
        def _process_crop(
            self, image: np.ndarray, crop_box: list[int], crop_layer_idx: int, orig_size: tuple[int, ...]
        ) -> MaskData:
            points = self.point_grids[crop_layer_idx] * np.array(image.shape[1::-1])
            data = self._process_batch(points, image.shape[:2], crop_box, orig_size)
            data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"]))
            return data

    options = {**OPTIONS, "box_nms_thresh": 1.0}
    expected = SamAutomaticMaskGenerator(sam, **options).generate(IMAGE)
    generator = Prepared(sam, **options)
    generator.predictor = predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    found = generator.generate(np.zeros_like(IMAGE))  # the pixels aren't looked at
    key: Callable[[dict[str, Any]], float] = lambda record: -record["predicted_iou"]  # noqa: E731
    assert_same_records(sorted(found, key=key), sorted(expected, key=key))
    assert predictor.is_image_set


def test_predictor_with_its_own_set_image(sam: Sam) -> None:
    class Stored(SamPredictor):
        def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
            super().set_image(np.ascontiguousarray(image[::-1]), image_format)

    generator = SamAutomaticMaskGenerator(sam, **OPTIONS)
    expected = generator.generate(np.ascontiguousarray(IMAGE[::-1]))
    generator.predictor = Stored(sam)
    assert_same_records(generator.generate(IMAGE), expected)


def test_predictor_with_its_own_masks(sam: Sam, caplog: pytest.LogCaptureFixture) -> None:
    class Inverting(SamPredictor):
        def predict_torch(self, *args: Any, **kwargs: Any) -> Any:
            logits, scores, low_res = super().predict_torch(*args, **kwargs)
            return -logits, scores + 10, low_res

    options = {**UNFILTERED, "box_nms_thresh": 1.0}
    usual = SamAutomaticMaskGenerator(sam, **options)._generate_masks(IMAGE)
    generator = SamAutomaticMaskGenerator(sam, **options)
    generator.predictor = Inverting(sam)
    data = generator._generate_masks(IMAGE)
    assert "at full size from Inverting.predict_torch" in caplog.text
    np.testing.assert_allclose(data["iou_preds"], usual["iou_preds"] + 10, atol=1e-4)
    for inverted, rle_dict in zip(data["rles"], usual["rles"], strict=True):
        assert (rle_to_mask(inverted) == rle_to_mask(rle_dict)).mean() < 0.001


def test_points_of_a_batch_are_in_pixels_of_the_given_size(sam: Sam) -> None:
    generator, crop_box = SamAutomaticMaskGenerator(sam, **OPTIONS), [0, 0, 200, 150]
    generator.predictor.set_image(IMAGE)
    points = generator.point_grids[0] * [200, 150]
    usual = generator._process_batch(points, (150, 200), crop_box, (150, 200))
    halved = generator._process_batch(points / 2, (75, 100), crop_box, (150, 200))
    assert halved["rles"] == usual["rles"] != []
    torch.testing.assert_close(halved["points"] * 2, usual["points"])


def test_no_mask_passes(sam: Sam) -> None:
    for kind in (OwnBatch, OwnPrediction):
        generator = kind(sam, **{**CROPS, "pred_iou_thresh": 1e9})
        assert generator.generate(IMAGE) == []
        assert generator._generate_masks(IMAGE)["boxes"].shape == (0, 4)


@pytest.mark.parametrize("as_arrays", [False, True])
def test_small_regions_are_removed_and_new_duplicates_dropped(as_arrays: bool) -> None:
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[:, 2:12, 3:15] = True
    masks[0, 5, 5] = False  # a hole
    masks[0, 18, 28] = True  # an island
    masks[2] = False
    masks[2, 15:19, 20:25] = True
    masks[2, 0, 0] = True
    boxes = torch.tensor([[3, 2, 28, 18], [3, 2, 14, 11], [0, 0, 24, 18]])
    data = MaskData(rles=mask_to_rle_pytorch(masks), boxes=boxes, iou_preds=torch.tensor([0.9, 0.8, 0.7]))
    if as_arrays:
        data.to_numpy()
    result = SamAutomaticMaskGenerator.postprocess_small_regions(data, 4, 0.7)
    assert result is data
    # The second mask needed no change, so it stays, and the first, which became its duplicate, goes.
    assert data["iou_preds"].tolist() == pytest.approx([0.8, 0.7])
    assert data["boxes"].tolist() == [[3, 2, 14, 11], [20, 15, 24, 18]]
    assert np.array_equal(rle_to_mask(data["rles"][0]), masks[1].numpy())
    assert rle_to_mask(data["rles"][1]).sum() == 20
    empty = MaskData(rles=[], boxes=boxes[:0])
    assert SamAutomaticMaskGenerator.postprocess_small_regions(empty, 4, 0.7) is empty


class Mirrored(ResizeLongestSide):
    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return super().apply_image(np.ascontiguousarray(image[:, ::-1]))

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, ...]) -> np.ndarray:
        return super().apply_coords([original_size[1], 0] + coords * [-1, 1], original_size)


def test_transform_of_the_predictor_is_applied(sam: Sam) -> None:
    generator = SamAutomaticMaskGenerator(sam, **{**OPTIONS, "box_nms_thresh": 1.0})
    expected = generator.generate(np.ascontiguousarray(IMAGE[:, ::-1]))
    generator.predictor.transform = Mirrored(256)
    found = generator.generate(IMAGE)  # masks are those of the mirrored image
    by_position = lambda record: (record["point_coords"][0][1], record["predicted_iou"])  # noqa: E731
    assert len(found) == len(expected) > 3
    for record, other in zip(sorted(found, key=by_position), sorted(expected, key=by_position), strict=True):
        assert record["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-4)
        assert (record["segmentation"] != other["segmentation"]).mean() < 1e-3
        assert record["point_coords"][0][0] == pytest.approx(200 - other["point_coords"][0][0])


def test_patched_coordinates_leave_masks_run_length_encoded(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tools for GPUs without float64 have this method return float32."""
    expected, original = SamAutomaticMaskGenerator(sam, **CROPS).generate(IMAGE), ResizeLongestSide.apply_coords
    monkeypatch.setattr(ResizeLongestSide, "apply_coords", lambda *args: original(*args).astype(np.float32))
    assert_same_records(SamAutomaticMaskGenerator(sam, **CROPS).generate(IMAGE), expected)
    assert "full size" not in caplog.text


def _set_negative_image(predictor: SamPredictor, image: np.ndarray, image_format: str = "RGB") -> None:
    pixels = torch.from_numpy(predictor.transform.apply_image(255 - image))
    predictor.set_torch_image(pixels.permute(2, 0, 1)[None], image.shape[:2])


def test_methods_replaced_in_the_class_of_the_predictor(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = SamAutomaticMaskGenerator(sam, **OPTIONS)
    negative, usual = generator.generate(255 - IMAGE), generator.generate(IMAGE)
    with monkeypatch.context() as patch:
        patch.setattr(SamPredictor, "set_image", _set_negative_image)
        assert_same_records(generator.generate(IMAGE), negative)
    original = SamPredictor.predict_torch

    def confident(*args: Any, **kwargs: Any) -> Any:
        logits, scores, low_res = original(*args, **kwargs)
        return logits, scores + 1, low_res

    monkeypatch.setattr(SamPredictor, "predict_torch", confident)
    generator.pred_iou_thresh += 1
    found = generator.generate(IMAGE)
    for record in found:
        record["predicted_iou"] -= 1
    assert_same_records(found, usual)


def test_step_replaced_in_the_class_of_the_generator(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = SamAutomaticMaskGenerator._process_batch, list[int]()

    def counting(self: SamAutomaticMaskGenerator, points: np.ndarray, *args: Any) -> MaskData:
        calls.append(len(points))
        return original(self, points, *args)

    monkeypatch.setattr(SamAutomaticMaskGenerator, "_process_batch", counting)
    SamAutomaticMaskGenerator(sam, **OPTIONS, points_per_batch=20).generate(IMAGE)
    assert calls == [20, 16]
