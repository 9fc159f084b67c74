"""C++ sibling of the operations on run lengths: pass tensors to the compiled module, which also checks the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._inputs import (
    check_masks,
    check_memory,
    check_polygons,
    check_ragged,
    check_size,
    check_truth_table,
    check_vector,
    check_windows,
)
from .._native import array_of, cpu_module
from .._threads import thread_count

_cpu: Any = cpu_module


def _runs(counts: Tensor, offsets: Tensor, name: str = "counts") -> tuple[Any, Any]:
    check_ragged(name, counts, offsets)
    return array_of(counts), array_of(offsets)


def _tensors(arrays: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    first, second = arrays
    return torch.from_numpy(first), torch.from_numpy(second)


def rle_encode(masks: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_encode`."""
    check_masks(masks)
    return _tensors(_cpu.rle_encode(masks.numpy(), thread_count()))


def rle_decode(counts: Tensor, offsets: Tensor, height: int, width: int, column_major: bool = False) -> Tensor:
    """See `fastsam_core.ops.rle_decode`."""
    check_size(height, width)
    runs = _runs(counts, offsets)
    _cpu.rle_check(*runs, height * width)  # before the masks are allocated
    n = offsets.shape[0] - 1
    check_memory(n * height * width)
    # Allocated by NumPy, which uses huge pages for large arrays. Zeroed pages cost nothing until they are written, and
    # only foreground is.
    array = np.zeros((n, width, height) if column_major else (n, height, width), dtype=np.bool_)
    _cpu.rle_decode(*runs, height, width, column_major, array, thread_count())
    masks = torch.from_numpy(array)
    return masks.transpose(1, 2) if column_major else masks


def rle_area(counts: Tensor, offsets: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_area`."""
    return torch.from_numpy(_cpu.rle_area(*_runs(counts, offsets)))


def rle_to_bbox(counts: Tensor, offsets: Tensor, heights: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_to_bbox`."""
    runs = _runs(counts, offsets)
    check_vector("heights", heights, length=offsets.shape[0] - 1)
    return torch.from_numpy(_cpu.rle_to_bbox(*runs, array_of(heights)))


def rle_iou(dt_counts: Tensor, dt_offsets: Tensor, gt_counts: Tensor, gt_offsets: Tensor, iscrowd: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_iou`."""
    dt, gt = _runs(dt_counts, dt_offsets, "dt_counts"), _runs(gt_counts, gt_offsets, "gt_counts")
    check_vector("iscrowd", iscrowd, torch.bool, gt_offsets.shape[0] - 1)
    return torch.from_numpy(_cpu.rle_iou(*dt, *gt, array_of(iscrowd), thread_count()))


def rle_merge(counts: Tensor, offsets: Tensor, intersect: bool = False) -> Tensor:
    """See `fastsam_core.ops.rle_merge`."""
    return torch.from_numpy(_cpu.rle_merge(*_runs(counts, offsets), intersect))


def rle_combine(
    a_counts: Tensor, a_offsets: Tensor, b_counts: Tensor, b_offsets: Tensor, truth: int
) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_combine`."""
    check_truth_table(truth)
    a, b = _runs(a_counts, a_offsets, "a_counts"), _runs(b_counts, b_offsets, "b_counts")
    return _tensors(_cpu.rle_combine(*a, *b, truth, thread_count()))


def rle_crop(counts: Tensor, offsets: Tensor, heights: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_crop`."""
    runs = _runs(counts, offsets)
    check_windows(heights, windows, offsets.shape[0] - 1)
    return _tensors(_cpu.rle_crop(*runs, array_of(heights), array_of(windows), thread_count()))


def rle_from_polygon(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_from_polygon`."""
    check_size(height, width)
    check_polygons(points, offsets)
    return _tensors(_cpu.rle_from_polygon(array_of(points), array_of(offsets), height, width, thread_count()))


def rle_to_string(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_to_string`."""
    return _tensors(_cpu.rle_to_string(*_runs(counts, offsets)))


def rle_from_string(text: Tensor, offsets: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_from_string`."""
    check_ragged("text", text, offsets, torch.uint8)
    check_vector("pixels", pixels, length=offsets.shape[0] - 1)
    return _tensors(_cpu.rle_from_string(*map(array_of, (text, offsets, pixels))))
