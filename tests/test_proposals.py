"""Object proposals: all masks that a grid of points finds, ranked instead of filtered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import SAM, Predictor, proposals
from small_model import QUIET, bgr_image, small_model


def _ious(boxes: Any) -> np.ndarray:
    x1, y1, x2, y2 = np.asarray(boxes, float).T
    shared = (np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)).clip(0)
    shared = shared * (np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)).clip(0)
    areas = (x2 - x1) * (y2 - y1)
    return shared / (areas[:, None] + areas - shared)


@pytest.fixture
def model() -> Any:
    return small_model()


def test_proposals_are_ranked_by_the_mean_of_both_scores(model: Any) -> None:
    model.mask_scoring = replace(model.mask_scoring, consensus=0.0)
    image = bgr_image(48, 80)
    predictor = Predictor(overrides={**QUIET, "model": model})
    found = predictor.proposals(image, points_stride=4, nms_thresh=1)
    scores = (found.predicted_iou + found.stability_score).numpy() / 2
    assert len(found) > 5 and found.masks.is_rle and (found.masks.area > 0).all()
    np.testing.assert_allclose(found.boxes.conf, scores, rtol=1e-6)
    assert _varied(found.masks.boxes, scores) == list(range(len(found)))
    np.testing.assert_array_equal(found.boxes.xyxy, found.masks.boxes)
    # Segmenting everything without filters finds the same masks.
    options = {"points_stride": 4, "conf_thres": -1e9, "stability_score_thresh": -1, "iou": 1}
    (everything,) = predictor(image, **options)
    visible = everything[np.flatnonzero(everything.masks.area.numpy())]
    assert sorted(rle["counts"] for rle in found.masks.rle) == sorted(rle["counts"] for rle in visible.masks.rle)


def _rectangles(model: Any, monkeypatch: pytest.MonkeyPatch, boxes: Any, iou: torch.Tensor) -> None:
    """Make the model return a rectangle for the i-th point: boxes (N, 4) x1, y1, x2, y2 in low-resolution cells."""

    def decode(image: Any, points: torch.Tensor, labels: torch.Tensor, iou_threshold: float | None = None) -> Any:
        def logits(point_index: Any, mask_index: Any) -> torch.Tensor:
            found = torch.full((len(point_index), 32, 32), -9.0)
            for place, point in enumerate(point_index):
                x1, y1, x2, y2 = boxes[int(point)]
                found[place, y1:y2, x1:x2] = 9.0
            return found

        return iou, logits

    monkeypatch.setattr(model, "decode_points", decode)


def _varied(boxes: Any, scores: np.ndarray) -> list[int]:
    """Return the expected order: boxes with an IoU of at most 0.7 with each other, then the others, both by score."""
    ious, first = _ious(boxes), []
    for place in np.argsort(-scores, kind="stable").tolist():
        if not first or ious[place, first].max() <= 0.7:
            first.append(place)
    return first + sorted(set(range(len(scores))) - set(first), key=lambda place: -scores[place])


def test_first_proposals_have_low_iou_with_each_other(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    corners = rng.integers(0, 3, (64, 2)) * 8
    boxes = np.concatenate([corners, corners + rng.integers(4, 8, (64, 2))], 1)
    _rectangles(model, monkeypatch, boxes, torch.from_numpy(rng.random((64, 3))).float())
    model.mask_scoring = replace(model.mask_scoring, consensus=0.0)
    found = SAM(model).proposals(bgr_image(128, 128), points_stride=8, imgsz=128, nms_thresh=1)
    scores = found.boxes.conf.numpy()
    assert len(found) == 3 * 64 and (np.diff(scores) > 0).any()
    assert _varied(found.masks.boxes, scores) == list(range(len(found)))


def test_boxes_are_not_compared_for_a_model_without_consensus(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(boxes: Any) -> Any:
        raise AssertionError("agreeing boxes were counted")

    monkeypatch.setattr(proposals, "_count_agreeing", fail)
    model.mask_scoring = replace(model.mask_scoring, consensus=0.0)
    assert len(SAM(model).proposals(bgr_image(48, 80), points_stride=2, imgsz=128)) > 0


def test_near_duplicates_are_suppressed_by_rank(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third box differs from the first, so it ranks before the second and suppresses it as a near-duplicate.

    NMS by score alone would keep the second and suppress the third.
    """
    boxes = [[0, 4, 24, 28], [4, 4, 28, 28], [5, 4, 28, 28], [0, 4, 24, 28]]
    _rectangles(model, monkeypatch, boxes, torch.tensor([0.9, 0.8, 0.7, 0.6])[:, None].expand(4, 3))
    model.mask_scoring = replace(model.mask_scoring, consensus=0.0)
    found = SAM(model).proposals(bgr_image(128, 128), points_stride=2, imgsz=128)
    assert [round(x / 4) for x in found.boxes.xyxy[:, 0].tolist()] == [0, 5]
    assert np.triu(_ious(found.masks.boxes), 1).max() <= 0.7


def test_consensus_raises_the_rank_of_masks_that_points_agree_on(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four points agree on one of three squares, the one with the lowest score."""
    squares = [[2, 2, 10, 10], [20, 20, 26, 26], [2, 2, 10, 10], [12, 12, 18, 18]]
    _rectangles(model, monkeypatch, squares, torch.tensor([0.5, 0.7, 0.5, 0.6])[:, None].expand(4, 3))
    firsts = []
    for consensus in (0.0, 0.5):
        model.mask_scoring = replace(model.mask_scoring, consensus=consensus)
        found = SAM(model).proposals(bgr_image(128, 128), points_stride=2, imgsz=128)
        assert len(found) == 3  # one of the two equal squares is dropped
        firsts.append(found.boxes.xyxy[0].tolist())
    assert firsts[0][0] == pytest.approx(80, abs=2) and firsts[1][0] == pytest.approx(8, abs=2)


def test_n_limits_the_number_and_arguments_are_checked(model: Any) -> None:
    image = bgr_image(48, 80)
    sam = SAM(model)
    every = sam.proposals(image, points_stride=4, imgsz=128, nms_thresh=1)
    few = sam.proposals(image, 3, points_stride=4, imgsz=128, nms_thresh=1)
    assert len(few) == 3 and few.masks.rle == every.masks.rle[:3]
    assert few.speed["inference"] > 0
    fewer = sam.proposals(image, points_stride=4, imgsz=128, nms_thresh=0.3)
    assert 0 < len(fewer) < len(every)
    with pytest.raises(ValueError, match="n must be at least 1"):
        sam.proposals(image, 0)
    with pytest.raises(ValueError, match="nms_thresh must be"):
        sam.proposals(image, nms_thresh=7)
    with pytest.raises(ValueError, match="no image is set"):
        sam.proposals(None)


def test_empty_masks_are_not_proposed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.decode_points

    def nothing(*arguments: Any, **options: Any) -> Any:
        scores, logits = plain(*arguments, **options)
        return scores, lambda i, j: -logits(i, j).abs() - 1

    monkeypatch.setattr(model, "decode_points", nothing)
    found = SAM(model).proposals(bgr_image(20, 30), points_stride=2, imgsz=128)
    assert len(found) == 0 and found.verbose() == "(no detections), "
