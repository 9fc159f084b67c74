"""A small image with a few masks of known shape, for the tests of results, plots and formats."""

from __future__ import annotations

import numpy as np
import torch

from fastsam_core.results import Masks, Results
from fastsam_core.rle import from_masks

HEIGHT, WIDTH = 48, 64


def image() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def masks() -> np.ndarray:
    """Return (4, 48, 64) bool: a rectangle, a rectangular ring inside it, two separate parts, an empty mask."""
    drawn = np.zeros((4, HEIGHT, WIDTH), bool)
    drawn[0, 4:40, 6:50] = True
    drawn[1, 10:20, 12:24] = True
    drawn[1, 13:17, 15:20] = False
    drawn[2, 2:8, 52:60] = True
    drawn[2, 30:44, 54:62] = True
    return drawn


def results(*, rle: bool = True, names: dict[int, str] | None = None, path: str = "/images/cat.jpg") -> Results:
    drawn = torch.from_numpy(masks())
    boxes = torch.tensor(
        [
            [6, 4, 49, 39, 0.95, 0],
            [12, 10, 23, 19, 0.875, 1],
            [52, 2, 61, 43, 0.75, 2],
            [0, 0, 0, 0, 0.5, 3],
        ]
    )
    return Results(
        image(),
        path,
        {i: str(i) for i in range(4)} if names is None else names,
        boxes,
        Masks(from_masks(drawn) if rle else drawn, (HEIGHT, WIDTH)),
        speed={"preprocess": 1.0, "inference": 2.0, "postprocess": 3.0},
        predicted_iou=[0.95, 0.875, 0.75, 0.5],
        stability_score=[0.96, 0.97, 0.98, 0.0],
        point_coords=[[[20.0, 20.0]], [[13.0, 11.0]], [[55.0, 4.0]], [[1.0, 1.0]]],
        crop_boxes=[[0, 0, WIDTH, HEIGHT]] * 4,
    )
