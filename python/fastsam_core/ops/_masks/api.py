"""Public functions on masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


def mask_runs(
    logits: Tensor,
    y_cells: Tensor,
    y_weights: Tensor,
    x_cells: Tensor,
    x_weights: Tensor,
    threshold: float,
    offset: float,
    height: int,
    width: int,
    left: int = 0,
    top: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Enlarge low-resolution logits, threshold them, and return the masks' run lengths, boxes and sizes.

    Enlarging is a weighted sum of three cells per axis. Row y of an enlarged mask is the sum over k = 0, 1, 2 of
    `y_weights[y, k]` times row `y_cells[y] + k` of the logits (clamped to the last row); then each column x likewise.
    All is computed in float32 with one rounding per operation, so that every sibling returns the same bits. No array
    of the full resolution is created.

    Args:
        logits: (N, h, w) float32. NaN counts as -1e30; values are clamped to [-1e30, 1e30].
        y_cells: (H,) int64, H at least 1, ascending (not strictly), within 0 .. h - 1.
        y_weights: (H, 3) float32, not negative; each row sums to 1.
        x_cells: (W,) int64, likewise, within 0 .. w - 1.
        x_weights: (W, 3) float32, likewise.
        threshold: a pixel is set if its logit is greater.
        offset: 0 or more; distance of the two other levels in `sizes` from `threshold`.
        height: of the image in which the enlarged masks lie.
        width: of that image.
        left: column of the image at which the enlarged masks begin.
        top: row of the image at which they begin.

    Returns:
        A tuple (counts, offsets, boxes, sizes). counts (R,) and offsets (N + 1,) int64 are the masks' runs in the
        image, as `rle_encode` returns them. boxes (N, 4) int64 are x1 y1 x2 y2 of the outermost set pixels, inclusive
        and relative to the enlarged mask; zeros for an empty mask. sizes (N, 3) int64 are the numbers of pixels above
        threshold, above threshold + offset, and above threshold - offset.

    Raises:
        ValueError: shapes, dtypes or values other than described, or enlarged masks that extend beyond the image.
    """
    counts, offsets, boxes, sizes = _ops.mask_runs.default(
        logits, y_cells, y_weights, x_cells, x_weights, float(threshold), float(offset), height, width, left, top
    )
    return counts, offsets, boxes, sizes


def mask_remove_small_regions(
    counts: Tensor, offsets: Tensor, height: int, width: int, min_area: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill background regions and remove foreground regions of fewer than `min_area` pixels.

    Regions are 8-connected. As in Meta's reference, holes are filled first, then islands are removed. Every small
    background region is filled, also one at the edge of the image. If all islands are small, the largest stays; of
    equally large ones the first in OpenCV's order, which scans the image in rows of 2 x 2 blocks. So a mask that is a
    single small island counts as changed, although it stays the same.

    Args:
        counts: (R,) int64, the runs of all masks, as `rle_encode` returns them.
        offsets: (N + 1,) int64, where each mask's runs begin.
        height: of the masks.
        width: of the masks.
        min_area: in pixels.

    Returns:
        A tuple (counts, offsets, changed): the runs of the new masks, and (N,) bool, which masks had small regions.

    Raises:
        ValueError: runs that don't sum to height * width, or other shapes or dtypes.
        MemoryError: working memory larger than this machine's.
    """
    counts, offsets, changed = _ops.mask_remove_small_regions.default(counts, offsets, height, width, float(min_area))
    return counts, offsets, changed
