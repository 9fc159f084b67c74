"""Tests the bundled weights: size, dtype, and results on synthetic scenes and the sample image."""

from __future__ import annotations

from importlib.resources import files

import torch
from safetensors.torch import load_file

from fastsam_core import ASSETS, SAM
from fastsam_core.models.checkpoint import load_model
from fastsam_core.train.evaluate import evaluate

WEIGHTS = files("fastsam_core") / "weights" / "sam_nano.safetensors"


def test_weights_are_half_precision_and_small() -> None:
    assert len(WEIGHTS.read_bytes()) <= 12_000_000
    state = load_file(str(WEIGHTS))
    assert {tensor.dtype for tensor in state.values()} <= {torch.float16, torch.int64}
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_scores_on_unseen_scenes_reach_thresholds() -> None:
    scores = evaluate(load_model("sam_nano.pt"), scenes=20, seed=20261122, textures=40)
    assert scores.objects >= 80
    assert scores.point >= 0.50
    assert scores.box >= 0.62


def test_segment_everything_finds_masks_in_sample_image() -> None:
    result = SAM("sam_nano.pt")(ASSETS, points_stride=16, verbose=False)[0]
    assert len(result) >= 3
    assert result.masks is not None
    shares = [area / (640 * 640) for area in result.masks.area]
    assert any(0.005 < share < 0.3 for share in shares), shares


def test_every_click_gets_a_mask_unless_conf_is_given() -> None:
    points = [[x, y] for x in range(20, 640, 60) for y in range(20, 640, 60)]
    result = SAM("sam_nano.pt")(ASSETS, points=points, labels=[1] * len(points), verbose=False)[0]
    assert len(result) == len(points)
    assert result.predicted_iou.min() < 0.25
    assert len(SAM("sam_nano.pt")(ASSETS, points=points, labels=[1] * len(points), conf=0.25, verbose=False)[0]) < len(
        result
    )
