"""Operations with several implementations ("siblings") under one contract, registered with the PyTorch dispatcher.

The siblings are `reference` (plain PyTorch, any device) and `cpu` (C++, CPU tensors). Both give the same results, and
both raise ValueError for the same inputs; `why` says which one serves a call. `FASTSAM_NATIVE=0` switches the C++
sibling off, `FASTSAM_ISA` (baseline, avx2, avx512, neon) chooses its instruction set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import cpu, reference, schema
from ._native import cpu_module, cpu_reason

__all__ = [
    "available_isas",
    "batched_nms",
    "isa",
    "nms",
    "rle_area",
    "rle_decode",
    "rle_encode",
    "rle_from_polygon",
    "rle_from_string",
    "rle_iou",
    "rle_merge",
    "rle_to_bbox",
    "rle_to_string",
    "siblings",
    "use_isa",
    "why",
]

cpu.register()
_ops: Any = torch.ops.fastsam_core


# ----------------------------------------------------------------------------------------------------------- operations


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: keep the best box, drop those that overlap it too much, go on with the rest.

    Args:
        boxes: (N, 4) x1 y1 x2 y2, finite. float32 and narrower floats compute in float32; float64 and integers in
            float64.
        scores: (N,) any real dtype, no NaN.
        iou_threshold: from 0 to 1; a box whose IoU with a kept one is *above* it is dropped. Boxes without area
            overlap nothing.

    Returns:
        (K,) int64 indices of the kept boxes, by score descending; equal scores by index.

    Raises:
        ValueError: shapes that don't fit, NaN or infinite boxes, NaN scores, a threshold outside [0, 1].
    """
    result: Tensor = _ops.nms.default(boxes, scores, float(iou_threshold))
    return result


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each class: boxes of different `idxs` never suppress one another.

    Classes are compared as they are; boxes are not moved apart by class, so no precision is lost to large class
    numbers or coordinates.

    Args:
        boxes: (N, 4), as in `nms`.
        scores: (N,), as in `nms`.
        idxs: (N,) class of each box, any real dtype, no NaN.
        iou_threshold: as in `nms`.

    Returns:
        (K,) int64 indices of the kept boxes of all classes, by score descending; equal scores by index.
    """
    result: Tensor = _ops.batched_nms.default(boxes, scores, idxs, float(iou_threshold))
    return result


def rle_encode(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Run lengths of masks.

    Args:
        masks: (N, H, W) bool or uint8, any strides; every non-zero value is foreground.

    Returns:
        counts (R,) int64, the runs of all masks, each mask's starting with background, down the columns; and offsets
        (N + 1,) int64, where each mask's runs begin.
    """
    counts, offsets = _ops.rle_encode.default(masks)
    return counts, offsets


def rle_decode(counts: Tensor, offsets: Tensor, height: int, width: int, column_major: bool = False) -> Tensor:
    """Masks (N, height, width) bool from run lengths; ValueError unless each mask's runs sum to height * width.

    With `column_major`, each mask lies in memory column by column (strides 1, height), else row by row.
    """
    result: Tensor = _ops.rle_decode.default(counts, offsets, height, width, column_major)
    return result


def rle_area(counts: Tensor, offsets: Tensor) -> Tensor:
    """Foreground pixels of each mask: (N,) int64."""
    result: Tensor = _ops.rle_area.default(counts, offsets)
    return result


def rle_to_bbox(counts: Tensor, offsets: Tensor, heights: Tensor) -> Tensor:
    """The box around each mask's foreground: (N, 4) int64 x y width height, zeros without foreground.

    `heights` (N,) int64 holds the masks' heights.
    """
    result: Tensor = _ops.rle_to_bbox.default(counts, offsets, heights)
    return result


