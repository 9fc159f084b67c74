"""Point grids that segment everything prompts with, as fractions of a crop's width and height."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .._limits import MAX_POINTS_PER_SIDE


@lru_cache(maxsize=16)  # every image uses the same grids
def point_grid(per_side: int) -> np.ndarray:
    """Return the centres of a per_side x per_side division of the unit square: float64 (per_side ** 2, 2) x, y.

    x varies fastest. The array is cached and read-only.
    """
    margin = 1 / (2 * per_side)
    centres = np.linspace(margin, 1 - margin, per_side)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    points = np.stack([x, y], -1).reshape(-1, 2)
    points.setflags(write=False)
    return points


def layer_grids(points_stride: int, layers: int, downscale_factor: float) -> list[np.ndarray]:
    """Return the grids of layers 0..layers, with int(points_stride / downscale_factor ** layer) points per side.

    The rounding is the reference's. Raises ValueError if points_stride is above the limit, or if a layer would have no
    points.
    """
    if points_stride > MAX_POINTS_PER_SIDE:
        raise ValueError(f"the points per side must be at most {MAX_POINTS_PER_SIDE}, not {points_stride}")
    grids = []
    for layer in range(layers + 1):
        per_side = int(points_stride / downscale_factor**layer)
        if per_side < 1:
            raise ValueError(
                f"points_stride={points_stride} leaves crop layer {layer} without a point at "
                f"crop_downscale_factor={downscale_factor}; raise the first or lower the second"
            )
        grids.append(point_grid(per_side))
    return grids


def checked_grids(point_grids: Sequence[Any], layers: int) -> list[np.ndarray]:
    """Return the caller's own grids as new float64 (n, 2) arrays, one for each of layers 0..layers.

    Raises ValueError unless there are layers + 1 grids of shape (n, 2) with values in [0, 1], and TypeError if
    `point_grids` is not a sequence.
    """
    if isinstance(point_grids, (str, bytes)) or not hasattr(point_grids, "__len__"):
        raise TypeError(f"point_grids must be a list of (n, 2) arrays, got {type(point_grids).__name__}")
    if len(point_grids) != layers + 1:
        raise ValueError(
            f"point_grids must hold one (n, 2) array per crop layer, {layers + 1} with crop_n_layers={layers}; "
            f"got {len(point_grids)}"
        )
    grids = []
    for layer, grid in enumerate(point_grids):
        try:
            points = np.array(grid, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"point_grids[{layer}] must be an (n, 2) array of numbers: {error}") from None
        if points.size == 0 and points.ndim <= 2:
            points = points.reshape(0, 2)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"point_grids[{layer}] must have shape (n, 2), got {points.shape}")
        if not ((points >= 0) & (points <= 1)).all():
            raise ValueError(f"point_grids[{layer}] must hold fractions of width and height in [0, 1]")
        grids.append(points)
    return grids
