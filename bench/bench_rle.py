"""RLE operations beside pycocotools, in one process: the siblings of this package on the masks of one large picture.

Each group holds one operation on one set of masks; the ratio to the fastest of the group is in brackets behind each
figure. Both sides get the layout they like best, and the masks' conversion to it is not timed, except in the group
"row-major", where both get what PyTorch produces and pycocotools has to be given a transposed copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from fastsam_core import ops, rle
from fastsam_core.ops import schema

HEIGHT, WIDTH = 1200, 1800


def blobs(count: int) -> np.ndarray:
    """Round masks (count, H, W) uint8 of all sizes with rough edges, as a segmenter gives them."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    masks = np.empty((count, HEIGHT, WIDTH), np.uint8)
    for mask in masks:
        cy, cx, radius = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(10, 500)
        angle = np.arctan2(y - cy, x - cx)
        edge = radius * (1 + 0.1 * np.sin(9 * angle) + 0.02 * np.sin(90 * angle))
        mask[:] = (y - cy) ** 2 + (x - cx) ** 2 < edge**2
    return masks


MASKS = {
    "blobs": lambda: blobs(8),
    "noise": lambda: (np.random.default_rng(1).random((2, HEIGHT, WIDTH)) < 0.5).astype(np.uint8),
}


@pytest.fixture(scope="module", params=list(MASKS))
def masks(request: pytest.FixtureRequest) -> tuple[str, np.ndarray]:
    return request.param, MASKS[request.param]()


@pytest.fixture(params=["pycocotools", *ops.siblings("rle_encode")])
def peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module to measure: pycocotools.mask, or fastsam_core.rle on one sibling."""
    if request.param == "pycocotools":
        return coco
    for op in schema.SCHEMAS:
        monkeypatch.setattr(ops, op, ops.siblings(op)[request.param])
    return rle


def measure(benchmark: Any, group: str, work: Callable[[], Any]) -> None:
    benchmark.group = f"{group}, {torch.get_num_threads()} threads"
    benchmark.pedantic(work, rounds=7, warmup_rounds=2)


def test_encode_row_major(benchmark: Any, masks: tuple[str, np.ndarray], peer: Any) -> None:
    name, dense = masks
    tensor = torch.from_numpy(dense).bool()
    if peer is coco:
        measure(
            benchmark,
            f"encode {name}, row-major",
            lambda: coco.encode(np.asfortranarray(tensor.numpy().view(np.uint8).transpose(1, 2, 0))),
        )
    else:
        measure(benchmark, f"encode {name}, row-major", lambda: rle.from_masks(tensor))


def test_encode_column_major(benchmark: Any, masks: tuple[str, np.ndarray], peer: Any) -> None:
    name, dense = masks
    column_major = np.asfortranarray(dense.transpose(1, 2, 0))
    measure(benchmark, f"encode {name}, column-major", lambda: peer.encode(column_major))


@pytest.mark.parametrize("function", ["decode", "area", "toBbox", "merge", "iou"])
def test_encoded(benchmark: Any, masks: tuple[str, np.ndarray], peer: Any, function: str) -> None:
    name, dense = masks
    encoded = coco.encode(np.asfortranarray(dense.transpose(1, 2, 0)))
    arguments = (encoded, [0] * len(encoded)) if function == "iou" else ()
    measure(benchmark, f"{function} {name}", lambda: getattr(peer, function)(encoded, *arguments))


def test_polygons(benchmark: Any, peer: Any) -> None:
    rng = np.random.default_rng(2)
    polygons = []
    for _ in range(50):
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        radius = rng.uniform(5, 300) * (1 + 0.2 * rng.random(60))
        x, y = rng.uniform(0, WIDTH) + radius * np.cos(angle), rng.uniform(0, HEIGHT) + radius * np.sin(angle)
        polygons.append(np.stack([x, y], 1).ravel().tolist())
    measure(benchmark, "50 polygons", lambda: peer.frPyObjects(polygons, HEIGHT, WIDTH))
