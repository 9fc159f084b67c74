"""What can be had without a model: a disc around the click, and GrabCut in the box."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .clicks import Click, Mask

# The disc's radius as a share of the square root of the picture's area: it covers 3.1 % of the picture, whatever the
# data set; the typical photographed object is about as large.
DISC_RADIUS = 0.1
GRABCUT_ITERATIONS = 5
# GrabCut runs on pictures scaled to at most this long side: its time grows with the pixels, by object.
GRABCUT_SIDE = 640


def disc(size: tuple[int, int], click: Click) -> Mask:
    """The pixels (H, W) of a picture of `size` = (height, width) whose centre is within the radius of the click's."""
    height, width = size
    x, y = click
    # Half the width of each row; NaN, and so no pixel, above and below the disc.
    with np.errstate(invalid="ignore"):
        half = np.sqrt(DISC_RADIUS**2 * height * width - (np.arange(height) - y) ** 2.0)
    inside: Mask = np.abs(np.arange(width) - x) <= half[:, None]
    return inside


def grabcut(image: NDArray[np.uint8], box: tuple[int, int, int, int], seed: int = 0) -> Mask:
    """The mask (H, W) of OpenCV's GrabCut, `GRABCUT_ITERATIONS` times from a box x1, y1, x2, y2 (outermost pixels).

    image: BGR uint8 (H, W, 3). A picture larger than `GRABCUT_SIDE` is scaled down and its mask enlarged again. Where
    the box is the whole picture there is no background to learn from, and the mask is the box.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, GRABCUT_SIDE / max(height, width))
    if scale < 1:
        small = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
    rows, columns = image.shape[:2]
    left, top = math.floor(box[0] * columns / width), math.floor(box[1] * rows / height)
    right, bottom = math.ceil((box[2] + 1) * columns / width), math.ceil((box[3] + 1) * rows / height)
    found = np.zeros((rows, columns), np.uint8)
    if (left, top, right, bottom) == (0, 0, columns, rows):
        found[:] = cv2.GC_PR_FGD
    else:
        cv2.setRNGSeed(seed)  # its clusters begin at random
        rectangle = (left, top, right - left, bottom - top)
        models = np.zeros((1, 65)), np.zeros((1, 65))  # of background and foreground, which it fills in
        cv2.grabCut(image, found, rectangle, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_RECT)
    foreground = (found == cv2.GC_FGD) | (found == cv2.GC_PR_FGD)
    if scale < 1:
        enlarged = cv2.resize(foreground.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        foreground = enlarged != 0
    mask: Mask = foreground
    return mask
