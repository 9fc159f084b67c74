"""Crops of segment-everything: where they lie, and which masks their edges have cut off.

The geometry is the reference's: layer i has 2 ** i crops per side, and neighbours overlap.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

# Distance in original pixels within which a side of a mask's box counts as lying on an edge (the reference's default).
EDGE_TOLERANCE = 20

Box = tuple[int, int, int, int]


def crop_boxes(image_size: tuple[int, int], layers: int, overlap_ratio: float) -> list[tuple[Box, int]]:
    """(x0, y0, x1, y1) of each crop in pixels of the picture, with its layer; the whole picture is layer 0.

    image_size: (height, width). overlap_ratio: overlap of layer 1 as a share of the short side; it halves per layer.
    Within a layer x changes slowest, as in the reference. Crops that a tiny picture leaves empty are left out.
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


def near_crop_edge(boxes: np.ndarray, crop_box: Box, image_size: tuple[int, int]) -> np.ndarray:
    """For each of (N, 4) boxes whether a side of it lies on an edge of its crop that is not an edge of the picture.

    All in pixels of the picture, (x0, y0, x1, y1). Such masks are likely cut off.
    """
    height, width = image_size
    at_crop = np.abs(boxes - np.array(crop_box)) <= EDGE_TOLERANCE
    at_picture = np.abs(boxes - np.array([0, 0, width, height])) <= EDGE_TOLERANCE
    near: np.ndarray = (at_crop & ~at_picture).any(1)
    return near
