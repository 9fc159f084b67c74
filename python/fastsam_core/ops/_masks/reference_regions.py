"""Small holes filled and small islands removed, one mask at a time, on the pixels of the mask's bounding box."""

from __future__ import annotations

import numpy as np

from ...runs import MaskRuns

Window = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive


def remove_small_regions(runs: MaskRuns, image_size: tuple[int, int], min_area: float) -> tuple[MaskRuns, bool]:
    """The mask without small regions, and whether there were any; see `fastsam_core.ops.mask_remove_small_regions`.

    image_size: (height, width).
    """
    height, width = image_size
    whole = (0, 0, width, height)
    x1, y1, x2, y2 = runs.box()
    # One pixel of background, or two, around the mask stands for everything outside the window. OpenCV numbers regions
    # by 2 x 2 blocks, so that the window has to begin where a block does.
    window = max(x1 - 1, 0) & ~1, max(y1 - 1, 0) & ~1, min(x2 + 2, width), min(y2 + 2, height)
    if not len(runs.columns):
        window = whole
    mask = runs.paint(*window)
    filled = _fill_holes(mask, window, image_size, min_area)
    if filled is None:
        window = whole
        mask = runs.paint(*window)
        filled = _fill_holes(mask, window, image_size, min_area)
        assert filled is not None
    kept = _drop_islands(filled, min_area)
    if kept is mask:
        return runs, False
    return MaskRuns.from_mask(kept, window[0], window[1]), True


def _label(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected regions of bool `mask`: labels int32 (h, w), 0 outside of it, and the sizes of labels 1, 2, ..."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    return labels, stats[1:count, cv2.CC_STAT_AREA].astype(np.int64)


def _fill_holes(mask: np.ndarray, window: Window, image_size: tuple[int, int], min_area: float) -> np.ndarray | None:
    """`mask` with its small background regions set; `mask` itself if there are none.

    None if such a region goes on outside the window, so that the result wouldn't fit in it.
    """
    labels, sizes = _label(~mask)
    height, width = image_size
    left, top, right, bottom = window
    outside = [
        (labels[0, 0], top * width),
        (labels[-1, 0], (height - bottom) * width),
        (labels[0, 0], (bottom - top) * left),
        (labels[0, -1], (bottom - top) * (width - right)),
    ]
    # Each side's margin is one region together with the picture beyond it; a side without anything beyond adds nothing.
    for label, beyond in outside:
        if beyond:
            sizes[label - 1] += beyond
    small = sizes < min_area
    if any(beyond and small[label - 1] for label, beyond in outside):
        return None
    if not small.any():
        return mask
    return mask | np.concatenate(([False], small))[labels]


def _drop_islands(mask: np.ndarray, min_area: float) -> np.ndarray:
    """`mask` without its small regions, the largest excepted if all are small; `mask` itself if there are none."""
    labels, sizes = _label(mask)
    small = sizes < min_area
    if not small.any():
        return mask
    if small.all():
        small[sizes.argmax()] = False
    return np.concatenate(([False], ~small))[labels]
