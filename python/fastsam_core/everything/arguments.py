"""Argument checks of segment everything, and the list of crops that follows from the arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..option_parsers import to_float
from . import grid
from .crops import Box, crop_boxes

# 4 ** 8 crops are 65,536 encoder passes. More layers are surely a mistake, and the list of crops alone would fill the
# memory.
MAX_CROP_LAYERS = 8


@dataclass(frozen=True)
class Crop:
    """One crop and the points to prompt it with.

    box: (x0, y0, x1, y1) in pixels of the image. points: (n, 2) float64 x, y in pixels, relative to the crop's top-left
    corner.
    """

    box: Box
    points: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """The crop's (height, width) in pixels."""
        return self.box[3] - self.box[1], self.box[2] - self.box[0]


def check_image_size(image_size: Any) -> tuple[int, int]:
    """Return `image_size` as (height, width) in plain positive ints.

    Raises ValueError unless it is a sequence of two positive integers, TypeError for elements that aren't integers.
    """
    if isinstance(image_size, (str, bytes)) or not hasattr(image_size, "__len__") or len(image_size) != 2:
        raise ValueError(f"image_size must be (height, width), got {image_size!r}")
    height, width = image_size
    return check_count("image_size[0], the height,", height), check_count("image_size[1], the width,", width)


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """Return an integer as a plain int. TypeError for other types, ValueError if it is below `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_number(name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return a finite number as a plain float. TypeError for other types, ValueError outside [minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = to_float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}")
    if not minimum <= number <= maximum:
        limits = f"at least {minimum:g}" if maximum == math.inf else f"between {minimum:g} and {maximum:g}"
        raise ValueError(f"{name} must be {limits}, got {value}")
    return number


def plan_crops(
    image_size: Any,
    points_stride: Any,
    crop_n_layers: Any,
    crop_overlap_ratio: Any,
    crop_downscale_factor: Any,
    point_grids: Sequence[Any] | None,
) -> list[Crop]:
    """Check the arguments and return the crops in decoding order, each with its points."""
    height, width = check_image_size(image_size)
    layers = check_count("crop_n_layers", crop_n_layers, 0)
    if layers > MAX_CROP_LAYERS:
        raise ValueError(f"crop_n_layers must be at most {MAX_CROP_LAYERS}, got {layers}; layer i adds 4 ** i crops")
    overlap = check_number("crop_overlap_ratio", crop_overlap_ratio, 0, 1)
    if overlap == 1:
        raise ValueError("crop_overlap_ratio must be below 1: crops that overlap entirely never cover the image")
    factor = check_number("crop_downscale_factor", crop_downscale_factor, 1)
    if point_grids is not None:
        grids = grid.checked_grids(point_grids, layers)
    else:
        grids = grid.layer_grids(check_count("points_stride", points_stride), layers, factor)
    return [
        Crop(box, grids[layer] * (box[2] - box[0], box[3] - box[1]))
        for box, layer in crop_boxes((height, width), layers, overlap)
    ]
