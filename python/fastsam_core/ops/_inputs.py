"""Input checks and conversions that several families share.

The checks run in every sibling of an operation and in its fake, so they look at types, dtypes and shapes, not values.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor

from .._cgroups import memory_limit

# Largest end of a run and largest number of pixels: a sum of two still fits int64.
MAX_PIXELS = (1 << 62) - 1


def check_boxes(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> None:
    """Raise ValueError unless boxes are (N, 4), scores (N,), idxs (N,) or None, and the threshold is in [0, 1].

    All must be real, not 8-bit floats, and on one device, and boxes not bool.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), x1 y1 x2 y2; got {tuple(boxes.shape)}")
    if boxes.dtype == torch.bool:
        raise ValueError("boxes must be real numbers, not torch.bool")
    columns = {"scores": scores} if idxs is None else {"scores": scores, "idxs": idxs}
    for name, column in columns.items():
        if column.dim() != 1 or column.shape[0] != boxes.shape[0]:
            raise ValueError(
                f"{name} must have shape (N,) for the N boxes; got {tuple(column.shape)} for {tuple(boxes.shape)}"
            )
        if column.device != boxes.device:
            raise ValueError(f"{name} is on {column.device}, but boxes are on {boxes.device}; move one of them")
    for name, tensor in {"boxes": boxes, **columns}.items():
        if tensor.is_complex():
            raise ValueError(f"{name} must be real numbers, not {tensor.dtype}")
        if tensor.is_floating_point() and tensor.element_size() == 1:
            raise ValueError(f"{name} must be integers or floats of at least 16 bits, not {tensor.dtype}")
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold must be a number from 0 to 1; got {iou_threshold}")


def to_compute_dtype(boxes: Tensor) -> Tensor:
    """Convert boxes to the dtype that NMS computes in: float32 for float32 and narrower floats, else float64.

    float64 and integers need float64: float32 would merge large coordinates that differ little (satellite rasters).
    """
    boxes = boxes.detach()
    fits_float32 = boxes.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return boxes.to(torch.float32 if fits_float32 else torch.float64)


def to_sortable_scores(scores: Tensor) -> Tensor:
    """Convert scores to a floating dtype that keeps their order, with -0.0 turned into 0.0 so that the two tie.

    Integers become float64, so different ones beyond 2^53 may tie.
    """
    scores = scores.detach()
    return (scores if scores.is_floating_point() else scores.to(torch.float64)) + 0.0


def class_ids(idxs: Tensor) -> Tensor:
    """Return int64 class numbers that are equal exactly where those of `idxs` are; ValueError for NaN."""
    idxs = idxs.detach()
    if not idxs.is_floating_point():
        return idxs.to(torch.int64)
    if bool(idxs.isnan().any()):
        raise ValueError("idxs hold NaN; a class must be a number")
    return torch.unique(idxs, return_inverse=True)[1]


def check_masks(masks: Tensor) -> None:
    """Raise ValueError unless masks are (N, H, W), bool or uint8."""
    if masks.dim() != 3:
        raise ValueError(f"masks must have shape (N, H, W); got {tuple(masks.shape)}")
    if masks.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"masks must be bool or uint8, not {masks.dtype}; threshold them first, as in masks > 0")


def check_size(height: int, width: int) -> None:
    """Raise ValueError if height or width is negative, or if their product exceeds `MAX_PIXELS`."""
    if height < 0 or width < 0:
        raise ValueError(f"height and width can't be negative; got {height} x {width}")
    if height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {height} x {width} has more pixels than the limit of {MAX_PIXELS}")


def check_vector(name: str, tensor: Tensor, dtype: torch.dtype = torch.int64, length: int | None = None) -> None:
    """Raise ValueError unless `tensor` is one-dimensional, of `dtype`, and of `length` if one is given."""
    if tensor.dim() != 1 or tensor.dtype != dtype:
        raise ValueError(f"{name} must be a 1-D tensor of {dtype}; got {tuple(tensor.shape)} of {tensor.dtype}")
    if length is not None and tensor.shape[0] != length:
        raise ValueError(f"{name} must have {length} values; got {tensor.shape[0]}")


def check_ragged(name: str, values: Tensor, offsets: Tensor, dtype: torch.dtype = torch.int64) -> None:
    """Raise ValueError unless `values` (R,) and int64 `offsets` (N + 1,) can describe N concatenated lists."""
    check_vector(name, values, dtype)
    _check_offsets(name, offsets)


def check_polygons(points: Tensor, offsets: Tensor) -> None:
    """Raise ValueError unless float64 `points` (P, 2) and int64 `offsets` (N + 1,) can be vertices of N polygons."""
    if points.dim() != 2 or points.shape[1] != 2 or points.dtype != torch.float64:
        raise ValueError(f"points must be (P, 2) float64; got {tuple(points.shape)} of {points.dtype}")
    _check_offsets("points", offsets)


def _check_offsets(name: str, offsets: Tensor) -> None:
    check_vector(f"the offsets of {name}", offsets)
    if offsets.shape[0] < 1:
        raise ValueError(f"the offsets of {name} must have at least one value, the leading 0")


def check_truth_table(truth: int) -> None:
    """Raise ValueError unless `truth` is a truth table that maps pixels outside both masks to background."""
    if not (0 <= truth <= 15 and truth % 2 == 0):
        raise ValueError(f"truth must be an even number from 0 to 14, one bit for each case; got {truth}")


def check_windows(heights: Tensor, windows: Tensor, n: int) -> None:
    """Raise ValueError unless heights are (n,) and windows (n, 4), both int64."""
    check_vector("heights", heights, length=n)
    if windows.shape != (n, 4) or windows.dtype != torch.int64:
        raise ValueError(f"windows must be ({n}, 4) int64; got {tuple(windows.shape)} of {windows.dtype}")


def unknown_size() -> torch.SymInt:
    """Return a symbolic size for the result of a fake: one that depends on the values of the inputs."""
    return torch.library.get_ctx().new_dynamic_size()


def check_memory(nbytes: int) -> None:
    """Raise MemoryError if a result of `nbytes` can't fit into this machine's memory.

    Without this check, an operating system that overcommits would grant the allocation, and fail when it is written.
    """
    limit = _memory_limit()
    if nbytes > limit:
        raise MemoryError(f"the result would take {nbytes:,} bytes, more than this machine has ({limit:,})")


@cache
def _memory_limit() -> int:
    """Return the bytes of memory that this process can have: the machine's, or its container's limit if lower."""
    limits = [MAX_PIXELS]
    with suppress(ValueError, OSError):
        limits.append(_physical_memory())
    return min(limit for limit in (*limits, memory_limit() or 0) if limit > 0)


def _physical_memory() -> int:
    if sys.platform == "win32":
        # MEMORYSTATUSEX: its own size (64) and the load in per cent, 32 bits each; then sizes in bytes as 64-bit
        # integers, total physical memory first.
        status = (ctypes.c_uint64 * 8)(64)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(status)
        return status[1]
    else:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
