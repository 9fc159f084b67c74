"""Public functions on run lengths.

N masks are two int64 tensors. `counts` (R,) holds the run lengths of all masks, each mask's starting with background,
going down the columns as in COCO. `offsets` (N + 1,) says where each mask's runs begin, and ends with R. Every function
raises ValueError for offsets that don't rise from 0 to R, negative runs, masks of more than 2^62 - 1 pixels, and other
shapes, dtypes or devices than described.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


def rle_encode(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Encode masks as run lengths.

    Args:
        masks: (N, H, W) bool or uint8, any strides; every non-zero value is foreground.

    Returns:
        counts (R,) int64, the runs of all masks, each mask's starting with background, down the columns; and offsets
        (N + 1,) int64, where each mask's runs begin. The first run of a mask may be 0, later ones are not.

    Raises:
        ValueError: another shape or dtype.
    """
    counts, offsets = _ops.rle_encode.default(masks)
    return counts, offsets


def rle_decode(counts: Tensor, offsets: Tensor, height: int, width: int, column_major: bool = False) -> Tensor:
    """Decode run lengths to masks.

    Args:
        counts: (R,) int64 run lengths of N masks.
        offsets: (N + 1,) int64.
        height: of every mask.
        width: of every mask.
        column_major: store each mask column by column (strides 1, height) instead of row by row.

    Returns:
        (N, height, width) bool.

    Raises:
        ValueError: invalid runs, or a mask whose runs don't sum to height * width.
        MemoryError: a result larger than this machine's memory.
    """
    result: Tensor = _ops.rle_decode.default(counts, offsets, height, width, column_major)
    return result


def rle_area(counts: Tensor, offsets: Tensor) -> Tensor:
    """Return the number of foreground pixels of each mask: (N,) int64. ValueError for invalid runs."""
    result: Tensor = _ops.rle_area.default(counts, offsets)
    return result


def rle_to_bbox(counts: Tensor, offsets: Tensor, heights: Tensor) -> Tensor:
    """Return the bounding box of each mask's foreground: (N, 4) int64 x y width height, zeros for an empty mask.

    `heights` (N,) int64 holds the masks' heights. ValueError for invalid runs, or foreground in a mask whose height is
    not positive.
    """
    result: Tensor = _ops.rle_to_bbox.default(counts, offsets, heights)
    return result


def rle_iou(dt_counts: Tensor, dt_offsets: Tensor, gt_counts: Tensor, gt_offsets: Tensor, iscrowd: Tensor) -> Tensor:
    """Return the intersection over union of every pair of masks: (D, G) float64; 0 for two empty masks.

    Where `iscrowd` (G,) bool is set, the intersection is divided by the area of the `dt` mask instead of the union
    (COCO's rule for crowd regions). ValueError for invalid runs, or unless all masks have the same number of pixels.
    """
    result: Tensor = _ops.rle_iou.default(dt_counts, dt_offsets, gt_counts, gt_offsets, iscrowd)
    return result


def rle_merge(counts: Tensor, offsets: Tensor, intersect: bool = False) -> Tensor:
    """Return the union, or with `intersect` the intersection, of N masks: the runs (R,) int64 of one mask.

    The result has no runs for N = 0. ValueError for invalid runs, or unless all masks have the same number of pixels.
    """
    result: Tensor = _ops.rle_merge.default(counts, offsets, intersect)
    return result


def rle_combine(
    a_counts: Tensor, a_offsets: Tensor, b_counts: Tensor, b_offsets: Tensor, truth: int
) -> tuple[Tensor, Tensor]:
    """Apply a set operation to N pairs of masks.

    Args:
        a_counts: (R,) int64 run lengths of N masks.
        a_offsets: (N + 1,) int64.
        b_counts: (S,) int64 run lengths of N other masks.
        b_offsets: (N + 1,) int64.
        truth: truth table. Bit a + 2 * b tells whether a pixel with value a in the first mask and b in the second is
            set in the result: 14 is union, 8 intersection, 2 difference (first without second), 6 symmetric
            difference. Bit 0 must not be set.

    Returns:
        counts and offsets, as from `rle_encode`.

    Raises:
        ValueError: invalid runs, different numbers of masks, a pair with different numbers of pixels, or a `truth` that
            isn't an even number from 0 to 14.
    """
    counts, offsets = _ops.rle_combine.default(a_counts, a_offsets, b_counts, b_offsets, truth)
    return counts, offsets


def rle_crop(counts: Tensor, offsets: Tensor, heights: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Crop each mask to a window of its own; outside the mask the window shows background.

    Args:
        counts: (R,) int64 run lengths of N masks.
        offsets: (N + 1,) int64.
        heights: (N,) int64, the masks' heights.
        windows: (N, 4) int64 x, y, width, height; x and y may be negative, and the window may be larger than the mask.

    Returns:
        counts and offsets, as from `rle_encode`, of masks of the windows' sizes.

    Raises:
        ValueError: invalid runs, runs that don't sum to whole columns of the height, windows of negative size, too
            large or too far away (about 2^61), or a window that cuts a mask into more than about 2^30 runs.
    """
    cut, cut_offsets = _ops.rle_crop.default(counts, offsets, heights, windows)
    return cut, cut_offsets


def rle_from_polygon(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Fill polygons and return their run lengths, pixel for pixel as COCO's tools draw them.

    Args:
        points: (P, 2) float64 x, y in pixels, the vertices of all polygons; finite and at most 4e8 in size.
        offsets: (N + 1,) int64, where each polygon's vertices begin.
        height: of the masks.
        width: of the masks.

    Returns:
        counts and offsets, as from `rle_encode`, one mask per polygon.

    Raises:
        ValueError: other shapes or dtypes, invalid offsets or coordinates, or a polygon whose edges cross more than
            2^28 pixel columns together.
    """
    counts, run_offsets = _ops.rle_from_polygon.default(points, offsets, height, width)
    return counts, run_offsets


def rle_to_string(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Encode run lengths as COCO's compressed strings: characters (T,) uint8 of all masks, and offsets (N + 1,) int64.

    ValueError for invalid runs.
    """
    text, text_offsets = _ops.rle_to_string.default(counts, offsets)
    return text, text_offsets


def rle_from_string(text: Tensor, offsets: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Decode COCO's compressed strings to run lengths.

    Args:
        text: (T,) uint8, the characters of all masks.
        offsets: (N + 1,) int64, where each mask's characters begin.
        pixels: (N,) int64, height * width of each mask.

    Returns:
        counts (R,) and offsets (N + 1,), both int64, as stored in the strings.

    Raises:
        ValueError: an invalid character, an unterminated or over-long number, a negative run, or runs that don't sum
            to `pixels`.
    """
    counts, run_offsets = _ops.rle_from_string.default(text, offsets, pixels)
    return counts, run_offsets
