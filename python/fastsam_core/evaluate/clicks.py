"""Simulated clicks: in the middle of an object, or of the largest error of its mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Click = tuple[int, int]
Mask = NDArray[np.bool_]


def squared_distances(region: Mask) -> NDArray[np.float64]:
    """Return the squared Euclidean distance of each pixel to the nearest pixel outside `region` (H, W) bool.

    Pixels outside the region have 0. Everything beyond the image counts as outside, so region pixels at the border have
    1. Exact for distances of up to 2,000 pixels.
    """
    import cv2

    padded = np.pad(region.astype(np.uint8), 1)
    distances = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # Squared distances between pixels are integers; rounding makes equal distances compare equal.
    squares: NDArray[np.float64] = np.rint(distances.astype(np.float64) ** 2)
    return squares


def innermost_pixel(region: Mask, previous_clicks: Sequence[Click] = ()) -> tuple[Click | None, float]:
    """Return the pixel (x, y) of `region` (H, W) bool farthest from the outside, and its squared distance to it.

    Ties go to the topmost pixel, then to the leftmost. Pixels in `previous_clicks` are skipped. Returns None and 0 if
    no pixel is left.
    """
    # Cropping keeps the distances: the pixels around the bounding box are outside the region, like the padding.
    # `cv2.boundingRect` misses pixels of masks before OpenCV 4.10.
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return None, 0.0
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    squares, width = squared_distances(region[top:bottom, left:right]), right - left
    for x, y in previous_clicks:
        if left <= x < right and top <= y < bottom:
            squares[y - top, x - left] = 0
    flat_index = int(squares.argmax())  # the first of equal ones in row-major order
    farthest = float(squares.flat[flat_index])
    if not farthest:
        return None, 0.0
    return (left + flat_index % width, top + flat_index // width), farthest


def next_click(truth: Mask, predicted: Mask, previous_clicks: Sequence[Click] = ()) -> tuple[Click, bool] | None:
    """Return the click that corrects a mask: (x, y) and whether it is foreground. None if no pixel is left to click.

    The click is the `innermost_pixel` of the missing region (foreground) or of the surplus region (background),
    whichever lies deeper; ties go to the surplus. Pixels in `previous_clicks` are never clicked again. This is how the
    evaluation of RITM simulates clicks (Sofiiuk et al., "Reviving Iterative Training with Mask Guidance for Interactive
    Segmentation", 2022).
    """
    missing, missing_depth = innermost_pixel(truth & ~predicted, previous_clicks)
    surplus, surplus_depth = innermost_pixel(predicted & ~truth, previous_clicks)
    if missing is not None and missing_depth > surplus_depth:
        return missing, True
    return None if surplus is None else (surplus, False)
