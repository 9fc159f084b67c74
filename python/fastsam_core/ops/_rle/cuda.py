"""CUDA sibling of the operations on run lengths, on the current stream of the tensors' device.

Each operation waits for the GPU once: for the size of its result, or to know whether the run lengths are valid. Set
operations, cropping, polygons and strings have no CUDA kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._inputs import MAX_PIXELS, check_masks, check_memory, check_ragged, check_size, check_vector
from .._native_cuda import on_device_of


def rle_encode(masks: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_encode`."""
    check_masks(masks)
    n, height, width = masks.shape
    if height * width == 0:
        return masks.new_zeros(n, dtype=torch.int64), torch.arange(n + 1, device=masks.device)
    with on_device_of(masks) as (cuda, stream):
        workspace = masks.new_empty(
            n * cuda.rle_encode_num_parts(height, width) * cuda.RLE_PART_BYTES, dtype=torch.uint8
        )
        lengths = masks.new_empty(n, dtype=torch.int64)
        mask_args = masks.data_ptr(), n, height, width, *masks.stride()
        cuda.rle_encode_count(*mask_args, workspace.data_ptr(), lengths.data_ptr(), stream)
        offsets = offsets_of(lengths, cuda, stream)
        counts = masks.new_empty(int(offsets[-1]), dtype=torch.int64)
        cuda.rle_encode_write(*mask_args, workspace.data_ptr(), offsets.data_ptr(), counts.data_ptr(), stream)
    return counts, offsets


def rle_decode(counts: Tensor, offsets: Tensor, height: int, width: int, column_major: bool = False) -> Tensor:
    """See `fastsam_core.ops.rle_decode`."""
    check_size(height, width)
    runs = _Runs("counts", counts, offsets)
    with on_device_of(counts, offsets) as (cuda, stream):
        for i, total in enumerate(_measure([runs], cuda, stream, ends=True)):
            if total != height * width:
                raise ValueError(f"the runs of mask {i} sum to {total}, but its size has {height * width} pixels")
        check_memory(runs.n * height * width)
        masks = counts.new_empty((runs.n, *((width, height) if column_major else (height, width))), dtype=torch.bool)
        if masks.numel():
            cuda.rle_decode(*runs.args, runs.ends.data_ptr(), height, width, column_major, masks.data_ptr(), stream)
    return masks.transpose(1, 2) if column_major else masks


def rle_area(counts: Tensor, offsets: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_area`."""
    runs = _Runs("counts", counts, offsets)
    with on_device_of(counts, offsets) as (cuda, stream):
        _measure([runs], cuda, stream)
    return runs.areas


def rle_to_bbox(counts: Tensor, offsets: Tensor, heights: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_to_bbox`."""
    runs = _Runs("counts", counts, offsets)
    check_vector("heights", heights, length=runs.n)
    with on_device_of(counts, offsets, heights) as (cuda, stream):
        _measure([runs], cuda, stream, heights=heights.contiguous())
    return runs.boxes


def rle_iou(dt_counts: Tensor, dt_offsets: Tensor, gt_counts: Tensor, gt_offsets: Tensor, iscrowd: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_iou`."""
    dt, gt = _Runs("dt_counts", dt_counts, dt_offsets), _Runs("gt_counts", gt_counts, gt_offsets)
    check_vector("iscrowd", iscrowd, torch.bool, gt.n)
    iscrowd = iscrowd.contiguous()
    with on_device_of(dt_counts, dt_offsets, gt_counts, gt_offsets, iscrowd) as (cuda, stream):
        sizes = set(_measure([dt, gt], cuda, stream, ends=True))
        if len(sizes) > 1:
            raise ValueError(f"the masks must all have the same size; got pixel counts {sorted(sizes)}")
        out = dt_counts.new_empty((dt.n, gt.n), dtype=torch.float64)
        cuda.rle_iou(dt.measured_args, gt.measured_args, iscrowd.data_ptr(), out.data_ptr(), stream)
    return out


def offsets_of(lengths: Tensor, cuda: Any, stream: int) -> Tensor:
    """Return the offsets (N + 1,) of N concatenated lists of these lengths, on the GPU."""
    offsets = lengths.new_empty(lengths.shape[0] + 1)
    cuda.rle_offsets(lengths.data_ptr(), lengths.shape[0], offsets.data_ptr(), stream)
    return offsets


class _Runs:
    """Run lengths of n masks, and what `_measure` measures of them."""

    areas: Tensor  # (n,) int64, like the others
    boxes: Tensor  # (n, 4)
    ends: Tensor  # (size,): where each run ends in its mask
    foreground_before: Tensor  # (size,): foreground pixels of the mask before each run's end

    def __init__(self, name: str, counts: Tensor, offsets: Tensor) -> None:
        check_ragged(name, counts, offsets)
        self.counts, self.offsets = counts.contiguous(), offsets.contiguous()
        self.size, self.n = counts.shape[0], offsets.shape[0] - 1

    @property
    def args(self) -> tuple[int, int, int, int]:
        return self.counts.data_ptr(), self.size, self.offsets.data_ptr(), self.n

    @property
    def measured_args(self) -> tuple[int, ...]:
        return *self.args, self.ends.data_ptr(), self.foreground_before.data_ptr(), self.areas.data_ptr()


def _measure(
    lists: list[_Runs], cuda: Any, stream: int, heights: Tensor | None = None, ends: bool = False
) -> list[int]:
    """Measure the masks of all `lists` and return each mask's number of pixels.

    Sets `areas`; also `boxes` if `heights` is given, and `ends` and `foreground_before` if `ends` is True. Waits for
    the GPU. ValueError for invalid run lengths.
    """
    status = lists[0].counts.new_zeros(1 + sum(runs.n for runs in lists))  # error bits, then pixels of each mask
    num_pixels = status[1:]
    for runs in lists:
        runs.areas = status.new_empty(runs.n)
        boxes_ptr = ends_ptr = before_ptr = 0
        if heights is not None:
            runs.boxes = status.new_empty(runs.n, 4)
            boxes_ptr = runs.boxes.data_ptr()
        if ends:
            runs.ends, runs.foreground_before = torch.empty_like(runs.counts), torch.empty_like(runs.counts)
            ends_ptr, before_ptr = runs.ends.data_ptr(), runs.foreground_before.data_ptr()
        heights_ptr = 0 if heights is None else heights.data_ptr()
        output_ptrs = num_pixels.data_ptr(), runs.areas.data_ptr(), heights_ptr, boxes_ptr, ends_ptr, before_ptr
        cuda.rle_measure(*runs.args, status.data_ptr(), *output_ptrs, stream)
        num_pixels = num_pixels[runs.n :]
    faults, *totals = status.tolist()
    if faults & cuda.RLE_BAD_OFFSETS:
        size = next(runs.size for runs in lists if not _are_valid_offsets(runs.offsets.tolist(), runs.size))
        raise ValueError(f"offsets must rise from 0 to {size}, the number of values")
    if faults & cuda.RLE_BAD_RUN:
        raise ValueError(f"run lengths must be from 0 to {MAX_PIXELS}")
    if faults & cuda.RLE_BAD_SUM:
        raise ValueError(f"the runs of a mask sum to more than {MAX_PIXELS}")
    if faults & cuda.RLE_BAD_HEIGHT:
        raise ValueError("a mask of height 0 has foreground runs; its height must be positive")
    return totals


def _are_valid_offsets(offsets: list[int], size: int) -> bool:
    return offsets[0] == 0 and offsets[-1] == size and sorted(offsets) == offsets
