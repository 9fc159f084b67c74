"""Signatures and fakes of the operations on run lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import (
    check_masks,
    check_polygons,
    check_ragged,
    check_size,
    check_truth_table,
    check_vector,
    check_windows,
    unknown_size,
)

SCHEMAS = {
    "rle_encode": "(Tensor masks) -> (Tensor, Tensor)",
    "rle_decode": "(Tensor counts, Tensor offsets, SymInt height, SymInt width, bool column_major=False) -> Tensor",
    "rle_area": "(Tensor counts, Tensor offsets) -> Tensor",
    "rle_to_bbox": "(Tensor counts, Tensor offsets, Tensor heights) -> Tensor",
    "rle_iou": "(Tensor dt_counts, Tensor dt_offsets, Tensor gt_counts, Tensor gt_offsets, Tensor iscrowd) -> Tensor",
    "rle_merge": "(Tensor counts, Tensor offsets, bool intersect=False) -> Tensor",
    "rle_combine": (
        "(Tensor a_counts, Tensor a_offsets, Tensor b_counts, Tensor b_offsets, int truth) -> (Tensor, Tensor)"
    ),
    "rle_crop": "(Tensor counts, Tensor offsets, Tensor heights, Tensor windows) -> (Tensor, Tensor)",
    "rle_from_polygon": "(Tensor points, Tensor offsets, SymInt height, SymInt width) -> (Tensor, Tensor)",
    "rle_to_string": "(Tensor counts, Tensor offsets) -> (Tensor, Tensor)",
    "rle_from_string": "(Tensor text, Tensor offsets, Tensor pixels) -> (Tensor, Tensor)",
}


def rle_encode(masks: Tensor) -> tuple[Tensor, Tensor]:
    check_masks(masks)
    counts = masks.new_empty(unknown_size(), dtype=torch.int64)
    return counts, masks.new_empty(masks.shape[0] + 1, dtype=torch.int64)


def rle_decode(counts: Tensor, offsets: Tensor, height: int, width: int, column_major: bool = False) -> Tensor:
    check_ragged("counts", counts, offsets)
    check_size(height, width)
    n = offsets.shape[0] - 1
    if column_major:
        return counts.new_empty((n, width, height), dtype=torch.bool).transpose(1, 2)
    return counts.new_empty((n, height, width), dtype=torch.bool)


def rle_area(counts: Tensor, offsets: Tensor) -> Tensor:
    check_ragged("counts", counts, offsets)
    return offsets.new_empty(offsets.shape[0] - 1)


def rle_to_bbox(counts: Tensor, offsets: Tensor, heights: Tensor) -> Tensor:
    check_ragged("counts", counts, offsets)
    check_vector("heights", heights, length=offsets.shape[0] - 1)
    return offsets.new_empty((offsets.shape[0] - 1, 4))


def rle_iou(dt_counts: Tensor, dt_offsets: Tensor, gt_counts: Tensor, gt_offsets: Tensor, iscrowd: Tensor) -> Tensor:
    check_ragged("dt_counts", dt_counts, dt_offsets)
    check_ragged("gt_counts", gt_counts, gt_offsets)
    check_vector("iscrowd", iscrowd, torch.bool, gt_offsets.shape[0] - 1)
    return dt_counts.new_empty((dt_offsets.shape[0] - 1, gt_offsets.shape[0] - 1), dtype=torch.float64)


def rle_merge(counts: Tensor, offsets: Tensor, intersect: bool = False) -> Tensor:
    check_ragged("counts", counts, offsets)
    return counts.new_empty(unknown_size())


def rle_combine(
    a_counts: Tensor, a_offsets: Tensor, b_counts: Tensor, b_offsets: Tensor, truth: int
) -> tuple[Tensor, Tensor]:
    check_ragged("a_counts", a_counts, a_offsets)
    check_ragged("b_counts", b_counts, b_offsets)
    check_truth_table(truth)
    return a_offsets.new_empty(unknown_size()), torch.empty_like(a_offsets)


def rle_crop(counts: Tensor, offsets: Tensor, heights: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    check_ragged("counts", counts, offsets)
    check_windows(heights, windows, offsets.shape[0] - 1)
    return offsets.new_empty(unknown_size()), torch.empty_like(offsets)


def rle_from_polygon(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    check_size(height, width)
    check_polygons(points, offsets)
    return offsets.new_empty(unknown_size()), torch.empty_like(offsets)


def rle_to_string(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    check_ragged("counts", counts, offsets)
    return counts.new_empty(unknown_size(), dtype=torch.uint8), torch.empty_like(offsets)


def rle_from_string(text: Tensor, offsets: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    check_ragged("text", text, offsets, torch.uint8)
    check_vector("pixels", pixels, length=offsets.shape[0] - 1)
    return offsets.new_empty(unknown_size()), torch.empty_like(offsets)
