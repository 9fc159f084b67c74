"""GeoJSON (RFC 7946) of a raster's objects."""

from __future__ import annotations

import json
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


def write(objects: RasterObjects, path: Path) -> None:
    """Write a FeatureCollection, one feature a line. See `RasterObjects.save`."""
    where = objects.georeference
    place = None
    if where is not None and where.crs:

        def place(corners: NDArray[Any]) -> NDArray[np.float64]:
            return where.to_longitude_latitude(where.to_map(corners))

    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
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


def _geometry(parts: list[list[Any]]) -> dict[str, Any]:
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _numbers(ring: NDArray[np.float64]) -> list[Any]:
    if not np.isfinite(ring).all():
        raise ValueError("a corner has no place on WGS 84; write a .gpkg, which keeps the raster's reference system")
    whole = ring == np.rint(ring)
    return ring.astype(np.int64).tolist() if whole.all() else ring.tolist()
