"""Predictor with points, boxes and masks, with several objects, and without a prompt (segment everything)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import Predictor
from fastsam_core.models.sam_model import SamModel
from fastsam_core.postprocess import MaskResizer
from fastsam_core.preprocess import preprocess, resized_shape, scale_points
from predictor_examples import BOXES, HEIGHT, SIDE, WIDTH, dense
from small_model import FEW, QUIET, bgr_image

# --- prompts ---


def test_prediction_matches_the_single_steps(predictor: Predictor, model: SamModel) -> None:
    """Compare with the single steps: scaled prompts, decoder, two-step upsampling, threshold."""
    resized = resized_shape(HEIGHT, WIDTH, 128)
    points = scale_points(torch.tensor([[[30.0, 20.0], [70.0, 50.0]]]), (HEIGHT, WIDTH), resized)
    with torch.no_grad():
        low_res, scores = model.decode_prompts(predictor.features, points, torch.tensor([[1, 0]]))
    full = MaskResizer(resized, (HEIGHT, WIDTH), 128).logits(low_res[0, 0])
    result = predictor(points=[[[30, 20], [70, 50]]], labels=[[1, 0]])[0]
    assert (dense(result)[0] == (full > 0).numpy()).all()
    assert torch.allclose(result.boxes.conf, scores[0])
    ys, xs = np.nonzero((full > 0).numpy())
    assert result.boxes.xyxy[0].tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
    assert result.masks.data.dtype == torch.bool and result.masks.is_rle
    low, iou = predictor.prompt_inference(points=[[[30, 20], [70, 50]]], labels=[[1, 0]])
    assert torch.allclose(low, low_res[0], atol=1e-5) and torch.allclose(iou, scores[0])


def test_objects_with_different_point_counts_stay_in_order(predictor: Predictor) -> None:
    objects = [[[30, 20]], [[70, 50], [40, 30]], [[60, 40]], [[20, 50], [10, 10]]]
    together = predictor(points=objects, multimask_output=True)[0]
    alone = [predictor(points=[points], multimask_output=True)[0] for points in objects]
    assert together.boxes.cls.tolist() == list(range(12))
    for number, mask in enumerate(together):
        single = alone[number // 3][number % 3]
        assert (dense(mask) != dense(single)).mean() < 1e-3
        assert torch.allclose(mask.predicted_iou, single.predicted_iou, atol=1e-5)
        assert torch.allclose(mask.boxes.xyxy, single.boxes.xyxy, atol=1)
        assert len(mask.point_coords[0]) == len(objects[number // 3])


def test_objects_do_not_influence_each_other(predictor: Predictor) -> None:
    """Prompt 40 objects, more than are decoded at once, with one to three points: each as if alone, in order."""
    rng = np.random.default_rng(0)
    points = [rng.uniform((0, 0), (WIDTH, HEIGHT), (1 + i % 3, 2)).tolist() for i in range(40)]
    labels = [[1, 0, 1][: len(each)] for each in points]
    low_res, scores = predictor.prompt_inference(points=points, labels=labels, multimask_output=True)
    assert low_res.shape == (120, SIDE, SIDE) and scores.shape == (120,)
    for i in (0, 1, 2, 17, 38, 39):
        alone, score = predictor.prompt_inference(points=[points[i]], labels=[labels[i]], multimask_output=True)
        assert torch.allclose(low_res[3 * i : 3 * i + 3], alone, atol=2e-4)
        assert torch.allclose(scores[3 * i : 3 * i + 3], score, atol=1e-4)
    result = predictor(points=points, labels=labels)[0]
    assert len(result) == 40 and result.boxes.cls.tolist() == list(range(40))
    assert [len(each) for each in result.point_coords] == [len(each) for each in points]


def test_points_and_boxes_combine_per_object(predictor: Predictor) -> None:
    points = [[10, 10], [30, 30], [60, 20]]
    low_res, _ = predictor.prompt_inference(bboxes=BOXES, points=points, labels=[1, 0, 1])
    assert len(low_res) == 3
    one, _ = predictor.prompt_inference(bboxes=BOXES[1], points=points[1], labels=0)
    assert torch.allclose(low_res[1], one[0], atol=2e-4)
    assert not torch.allclose(low_res[1], predictor.prompt_inference(bboxes=BOXES[1])[0][0], atol=1e-2)


def test_mask_prompts_as_logits_and_as_binary_masks(predictor: Predictor) -> None:
    low_res, _ = predictor.prompt_inference(points=[30, 20])
    refined, score = predictor.prompt_inference(points=[30, 20], masks=low_res)
    assert refined.shape == (1, SIDE, SIDE) and score.shape == (1,)
    assert not torch.allclose(refined, low_res, atol=1e-3)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[10:40, 20:70] = True
    assert len(predictor(masks=inside)[0]) == 1
    assert len(predictor(masks=np.stack([inside, ~inside]), bboxes=BOXES[:2])[0]) == 2
    with pytest.raises(ValueError, match="height x width"):
        predictor(masks=np.zeros((50, 50)))


def test_multimask_is_object_major_and_each_mask_its_own_class(predictor: Predictor) -> None:
    low_res, scores = predictor.prompt_inference(points=[[10, 10], [60, 40]], multimask_output=True)
    result = predictor(points=[[10, 10], [60, 40]], multimask_output=True)[0]
    assert len(result) == 6 and result.names == {i: str(i) for i in range(6)}
    assert result.boxes.cls.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.allclose(result.boxes.conf, scores)
    resizer = MaskResizer(resized_shape(HEIGHT, WIDTH, 128), (HEIGHT, WIDTH), 128)
    for mask, logits in zip(dense(result), low_res, strict=True):
        assert (mask == (resizer.logits(logits) > 0).numpy()).all()


def test_conf_drops_masks_and_keeps_their_class_numbers(predictor: Predictor) -> None:
    scores = predictor(bboxes=BOXES)[0].predicted_iou
    middle = float(scores.sort().values[1])
    result = predictor(bboxes=BOXES, conf=middle)[0]
    best = int(scores.argmax())
    assert result.boxes.cls.tolist() == [best], "strictly greater"
    assert result.names == {0: "0", 1: "1", 2: "2"}
    nothing = predictor(bboxes=BOXES, conf=1.0)[0]
    assert len(nothing) == 0 and nothing.masks.shape == (0, HEIGHT, WIDTH) and nothing.boxes.shape == (0, 6)


@pytest.mark.parametrize("prompts", [{"bboxes": []}, {"points": []}, {"points": [], "labels": []}, {"masks": []}])
def test_empty_prompts_give_empty_results_without_encoding(model: Any, image: np.ndarray, prompts: dict) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    before = model.counts["encoded"]
    result = predictor(image, **prompts)[0]
    assert len(result) == 0 and result.boxes.shape == (0, 6) and result.masks is None
    assert model.counts["encoded"] == before
    predictor.set_image(image)
    low_res, scores = predictor.prompt_inference(**prompts, multimask_output=True)
    assert low_res.shape == (0, SIDE, SIDE) and scores.shape == (0,)


def test_arguments_are_not_modified(predictor: Predictor, image: np.ndarray) -> None:
    boxes, points = torch.tensor(BOXES), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    first = predictor(image, bboxes=boxes, points=points)[0]
    second = predictor(image, bboxes=boxes, points=points)[0]
    assert boxes.tolist() == BOXES and points.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert first.masks.rle == second.masks.rle
    overrides = {"model": predictor.model, **QUIET}
    before = dict(overrides)
    Predictor(overrides=overrides)(image, bboxes=BOXES)
    assert overrides == before


def test_set_prompts_applies_to_one_call(predictor: Predictor) -> None:
    predictor.set_prompts({"bboxes": BOXES})
    assert len(predictor()[0]) == 3
    assert predictor.prompts == {}
    with pytest.raises(TypeError, match="bbox"):
        predictor.set_prompts({"bbox": BOXES})


# --- everything ---


def test_everything_matches_generate_masks(predictor: Predictor, model: SamModel) -> None:
    from fastsam_core.everything import generate_masks

    def decode(crop_box: Any, points: torch.Tensor) -> Any:
        assert list(crop_box) == [0, 0, WIDTH, HEIGHT]
        return model.decode_points(predictor.features, points[:, None], torch.ones(len(points), 1, dtype=torch.int64))

    options = {**FEW, "points_stride": 4}
    own = {
        "stability_share": 0.5,
        "highest_stability": 0.75,
        "min_mask_region_area": model.mask_scoring.least_region * HEIGHT * WIDTH,
    }
    assert own["stability_share"] == model.mask_scoring.stability_share and own["min_mask_region_area"] > 1
    records = generate_masks(decode, (HEIGHT, WIDTH), **options, **own, input_long_side=128)
    result = predictor(**options)[0]
    assert len(records) == len(result) > 0
    for record, got in zip(records, result.to_dicts(), strict=True):
        assert got["segmentation"] == record["segmentation"]
        assert got["bbox"] == record["bbox"] and got["crop_box"] == record["crop_box"]
        assert got["predicted_iou"] == pytest.approx(record["predicted_iou"])
        assert got["point_coords"] == [pytest.approx(point) for point in record["point_coords"]]
    assert result.boxes.cls.tolist() == list(range(len(records)))
    masks, scores, boxes = predictor.generate(**options)
    assert torch.equal(masks, result.masks.data) and masks.dtype == torch.bool
    assert torch.equal(scores, result.boxes.conf) and torch.equal(boxes, result.boxes.xyxy)


def test_option_names_of_meta_are_accepted(predictor: Predictor) -> None:
    ours = predictor(points_stride=3, conf_thres=-1e9, stability_score_thresh=-1, iou=0.5)[0]
    metas = predictor(points_per_side=3, pred_iou_thresh=-1e9, stability_score_thresh=-1, box_nms_thresh=0.5)[0]
    assert ours.masks.rle == metas.masks.rle and len(ours) > 0


def test_crops_are_cut_from_the_image_and_encoded_separately(predictor: Predictor, model: Any) -> None:
    seen = []
    plain = model.encode_image

    def spy(images: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        seen.append(images)
        return plain(images, dtype)

    model.encode_image = spy
    try:
        result = predictor(**FEW, crop_n_layers=1, crop_overlap_ratio=0, points_batch_size=1)[0]
    finally:
        model.encode_image = plain
    assert len(seen) == 4, "the whole image is encoded already, and each crop once for all of its points"
    corner = preprocess(bgr_image(HEIGHT, WIDTH)[: HEIGHT // 2, : WIDTH // 2, ::-1].copy(), 128)[0]
    assert torch.equal(seen[0], corner)
    assert {tuple(box) for box in result.crop_boxes.tolist()} <= {
        (0, 0, WIDTH, HEIGHT),
        *((x, y, WIDTH / 2, HEIGHT / 2) for x in (0, WIDTH / 2) for y in (0, HEIGHT / 2)),
    }


def test_conf_filters_everything_too(predictor: Predictor) -> None:
    everything = predictor(**FEW, iou=1)[0]
    level = float(everything.predicted_iou.median())
    some = predictor(**FEW, iou=1, conf=level)[0]
    kept = everything.predicted_iou > level
    assert 0 < len(some) < len(everything)
    assert some.boxes.cls.tolist() == everything.boxes.cls[kept].tolist()
    none = predictor(**FEW, conf=1.0)[0]
    assert none.masks.shape == (0, HEIGHT, WIDTH)
    assert predictor(**{**FEW, "conf_thres": 1e9})[0].masks is None
