"""GeoJSON (RFC 7946) of a raster's objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_path
from .geometries import multipolygon

if TYPE_CHECKING:
    from .objects import RasterObjects

# Of degrees: 1e-9 are a tenth of a millimetre.
_DECIMALS = 9
# Edges of more pixels get another corner in the middle where that is farther than this, in pixels, from a straight one.
_LONG, _APART = 8, 0.1


def write(objects: RasterObjects, path: Path) -> None:
    """Write a FeatureCollection, one feature a line. See `RasterObjects.save`."""
    where = objects.georeference
    place = None
    if where is not None and where.crs:

        def place(contour: NDArray[Any]) -> NDArray[np.float64]:
            return _bent(contour, lambda corners: where.to_longitude_latitude(where.to_map(corners)))

    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write('{"type":"FeatureCollection","features":[')
        separator = "\n"
        for number, found in enumerate(objects, 1):
            parts = multipolygon(found, place, None if place is None else _DECIMALS)
            feature = {
                "type": "Feature",
                "id": number,
                "properties": {
                    "id": number,
                    "area": found.area,
                    "predicted_iou": found.predicted_iou,
                    "stability": found.stability,
                },
                "geometry": _geometry([[_numbers(ring) for ring in rings] for rings in parts]),
            }
            file.write(separator + json.dumps(feature, separators=(",", ":"), allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")


def _bent(contour: NDArray[Any], place: Callable[[NDArray[Any]], NDArray[np.float64]]) -> NDArray[np.float64]:
    """A closed contour's corners in their place, with more of them along edges that are not straight there.

    The edge of a lake along a satellite picture bends away by twenty pixels, and past the islands.
    """
    corners, placed = contour.astype(np.float64), place(contour)
    while np.isfinite(placed).all():
        after = np.roll(corners, -1, axis=0)
        lengths = np.abs(after - corners).sum(1)
        long = np.flatnonzero(lengths > _LONG)
        middles = (corners[long] + after[long]) / 2
        there = place(middles) if len(long) else middles
        chords = np.roll(placed, -1, axis=0)[long] - placed[long]
        # As a share of the edge; times its pixels, in pixels.
        apart = np.hypot(*(there - placed[long] - chords / 2).T) * lengths[long] > _APART * np.hypot(*chords.T)
        apart &= np.isfinite(there).all(1)
        if not apart.any():
            break
        places = long[apart] + 1
        corners = np.insert(corners, places, middles[apart], axis=0)
        placed = np.insert(placed, places, there[apart], axis=0)
    return placed


def _geometry(parts: list[list[Any]]) -> dict[str, Any]:
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _numbers(ring: NDArray[np.float64]) -> list[Any]:
    if not np.isfinite(ring).all():
        raise ValueError(
            "a corner can't be converted to WGS 84; write a .gpkg, which keeps the raster's reference system"
        )
    whole = ring == np.rint(ring)
    return ring.astype(np.int64).tolist() if whole.all() else ring.tolist()
