"""RLE operations, compared with pycocotools and faster-coco-eval in one process, on the masks of one large image.

Each group holds one operation on one set of masks. The number in brackets after each time is its ratio to the fastest
of the group. Both sides get masks in their preferred memory layout, and the conversion to it is not timed. The
exception is the group "row-major": there both start from PyTorch's layout, and the peers need a transposed copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from fastsam_core import _rle_dicts, ops, rle
from fastsam_core.ops import schema

try:
    import faster_coco_eval.core.mask as faster
except ImportError:
    faster = None

HEIGHT, WIDTH = 1200, 1800


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """Return round masks (count, H, W) uint8 of various sizes with rough edges, like a segmenter's."""
    rng = np.random.default_rng(seed)
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


PEERS = {"pycocotools": coco, "faster-coco-eval": faster}


@pytest.fixture(params=[*PEERS, *ops.siblings("rle_encode")])
def peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Module to measure: pycocotools.mask, faster_coco_eval.core.mask, or fastsam_core.rle with one sibling."""
    if request.param in PEERS:
        return PEERS[request.param] or pytest.skip("faster-coco-eval is not installed")
    for op in schema.SCHEMAS:
        monkeypatch.setattr(ops, op, ops.siblings(op)[request.param])
    if request.param == "reference":
        monkeypatch.setattr(_rle_dicts, "native", None)
    elif request.param != f"cpu[{ops.isa()}]":
        pytest.skip("the instruction sets differ little here; the one in use is measured")
    return rle


def measure(benchmark: Any, group: str, function: Callable[[], Any]) -> None:
    benchmark.group = f"{group}, {torch.get_num_threads()} threads"
    benchmark.pedantic(function, rounds=7, warmup_rounds=2)


def test_encode_row_major(benchmark: Any, masks: tuple[str, np.ndarray], peer: Any) -> None:
    name, dense = masks
    tensor = torch.from_numpy(dense).bool()
    if peer in PEERS.values():
        measure(
            benchmark,
            f"encode {name}, row-major",
            lambda: peer.encode(np.asfortranarray(tensor.numpy().view(np.uint8).transpose(1, 2, 0))),
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


# -------------------------------------------------------------------------------------------- many masks, and tiny ones


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, list[dict[str, Any]]]:
    """200 masks in column-major order (H, W, 200), and their RLEs."""
    dense = np.zeros((HEIGHT, WIDTH, 200), np.uint8, order="F")
    for start in range(0, 200, 8):
        dense[:, :, start : start + 8] = blobs(8, seed=start).transpose(1, 2, 0)
    return dense, coco.encode(dense)


@pytest.mark.parametrize("function", ["encode", "decode", "iou", "area", "toBbox", "merge"])
def test_200_masks(benchmark: Any, many: tuple[np.ndarray, list[dict[str, Any]]], peer: Any, function: str) -> None:
    dense, encoded = many
    if peer is rle and _rle_dicts.native is None:
        pytest.skip("the reference takes minutes here")
    arguments = {"encode": (dense,), "iou": (encoded, encoded, [0] * 200)}.get(function, (encoded,))
    benchmark.group = f"{function} 200 masks, {torch.get_num_threads()} threads"
    benchmark.pedantic(lambda: getattr(peer, function)(*arguments), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("text", [False, True], ids=["bytes", "str"])
@pytest.mark.parametrize("function", ["encode", "decode", "area", "toBbox", "iou", "merge"])
def test_tiny_mask(benchmark: Any, peer: Any, function: str, text: bool) -> None:
    """Measure the overhead of calls, with one mask of 64 x 64."""
    mask = np.zeros((64, 64), np.uint8, order="F")
    mask[20:40, 20:40] = 1
    encoded = coco.encode(mask)
    if text:
        if peer is not rle or function == "encode":
            pytest.skip("only this package takes str; there is no text in masks")
        encoded = {**encoded, "counts": encoded["counts"].decode()}
    arguments = {"encode": (mask,), "iou": ([encoded], [encoded], [0]), "merge": ([encoded, encoded],)}.get(
        function, (encoded,)
    )
    call = getattr(peer, function)
    benchmark.group = f"{function} one tiny mask"
    benchmark.pedantic(lambda: [call(*arguments) for _ in range(100)], rounds=30, warmup_rounds=3)


@pytest.mark.parametrize("variant", ["runs", "dense"])
def test_crop_200_masks(benchmark: Any, many: tuple[np.ndarray, list[dict[str, Any]]], variant: str) -> None:
    """Crop masks to their bounding boxes, the form of supervision's CompactMask, from runs and by way of pixels."""
    encoded = many[1]
    boxes = rle.toBbox(encoded).astype(np.int64)

    def dense() -> Any:
        masks = rle.to_masks(encoded)
        return [
            rle.from_masks(mask[None, y : y + h, x : x + w])
            for mask, (x, y, w, h) in zip(masks, boxes.tolist(), strict=True)
        ]

    benchmark.group = f"crop 200 masks, {torch.get_num_threads()} threads"
    benchmark.pedantic(dense if variant == "dense" else lambda: rle.crop(encoded, boxes), rounds=3, warmup_rounds=1)
