"""Arguments for every operation, for the tests that hold for all of them: one entry per operation.

The same on every call, and large enough that the work is split over four threads where the operation splits at all,
yet within some ten milliseconds, because thousands of calls are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsam_core.ops import schema

Arguments = tuple[Any, ...]


def _boxes(n: int) -> Arguments:
    """(n, 4) boxes around few centres, and scores."""
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 30, (n, 2)) * 60.0 + rng.normal(0, 6, (n, 2))
    boxes = np.concatenate([corner, corner + 20 + 40 * rng.random((n, 2))], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.random(n).astype(np.float32))


def _bytes(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8))


def _stripes(n: int, height: int, width: int) -> Tensor:
    return (torch.arange(n * height * width) % 409 < 200).view(n, height, width)


def _runs(n: int, pixels: int = 500 * 480) -> Arguments:
    """Counts and offsets of n masks of some hundred runs."""
    rng = np.random.default_rng(n)
    lists = []
    for _ in range(n):
        ends = np.sort(rng.choice(pixels, 400, replace=False))
        lists.append(np.diff(ends, prepend=0, append=pixels))
    offsets = np.cumsum([0, *(len(counts) for counts in lists)])
    return torch.from_numpy(np.concatenate(lists).astype(np.int64)), torch.from_numpy(offsets.astype(np.int64))


def _polygons(n: int) -> Arguments:
    """Stars of 600 vertices each."""
    angle = np.linspace(0, 2 * np.pi, 600, endpoint=False)
    radius = 60 + 30 * np.sin(7 * angle)
    one = np.stack([100 + radius * np.cos(angle), 90 + radius * np.sin(angle)], 1)
    points = np.concatenate([one + shift for shift in range(n)])
    return torch.from_numpy(points), torch.arange(n + 1) * len(angle)


def _text(n: int) -> Arguments:
    """Compressed text of n masks, whose every count is 5, -5 of the difference coding being 0."""
    first, rest = [53, 53, 53], [48] * 297  # "5", and the difference 0 to the count two before
    text = np.array((first + rest) * n, np.uint8)
    return torch.from_numpy(text), torch.arange(n + 1) * 300, torch.full((n,), 1500)


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

EXAMPLES: dict[str, Callable[[], Arguments]] = {
    "nms": lambda: (*_boxes(3000), 0.5),
    "batched_nms": lambda: (*_boxes(6000), torch.arange(6000) % 4, 0.5),
    "preprocess_image": lambda: (_bytes(400, 700, 3), 146, 256, 256, MEAN, STD, True, False),
    "resize_image": lambda: (_bytes(400, 700, 3), 300, 400, False),
    "rle_area": lambda: _runs(40),
    "rle_decode": lambda: (*_runs(4, 1024 * 1025), 1024, 1025, False),
    "rle_encode": lambda: (_stripes(4, 1024, 1025),),
    "rle_from_polygon": lambda: (*_polygons(28), 200, 210),
    "rle_from_string": lambda: _text(60),
    "rle_iou": lambda: (*_runs(40), *_runs(30), torch.arange(30) % 2 == 0),
    "rle_merge": lambda: (*_runs(10), False),
    "rle_to_bbox": lambda: (*_runs(40), torch.full((40,), 500)),
    "rle_to_string": lambda: _runs(40),
}

# Operations of this build that have an example; test_determinism fails where one has none.
COVERED = [op for op in schema.SCHEMAS if op in EXAMPLES]


def flat_bytes(result: Any) -> list[Any]:
    """The bits of a result, in a form that compares with ==: tensors in any nesting, with dtype and shape."""
    if isinstance(result, Tensor):
        return [str(result.dtype), tuple(result.shape), result.detach().contiguous().numpy().tobytes()]
    if isinstance(result, (tuple, list)):
        return [flat_bytes(part) for part in result]
    return [result]
