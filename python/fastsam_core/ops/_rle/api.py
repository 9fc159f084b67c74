"""What callers see of the operations on run lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


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


def rle_combine(
    a_counts: Tensor, a_offsets: Tensor, b_counts: Tensor, b_offsets: Tensor, truth: int
) -> tuple[Tensor, Tensor]:
    """A set operation on N pairs of masks.

    Args:
        a_counts: (R,) int64 run lengths of N masks.
        a_offsets: (N + 1,) int64.
        b_counts: (S,) int64 run lengths of N more.
        b_offsets: (N + 1,) int64.
        truth: bit (a + 2 * b) says whether a pixel that is a in the one and b in the other belongs to the result:
            14 union, 8 intersection, 2 difference, 6 symmetric difference. Bit 0 is not set.

    Returns:
        counts and offsets, as `rle_encode`.

    Raises:
        ValueError: broken runs, another number of masks or of pixels on the one side than on the other.
    """
    counts, offsets = _ops.rle_combine.default(a_counts, a_offsets, b_counts, b_offsets, truth)
    return counts, offsets


def rle_crop(counts: Tensor, offsets: Tensor, heights: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """The run lengths of what a window shows of each mask; where it leaves the mask, it shows background.

    Args:
        counts: (R,) int64 run lengths of N masks.
        offsets: (N + 1,) int64.
        heights: (N,) int64, the masks' heights.
        windows: (N, 4) int64 x, y, width, height; x and y may be negative, and the window may be larger than the mask.

    Returns:
        counts and offsets, as `rle_encode`, of masks of the windows' sizes.

    Raises:
        ValueError: broken runs, runs that don't fill columns of the height, windows of negative size.
    """
    cut, cut_offsets = _ops.rle_crop.default(counts, offsets, heights, windows)
    return cut, cut_offsets


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
