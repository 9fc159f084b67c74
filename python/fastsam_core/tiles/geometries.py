"""Polygons of objects in the coordinates of an output file. Each part is a list of rings, the exterior first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .objects import RasterObject

Rings = list[NDArray[np.float64]]


def multipolygon(
    obj: RasterObject, project: Callable[[NDArray[Any]], NDArray[np.float64]] | None, decimals: int | None = None
) -> list[Rings]:
    """Return the object's parts as closed rings (K + 1, 2), each part as its exterior followed by its holes.

    Exteriors are counterclockwise and holes clockwise, with x to the right and y up. project: maps pixel corners (K, 2)
    to coordinates; None keeps pixels. decimals: number of decimals to round to; None doesn't round. Rings without area
    are omitted.
    """
    parts = []
    for outline in obj.polygons():
        rings = [_ring(contour, project, decimals) for contour in (outline.exterior, *outline.holes)]
        if abs(_twice_area(rings[0])) > 0:
            parts.append([_oriented(ring, hole=i > 0) for i, ring in enumerate(rings) if abs(_twice_area(ring)) > 0])
    return parts


def _ring(
    contour: NDArray[np.int64], project: Callable[[NDArray[Any]], NDArray[np.float64]] | None, decimals: int | None
) -> NDArray[np.float64]:
    points = contour.astype(np.float64) if project is None else project(contour)
    if decimals is not None:
        points = np.round(points, decimals)
        points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    return np.concatenate([points, points[:1]])


def _oriented(ring: NDArray[np.float64], hole: bool) -> NDArray[np.float64]:
    """Return the ring counterclockwise, or clockwise for a hole."""
    return ring[::-1] if (_twice_area(ring) > 0) == hole else ring


def _twice_area(ring: NDArray[np.float64]) -> float:
    """Return twice the signed area of a closed ring, positive if it is counterclockwise with y up."""
    if len(ring) < 4:
        return 0.0
    # Coordinates relative to the first corner, so that large offsets don't cost precision.
    x, y = (ring - ring[0]).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
