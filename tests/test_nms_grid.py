"""NMS of many boxes, for which the C++ sibling uses a grid: it keeps the same boxes as the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsam_core import ops
from siblings import NAMES

NATIVE = [name for name in NAMES if name != "reference"]
pytestmark = pytest.mark.skipif(not NATIVE, reason="the grid is the compiled operation's")
N = 1150  # the grid is used from about a thousand boxes on

THRESHOLDS = [0.0, 0.3, 0.7, 0.95]


def corners(shape: np.ndarray, dtype: type = np.float32) -> torch.Tensor:
    """Convert (N, 4) boxes from x, y, width, height to x1, y1, x2, y2."""
    return torch.from_numpy(np.concatenate([shape[:, :2], shape[:, :2] + shape[:, 2:]], 1).astype(dtype))


def uniform(rng: np.random.Generator, low: list[float], high: list[float], n: int = N) -> np.ndarray:
    return rng.uniform(low, high, (n, 4))


def clustered(rng: np.random.Generator) -> np.ndarray:
    objects = uniform(rng, [0, 0, 10, 10], [800, 800, 300, 300], N // 12)
    shape = objects[rng.integers(0, len(objects), N)] + rng.normal(0, 4, (N, 4))
    shape[:, 2:] = np.maximum(shape[:, 2:], 0.5)
    return shape


def many_sizes(rng: np.random.Generator) -> np.ndarray:
    shape = uniform(rng, [-400, -300, 0, 0], [400, 300, 0, 0])
    shape[:, 2:] = np.exp(rng.uniform(-3, 8, (N, 2)))
    return shape


def with_giant(rng: np.random.Generator) -> np.ndarray:
    shape = uniform(rng, [0, 0, 5, 5], [300, 300, 60, 60])
    shape[rng.integers(0, N, 3)] = [-50, -50, 500, 500]
    return shape


def integers(rng: np.random.Generator) -> np.ndarray:
    """Return boxes with ties, duplicates, IoUs equal to the threshold, and some with zero or negative extent."""
    return np.concatenate([rng.integers(-9, 9, (N, 2)), rng.integers(-1, 6, (N, 2))], 1).astype(np.float64)


SCENES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "scattered": lambda rng: uniform(rng, [0, 0, 5, 5], [4000, 4000, 60, 60]),
    "crowded": lambda rng: uniform(rng, [0, 0, 20, 20], [200, 200, 200, 200]),
    "clustered": clustered,
    "many sizes": many_sizes,
    "under giants": with_giant,
    "integers": integers,
    "negative": lambda rng: uniform(rng, [-900, -900, 1, 1], [-100, -100, 80, 80]),
    "identical": lambda rng: np.tile([3.0, 4, 20, 30], (N, 1)),
    "nearly identical": lambda rng: np.tile([3.0, 4, 20, 30], (N, 1)) + rng.normal(0, 0.3, (N, 4)),
    "no area": lambda rng: uniform(rng, [0, 0, 0, 0], [9, 9, 0, 0]),
    "inside out": lambda rng: uniform(rng, [0, 0, -9, -9], [9, 9, 9, 9]),
    "far away": lambda rng: uniform(rng, [9e6, -9e6, 1, 1], [9.001e6, -8.999e6, 90, 90]),
    "normalised": lambda rng: uniform(rng, [0, 0, 0.01, 0.01], [1, 1, 0.2, 0.2]),
    "tiny": lambda rng: uniform(rng, [0, 0, 0, 0], [3e-22, 3e-22, 1e-22, 1e-22]),
    # Areas of a few times the smallest positive number: boxes that differ by a third may have an IoU of 1.
    "tiny, in one place": lambda rng: uniform(rng, [0, 0, 3e-23, 3e-23], [0, 0, 8e-23, 8e-23]),
    "huge": lambda rng: uniform(rng, [-9e37, -9e37, 0, 0], [9e37, 9e37, 9e37, 9e37]),
    "wide": lambda rng: uniform(rng, [0, 0, 100, 1], [1000, 50, 900, 3]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scene", SCENES)
def test_scenes_match_the_reference(scene: str, dtype: type) -> None:
    rng = np.random.default_rng(7)
    boxes, scores = corners(SCENES[scene](rng), dtype), torch.from_numpy(rng.integers(0, 900, N) / 8)
    classes = torch.from_numpy((rng.random(N) < 0.05).astype(np.int64)) * 2**40
    for threshold in THRESHOLDS:
        expected = ops.siblings("nms")["reference"](boxes, scores, threshold).tolist()
        by_class = ops.siblings("batched_nms")["reference"](boxes, scores, classes, threshold).tolist()
        for name in NATIVE:
            assert ops.siblings("nms")[name](boxes, scores, threshold).tolist() == expected
            assert ops.siblings("batched_nms")[name](boxes, scores, classes, threshold).tolist() == by_class


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("low", [30.0, 32.001, 63.99])
def test_boxes_as_far_apart_as_an_iou_above_the_threshold_allows(threshold: float, low: float) -> None:
    """The smaller box of each pair lies at an end of the larger one, and is just large enough to be suppressed."""
    rng = np.random.default_rng(11)
    pairs = np.arange(N // 2)
    corner = 90.1 * np.stack([pairs % 24, pairs // 24], 1) + 0.37 * pairs[:, None]
    larger = np.concatenate([corner, np.full_like(corner, low)], 1)
    for axis in (0, 1):
        smaller = larger.copy()
        smaller[:, 2 + axis] *= threshold + 0.005
        smaller[:, axis] += rng.integers(0, 2, len(pairs)) * (low - smaller[:, 2 + axis])
        # Either of a pair may come first.
        scores = torch.from_numpy(rng.permutation(2 * len(pairs)) / 8)
        boxes = corners(np.concatenate([larger, smaller]))
        expected = ops.siblings("nms")["reference"](boxes, scores, threshold).tolist()
        assert len(expected) == len(pairs)
        for name in NATIVE:
            assert ops.siblings("nms")[name](boxes, scores, threshold).tolist() == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    area=st.floats(1, 3000),
    low=st.floats(0.1, 100),
    spread=st.floats(1, 50),
    grid=st.sampled_from([0.0, 0.25, 1.0]),
    threshold=st.floats(0, 1),
)
def test_random_scenes_match_the_reference(
    seed: int, area: float, low: float, spread: float, grid: float, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    shape = uniform(rng, [0, 0, low, low], [area, area, low * spread, low * spread], 1100)
    if grid:
        shape = np.round(shape / grid) * grid
    boxes, scores = corners(shape), torch.from_numpy(rng.random(1100))
    expected = ops.siblings("nms")["reference"](boxes, scores, threshold).tolist()
    for name in NATIVE:
        assert ops.siblings("nms")[name](boxes, scores, threshold).tolist() == expected


def test_extreme_scores_are_ranked_as_by_the_reference() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 400), np.repeat([0.0, -0.0, np.inf, -np.inf, 5e-324, -5e-324], 60)])
    values = np.concatenate([values, rng.normal(0, 1, 400) * 10.0 ** rng.integers(-300, 300, 400)])
    scores = torch.from_numpy(rng.permutation(values))
    boxes = corners(uniform(rng, [0, 0, 9, 9], [90, 90, 30, 30], len(values)))
    expected = ops.siblings("nms")["reference"](boxes, scores, 0.6).tolist()
    for name in NATIVE:
        assert ops.siblings("nms")[name](boxes, scores, 0.6).tolist() == expected
        assert (
            ops.siblings("nms")[name](boxes, scores, 1.0).tolist()
            == torch.argsort(scores + 0.0, descending=True, stable=True).tolist()
        )


def test_boxes_of_distinct_classes_are_all_kept() -> None:
    boxes = corners(np.tile([3.0, 4, 20, 30], (3000, 1)))
    for name in NATIVE:
        kept = ops.siblings("batched_nms")[name](boxes, torch.zeros(3000), torch.arange(3000) - 1500, 0.5)
        assert kept.tolist() == list(range(3000))
