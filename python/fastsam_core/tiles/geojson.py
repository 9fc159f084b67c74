"""GeoJSON files (RFC 7946) of a raster's objects."""

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

# Decimals of degrees: 1e-9 degrees are a tenth of a millimetre. Pixel coordinates are integers.
_DECIMALS = 9
# An edge longer than `_MIN_EDGE` pixels is split if its projected midpoint is more than `_TOLERANCE` pixels off the
# midpoint of the straight line between its projected ends.
_MIN_EDGE, _TOLERANCE = 8, 0.1


def write(objects: RasterObjects, path: Path) -> None:
    """Write a FeatureCollection with one feature per line. See `RasterObjects.save`."""
    georeference = objects.georeference
    project = None
    if georeference is not None and georeference.crs:

        def project(contour: NDArray[Any]) -> NDArray[np.float64]:
            return _project_edges(
                contour, lambda corners: georeference.to_longitude_latitude(georeference.to_map(corners))
            )

    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write('{"type":"FeatureCollection","features":[')
        separator = "\n"
        for feature_id, obj in enumerate(objects, 1):
            parts = multipolygon(obj, project, _DECIMALS)
            feature = {
                "type": "Feature",
                "id": feature_id,
                "properties": {
                    "id": feature_id,
                    "area": obj.area,
                    "predicted_iou": obj.predicted_iou,
                    "stability": obj.stability,
                },
                "geometry": _geometry([[_coordinates(ring) for ring in rings] for rings in parts]),
            }
            file.write(separator + json.dumps(feature, separators=(",", ":"), allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")


def _project_edges(
    contour: NDArray[Any], project: Callable[[NDArray[Any]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Project the corners of a closed contour, splitting edges that are curved after the projection.

    Without the extra corners a long straight edge, such as a lake cut off by the edge of a satellite image, can be
    twenty pixels off in the middle.
    """
    corners, projected = contour.astype(np.float64), project(contour)
    while True:
        next_corners = np.roll(corners, -1, axis=0)
        lengths = np.abs(next_corners - corners).sum(1)
        long = np.flatnonzero(lengths > _MIN_EDGE)
        midpoints = (corners[long] + next_corners[long]) / 2
        projected_mid = project(midpoints) if len(long) else midpoints
        chords = np.roll(projected, -1, axis=0)[long] - projected[long]
        # distance / chord * edge length in pixels > _TOLERANCE, multiplied by the chord to avoid dividing by zero.
        is_bent = np.hypot(*(projected_mid - projected[long] - chords / 2).T) * lengths[long] > _TOLERANCE * np.hypot(
            *chords.T
        )
        if not is_bent.any():
            return projected
        positions = long[is_bent] + 1
        corners = np.insert(corners, positions, midpoints[is_bent], axis=0)
        projected = np.insert(projected, positions, projected_mid[is_bent], axis=0)


def _geometry(parts: list[list[Any]]) -> dict[str, Any]:
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _coordinates(ring: NDArray[np.float64]) -> list[Any]:
    is_integral = ring == np.rint(ring)
    return ring.astype(np.int64).tolist() if is_integral.all() else ring.tolist()
