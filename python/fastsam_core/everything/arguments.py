"""Checked arguments of segment-everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from . import grid
from .crops import Box, crop_boxes

# 4 ** 8 crops are 65,536 encoder passes; more layers are a slip, and their list alone would fill the memory.
MAX_CROP_LAYERS = 8


@dataclass(frozen=True)
class Crop:
    """One crop: its box (x0, y0, x1, y1) and its points, float64 (n, 2), both in pixels; the points from its corner."""

    box: Box
    points: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.box[3] - self.box[1], self.box[2] - self.box[0]


def check_image_size(image_size: Any) -> tuple[int, int]:
    """(height, width) as plain positive ints."""
    if isinstance(image_size, (str, bytes)) or not hasattr(image_size, "__len__") or len(image_size) != 2:
        raise ValueError(f"image_size must be (height, width), got {image_size!r}")
    height, width = image_size
    return check_count("image_size[0], the height,", height), check_count("image_size[1], the width,", width)


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """An integer of at least `minimum` as a plain int; TypeError for other types, ValueError for smaller ones."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_number(name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """A finite number within [minimum, maximum] as a plain float; TypeError for other types, ValueError outside."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
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
    """The crops in the order in which they are decoded, each with its points."""
    height, width = check_image_size(image_size)
    layers = check_count("crop_n_layers", crop_n_layers, 0)
    if layers > MAX_CROP_LAYERS:
        raise ValueError(f"crop_n_layers must be at most {MAX_CROP_LAYERS}, got {layers}; layer i adds 4 ** i crops")
    overlap = check_number("crop_overlap_ratio", crop_overlap_ratio, 0, 1)
    if overlap == 1:
        raise ValueError("crop_overlap_ratio must be below 1: crops that overlap entirely never cross the picture")
    factor = check_number("crop_downscale_factor", crop_downscale_factor, 1)
    if point_grids is not None:
        grids = grid.checked_grids(point_grids, layers)
    else:
        grids = grid.layer_grids(check_count("points_stride", points_stride), layers, factor)
    return [
        Crop(box, grids[layer] * (box[2] - box[0], box[3] - box[1]))
        for box, layer in crop_boxes((height, width), layers, overlap)
    ]