def rle_iou(dt_counts: Tensor, dt_offsets: Tensor, gt_counts: Tensor, gt_offsets: Tensor, iscrowd: Tensor) -> Tensor:
    """Intersection over union of every pair of masks: (D, G) float64; 0 where both are empty.

    Where `iscrowd` (G,) bool is set, the union is the area of the first mask alone (COCO's rule for crowd regions).
    ValueError unless all masks have the same number of pixels.
    """
    result: Tensor = _ops.rle_iou.default(dt_counts, dt_offsets, gt_counts, gt_offsets, iscrowd)
    return result


def rle_merge(counts: Tensor, offsets: Tensor, intersect: bool = False) -> Tensor:
    """Union, or intersection, of N masks: the runs (R,) int64 of one mask; none for N = 0."""
    result: Tensor = _ops.rle_merge.default(counts, offsets, intersect)
    return result


def rle_from_polygon(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Run lengths of filled polygons, pixel for pixel as COCO's tools draw them.

    Args:
        points: (P, 2) float64 x, y in pixels, the vertices of all polygons; finite.
        offsets: (N + 1,) int64, where each polygon's vertices begin.
        height: of the masks.
        width: of the masks.

    Returns:
        counts and offsets, as `rle_encode`.
    """
    counts, run_offsets = _ops.rle_from_polygon.default(points, offsets, height, width)
    return counts, run_offsets


def rle_to_string(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """COCO's compressed text of run lengths: characters (T,) uint8 of all masks, and offsets (N + 1,) int64."""
    text, text_offsets = _ops.rle_to_string.default(counts, offsets)
    return text, text_offsets


def rle_from_string(text: Tensor, offsets: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Run lengths from COCO's compressed text.

    Args:
        text: (T,) uint8, the characters of all masks.
        offsets: (N + 1,) int64, where each mask's characters begin.
        pixels: (N,) int64, height * width of each mask.

    Returns:
        counts and offsets, as `rle_encode`.

    Raises:
        ValueError: a foreign character, an unterminated or over-long number, a negative run, or runs that don't sum
            to `pixels`.
    """
    counts, run_offsets = _ops.rle_from_string.default(text, offsets, pixels)
    return counts, run_offsets


# ------------------------------------------------------------------------------------------------------------- siblings


def siblings(op: str) -> dict[str, Callable[..., Any]]:
    """Every available implementation of `op`, by name, to be called directly: `reference`, `cpu[avx2]`, ..."""
    _check_op(op)
    found: dict[str, Callable[..., Any]] = {"reference": getattr(reference, op)}
    for name in available_isas():
        found[f"cpu[{name}]"] = _bound(getattr(cpu, op), name)
    return found


def why(op: str, tensor: Tensor | None = None) -> dict[str, str]:
    """Which sibling serves a call of `op`: "" for that one, and for each other one the reason why not.

    Args:
        op: the operation's name, such as "nms".
        tensor: an input of the call; a CPU tensor is assumed without one.
    """
    _check_op(op)
    device = "cpu" if tensor is None else tensor.device.type
    reasons = {
        "cpu": cpu_reason or ("" if device == "cpu" else f"the tensor is on '{device}'"),
        "cuda": "this version has no CUDA operations yet",
    }
    reasons["reference"] = "" if reasons["cpu"] else "the cpu sibling serves this call"
    return reasons


def available_isas() -> list[str]:
    """Instruction sets that this build holds and this machine has, best first; empty without the native module."""
    return list(cpu_module.available_isas()) if cpu_module else []


def isa() -> str | None:
    """The instruction set in use; None without the native module."""
    return str(cpu_module.isa()) if cpu_module else None


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Within this context the process uses instruction set `name`; ValueError, listing them, if it is not available."""
    if cpu_module is None:
        raise ValueError(f"the instruction set {name!r} can't be chosen: {cpu_reason}")
    before = cpu_module.isa()
    cpu_module.force_isa(name)
    try:
        yield
    finally:
        cpu_module.force_isa(before)


def _bound(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with use_isa(name):
            return function(*args, **kwargs)

    return call


def _check_op(op: str) -> None:
    if op not in schema.SCHEMAS:
        raise ValueError(f"there is no operation {op!r}; there are {', '.join(schema.SCHEMAS)}")
