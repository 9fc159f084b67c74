"""What callers see of the operations on masks."""

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
    """Runs, boxes and sizes of masks that are enlarged from low-resolution logits and placed in a picture.

    Row y of an enlarged mask is the sum over k = 0, 1, 2 of `y_weights[y, k]` times row `y_cells[y] + k` of the
    logits (the last one where that is beyond it), and then each column x likewise; all in float32, one rounding per
    operation, so that every sibling gives the same bits. No full-resolution array is made.

    Args:
        logits: (N, h, w) float32. NaN counts as the lowest number; numbers beyond 1e30 in size count as that.
        y_cells: (H,) int64, ascending, within 0 .. h - 1.
        y_weights: (H, 3) float32, not negative, rows that sum to 1.
        x_cells: (W,) int64, likewise within 0 .. w - 1.
        x_weights: (W, 3) float32.
        threshold: a pixel is set if its logit is greater.
        offset: 0 or more, see `sizes`.
        height: of the picture.
        width: of the picture.
        left: column of the picture in which the enlarged masks begin.
        top: row of the picture in which they begin.

    Returns:
        counts (R,) int64 and offsets (N + 1,) int64: the masks' runs in the picture, as `rle_encode` gives them;
        boxes (N, 4) int64: x1 y1 x2 y2 of the outermost set pixels in the enlarged mask, themselves included, zeros
        where none is set; sizes (N, 3) int64: the numbers of pixels above threshold, above threshold + offset, and
        above threshold - offset.

    Raises:
        ValueError: shapes, dtypes or values that are not as described.
    """
    counts, offsets, boxes, sizes = _ops.mask_runs.default(
        logits, y_cells, y_weights, x_cells, x_weights, float(threshold), float(offset), height, width, left, top
    )
    return counts, offsets, boxes, sizes


def mask_remove_small_regions(
    counts: Tensor, offsets: Tensor, height: int, width: int, min_area: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks without background or foreground regions of fewer than `min_area` pixels.

    Regions are 8-connected. Holes first, then islands, as in the reference: any small background region is filled, also
    at the picture's edge; if all islands are small, the largest stays (of equally large ones the first, going through
    the picture in rows of 2 x 2 blocks as OpenCV does). A mask that is one small island therefore counts as changed,
    though it stays as it is.

    Args:
        counts: (R,) int64, the runs of all masks, as `rle_encode` gives them.
        offsets: (N + 1,) int64.
        height: of the masks.
        width: of the masks.
        min_area: in pixels.

    Returns:
        counts and offsets of the new masks, and changed (N,) bool: which of them had small regions.

    Raises:
        ValueError: runs that don't sum to height * width, or other shapes and dtypes.
    """
    counts, offsets, changed = _ops.mask_remove_small_regions.default(counts, offsets, height, width, float(min_area))
    return counts, offsets, changed
