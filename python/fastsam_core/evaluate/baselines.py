"""Baselines that need no model: a disc around the click, and GrabCut in the box."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .clicks import Click, Mask

# Radius of the disc as a fraction of the square root of the image's area. The disc covers 3.1 % of the image, about as
# much as a typical photographed object, and is the same for all data sets.
DISC_RADIUS = 0.1
GRABCUT_ITERATIONS = 5
# Maximum long side in pixels of the image GrabCut gets: its time grows with the number of pixels, for each object.
GRABCUT_MAX_SIDE = 640


def disc_mask(size: tuple[int, int], click: Click) -> Mask:
    """Return a disc around a click as a mask (H, W), for an image of `size` = (height, width).

    It holds the pixels whose centre lies within `DISC_RADIUS` * sqrt(height * width) of the clicked pixel's centre.
    """
    height, width = size
    x, y = click
    # Half the disc's width in each row. It is NaN above and below the disc, which compares as False.
    with np.errstate(invalid="ignore"):
        half_width = np.sqrt(DISC_RADIUS**2 * height * width - (np.arange(height) - y) ** 2.0)
    inside: Mask = np.abs(np.arange(width) - x) <= half_width[:, None]
    return inside


def grabcut_mask(image: NDArray[np.uint8], box: tuple[int, int, int, int], seed: int = 0) -> Mask:
    """Return the mask (H, W) that OpenCV's GrabCut finds in a box, after `GRABCUT_ITERATIONS` iterations.

    image: BGR uint8 (H, W, 3). An image with a side longer than `GRABCUT_MAX_SIDE` is scaled down, and the mask scaled
    up again. box: x1, y1, x2, y2 of the outermost pixels, inclusive. If the box covers the whole image there is no
    background to learn from, and the mask is the whole box. seed: of OpenCV's random numbers.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, GRABCUT_MAX_SIDE / max(height, width))
    if scale < 1:
        reduced_size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, reduced_size, interpolation=cv2.INTER_AREA), np.uint8)
    rows, columns = image.shape[:2]
    left, top = math.floor(box[0] * columns / width), math.floor(box[1] * rows / height)
    right, bottom = math.ceil((box[2] + 1) * columns / width), math.ceil((box[3] + 1) * rows / height)
    labels = np.zeros((rows, columns), np.uint8)
    if (left, top, right, bottom) == (0, 0, columns, rows):
        labels[:] = cv2.GC_PR_FGD
    else:
        cv2.setRNGSeed(seed % (1 << 31))  # GrabCut initialises its clusters at random
        rectangle = (left, top, right - left, bottom - top)
        models = np.zeros((1, 65)), np.zeros((1, 65))  # output buffers: colour models of background and foreground
        cv2.grabCut(image, labels, rectangle, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_RECT)
    foreground = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if scale < 1:
        enlarged = cv2.resize(foreground.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        foreground = enlarged != 0
    mask: Mask = foreground
    return mask
