"""Where a person would click: into the middle of an object, or of the largest mistake."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Click = tuple[int, int]
Mask = NDArray[np.bool_]


def squared_distances(region: Mask) -> NDArray[np.float64]:
    """Of each pixel of `region` (H, W) bool the squared Euclidean distance to the nearest pixel outside of it.

    Pixels outside have 0, and what lies beyond the picture is outside, so that a pixel at the border has 1. Exact for
    distances of up to 2,000 pixels.
    """
    import cv2

    padded = np.pad(region.astype(np.uint8), 1)
    distances = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # Squares of distances between pixels are whole numbers; rounded, equal ones are equal.
    squares: NDArray[np.float64] = np.rint(distances.astype(np.float64) ** 2)
    return squares


def innermost(region: Mask, taken: Sequence[Click] = ()) -> tuple[Click | None, float]:
    """The pixel (x, y) of `region` (H, W) bool that is farthest from all outside of it, and its squared distance.

    Of pixels that are equally far in, it is the topmost, and of those the leftmost. Pixels `taken` are passed over.
    None and 0 where no pixel is left.
    """
    import cv2

    # The nearest pixel outside of a region lies no farther off than the frame around the region.
    left, top, width, height = cv2.boundingRect(region.view(np.uint8))
    if not width:
        return None, 0.0
    squares = squared_distances(region[top : top + height, left : left + width])
    for x, y in taken:
        if left <= x < left + width and top <= y < top + height:
            squares[y - top, x - left] = 0
    place = int(squares.argmax())  # the first of several, row by row
    farthest = float(squares.flat[place])
    if not farthest:
        return None, 0.0
    return (left + place % width, top + place // width), farthest


def next_click(truth: Mask, predicted: Mask, taken: Sequence[Click] = ()) -> tuple[Click, bool] | None:
    """The click that corrects a mask: (x, y) and whether it is foreground, or None where nothing is left to click.

    It is the `innermost` pixel of what is missing (foreground) or of what is too much (background), of the two the one
    that is farther in; too much, where both are equally far. So clicks are simulated in the evaluation of RITM
    (Sofiiuk et al., "Reviving Iterative Training with Mask Guidance for Interactive Segmentation", 2022), which also
    never clicks a pixel twice.
    """
    missing, missing_depth = innermost(truth & ~predicted, taken)
    surplus, surplus_depth = innermost(predicted & ~truth, taken)
    if missing is not None and missing_depth > surplus_depth:
        return missing, True
    return None if surplus is None else (surplus, False)
