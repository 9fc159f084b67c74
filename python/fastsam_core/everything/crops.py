"""Crops of segment everything: where they lie, and which masks their edges have cut off.

The geometry follows the reference: layer i has 2 ** i crops per side, and neighbouring crops overlap.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

# A side of a mask's box within this distance of an edge, in pixels of the image, counts as lying on it
# (the reference's default).
EDGE_TOLERANCE = 20

Box = tuple[int, int, int, int]


def crop_boxes(image_size: tuple[int, int], layers: int, overlap_ratio: float) -> list[tuple[Box, int]]:
    """Return the box (x0, y0, x1, y1) of each crop in pixels of the image, with its layer; layer 0 is the whole image.

    image_size: (height, width). overlap_ratio: overlap of layer 1 as a fraction of the image's short side; it halves
    with each further layer. Within a layer x changes slowest, as in the reference. Crops that are empty because the
    image is tiny are left out.
    """
    height, width = image_size
    boxes: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        crop_width, crop_height = (math.ceil((overlap * (per_side - 1) + side) / per_side) for side in (width, height))
        lefts = range(0, per_side * (crop_width - overlap), crop_width - overlap)
        tops = range(0, per_side * (crop_height - overlap), crop_height - overlap)
        for left, top in product(lefts, tops):
            if left < width and top < height:
                boxes.append(((left, top, min(left + crop_width, width), min(top + crop_height, height)), layer))
    return boxes


def is_near_crop_edge(boxes: np.ndarray, crop_box: Box, image_size: tuple[int, int]) -> np.ndarray:
    """Return for each box whether one of its sides lies on an edge of the crop that is not an edge of the image.

    Such masks are probably cut off. boxes: (N, 4), like `crop_box` (x0, y0, x1, y1) in pixels of the image.
    image_size: (height, width). Returns (N,) bool.
    """
    height, width = image_size
    on_crop_edge = np.abs(boxes - np.array(crop_box)) <= EDGE_TOLERANCE
    on_image_edge = np.abs(boxes - np.array([0, 0, width, height])) <= EDGE_TOLERANCE
    is_near: np.ndarray = (on_crop_edge & ~on_image_edge).any(1)
    return is_near
