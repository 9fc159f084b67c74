"""Filling of small holes and removal of small islands, one mask at a time, on the pixels of its bounding box."""

from __future__ import annotations

import numpy as np

from ...runs import MaskRuns

Window = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive


def remove_small_regions(runs: MaskRuns, image_size: tuple[int, int], min_area: float) -> tuple[MaskRuns, bool]:
    """Return the mask without small regions, and whether there were any.

    image_size: (height, width). See `fastsam_core.ops.mask_remove_small_regions`.
    """
    height, width = image_size
    x1, y1, x2, y2 = runs.box()
    # A margin of one or two background pixels around the mask represents everything outside the window. The window
    # begins at an even row and column, because OpenCV numbers regions by 2 x 2 blocks, and its order settles ties.
    window = max(x1 - 1, 0) & ~1, max(y1 - 1, 0) & ~1, min(x2 + 2, width), min(y2 + 2, height)
    mask = runs.paint(*window)
    filled = _fill_holes(mask, window, image_size, min_area)
    if filled is None:
        window = 0, 0, width, height
        mask = runs.paint(*window)
        filled = _fill_holes(mask, window, image_size, min_area)
        assert filled is not None
    cleaned = _drop_islands(filled, min_area)
    if cleaned is mask:
        return runs, False
    return MaskRuns.from_mask(cleaned, window[0], window[1]), True


def _label(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the 8-connected regions of bool `mask`.

    Returns int32 labels (h, w), 0 outside the mask, and the int64 sizes of the regions 1, 2, ... in pixels.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    return labels, stats[1:count, cv2.CC_STAT_AREA].astype(np.int64)


def _fill_holes(mask: np.ndarray, window: Window, image_size: tuple[int, int], min_area: float) -> np.ndarray | None:
    """Return `mask` with its small background regions set; `mask` itself if there are none.

    Return None if such a region extends beyond the window: then the result wouldn't fit into the window.
    """
    labels, sizes = _label(~mask)
    height, width = image_size
    left, top, right, bottom = window
    margins = [
        (labels[0, 0], top * width),
        (labels[-1, 0], (height - bottom) * width),
        (labels[0, 0], (bottom - top) * left),
        (labels[0, -1], (bottom - top) * (width - right)),
    ]
    # Each pair: the label of one side's margin, and the number of image pixels beyond that side. They form one region.
    # Where the window ends at the image's edge, there are no pixels beyond, and the label may be another region's.
    for label, num_beyond in margins:
        if num_beyond:
            sizes[label - 1] += num_beyond
    small = sizes < min_area
    if any(num_beyond and small[label - 1] for label, num_beyond in margins):
        return None
    if not small.any():
        return mask
    return mask | np.concatenate(([False], small))[labels]


def _drop_islands(mask: np.ndarray, min_area: float) -> np.ndarray:
    """Return `mask` without its small regions; `mask` itself if there are none. If all are small, keep the largest."""
    labels, sizes = _label(mask)
    small = sizes < min_area
    if not small.any():
        return mask
    small[sizes.argmax()] = False
    return np.concatenate(([False], ~small))[labels]
