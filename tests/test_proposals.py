"""Proposals: everything that a grid finds, ranked instead of filtered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastsam_core import SAM, Predictor
from small_model import QUIET, bgr_picture, small_model


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


def test_ranked_by_the_mean_of_both_scores(model: Any) -> None:
    picture = bgr_picture(48, 80)
    predictor = Predictor(overrides={**QUIET, "model": model})
    found = predictor.proposals(picture, points_stride=4, nms_thresh=1)
    scores = (found.predicted_iou + found.stability_score) / 2
    assert len(found) > 5 and found.masks.is_rle
    np.testing.assert_allclose(found.boxes.conf, scores, rtol=1e-6)
    assert (np.diff(scores) <= 0).all() and (found.masks.area > 0).all()
    np.testing.assert_array_equal(found.boxes.xyxy, found.masks.boxes)
    # Everything without filters finds the same masks.
    options = {"points_stride": 4, "conf_thres": -1e9, "stability_score_thresh": -1, "iou": 1}
    (everything,) = predictor(picture, **options)
    visible = everything[np.flatnonzero(everything.masks.area.numpy())]
    assert sorted(rle["counts"] for rle in found.masks.rle) == sorted(rle["counts"] for rle in visible.masks.rle)


def test_at_most_n(model: Any) -> None:
    picture = bgr_picture(48, 80)
    sam = SAM(model)
    every = sam.proposals(picture, points_stride=4, imgsz=128, nms_thresh=1)
    few = sam.proposals(picture, 3, points_stride=4, imgsz=128, nms_thresh=1)
    assert len(few) == 3 and few.masks.rle == every.masks.rle[:3]
    assert few.speed["inference"] > 0
    fewer = sam.proposals(picture, points_stride=4, imgsz=128, nms_thresh=0.3)
    assert 0 < len(fewer) < len(every)
    with pytest.raises(ValueError, match="n must be at least 1"):
        sam.proposals(picture, 0)
    with pytest.raises(ValueError, match="iou must be"):
        sam.proposals(picture, nms_thresh=7)
    with pytest.raises(ValueError, match="no picture is set"):
        sam.proposals(None)


def test_nothing_to_propose(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.decode_points

    def nothing(*arguments: Any, **options: Any) -> Any:
        scores, logits = plain(*arguments, **options)
        return scores, lambda i, j: -logits(i, j).abs() - 1

    monkeypatch.setattr(model, "decode_points", nothing)
    found = SAM(model).proposals(bgr_picture(20, 30), points_stride=2, imgsz=128)
    assert len(found) == 0 and found.verbose() == "(no detections), "
