"""NMS, compared with a plain NumPy version of the same greedy algorithm in one process.

"numpy" keeps the best box, computes its overlap with all remaining ones in one vectorised step, and repeats with those
that are left. The number in brackets after each time is its ratio to the fastest of the group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import ops


def numpy_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1) * (y2 - y1)
    remaining = np.argsort(-scores, kind="stable")
    keep = []
    while remaining.size:
        best, remaining = remaining[0], remaining[1:]
        keep.append(best)
        width = np.minimum(x2[best], x2[remaining]) - np.maximum(x1[best], x1[remaining])
        height = np.minimum(y2[best], y2[remaining]) - np.maximum(y1[best], y1[remaining])
        intersections = np.maximum(width, 0) * np.maximum(height, 0)
        remaining = remaining[intersections / (area[best] + area[remaining] - intersections) <= threshold]
    return np.array(keep)


def make_boxes(kind: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return n boxes (n, 4) and scores (n,), both float32, for one kind of scene.

    "crowded": many boxes around few objects, like those of segment everything. "scattered": boxes that hardly overlap,
    like a detector's on a large image. "photo": a detector's raw output, boxes of 20 to 200 pixels on 4000 x 3000.
    "packed": the same on 1000 x 1000.
    """
    rng = np.random.default_rng(n)
    if kind in ("photo", "packed"):
        width, height = (4000, 3000) if kind == "photo" else (1000, 1000)
        xywh = rng.random((n, 4)) * [width, height, 180, 180] + [0, 0, 20, 20]
    elif kind == "crowded":
        objects = rng.random((n // 12, 4)) * [800, 800, 300, 300] + [0, 0, 10, 10]
        xywh = objects[rng.integers(0, len(objects), n)] + rng.normal(0, 4, (n, 4))
    else:
        xywh = rng.random((n, 4)) * [20_000, 20_000, 60, 60] + [0, 0, 5, 5]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + np.maximum(xywh[:, 2:], 1)], 1)
    return torch.from_numpy(corners.astype(np.float32)), torch.from_numpy(rng.random(n).astype(np.float32))


@pytest.mark.parametrize("peer", ["numpy", *ops.siblings("nms")])
@pytest.mark.parametrize(
    ("kind", "n"), [("crowded", 300), ("crowded", 3000), ("scattered", 3000), ("scattered", 20000)]
)
def test_nms(benchmark: Any, kind: str, n: int, peer: str) -> None:
    boxes, scores = make_boxes(kind, n)
    if peer == "reference" and n > 10_000:
        pytest.skip("the reference takes tens of seconds here")
    benchmark.group = f"nms {n} {kind}, {torch.get_num_threads()} threads"
    if peer == "numpy":
        keep = benchmark.pedantic(numpy_nms, (boxes.numpy(), scores.numpy(), 0.7), rounds=3, warmup_rounds=1)
    else:
        keep = benchmark.pedantic(ops.siblings("nms")[peer], (boxes, scores, 0.7), rounds=3, warmup_rounds=1)
    assert keep.tolist() == ops.nms(boxes, scores, 0.7).tolist()


@pytest.mark.parametrize("peer", ops.siblings("nms"))
@pytest.mark.parametrize("n", [10_000, 30_000, 100_000, 300_000])
@pytest.mark.parametrize("kind", ["scattered", "photo", "packed", "crowded"])
def test_growth(benchmark: Any, kind: str, n: int, peer: str) -> None:
    """Measure how time grows with the number of boxes: about linearly in every scene; the reference is quadratic."""
    if peer == "reference" and (n > 10_000 or kind not in ("scattered", "packed")):
        pytest.skip("the reference takes tens of seconds here")
    boxes, scores = make_boxes(kind, n)
    benchmark.group = f"nms growth {kind} {n}, {torch.get_num_threads()} threads"
    benchmark.pedantic(ops.siblings("nms")[peer], (boxes, scores, 0.7), rounds=1 if peer == "reference" else 3)


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_growth_by_class(benchmark: Any, n: int) -> None:
    boxes, scores = make_boxes("packed", n)
    benchmark.group = f"batched_nms packed {n}, 80 classes, {torch.get_num_threads()} threads"
    benchmark.pedantic(ops.batched_nms, (boxes, scores, torch.arange(n) % 80, 0.7), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("peer", list(ops.siblings("batched_nms")))
def test_batched_nms(benchmark: Any, peer: str) -> None:
    boxes, scores = make_boxes("crowded", 3000)
    classes = torch.arange(3000) % 80
    benchmark.group = f"batched_nms 3000 crowded, 80 classes, {torch.get_num_threads()} threads"
    benchmark.pedantic(ops.siblings("batched_nms")[peer], (boxes, scores, classes, 0.7), rounds=3, warmup_rounds=1)
