"""Segment everything in rasters too large for memory or for a single model input.

`segment` in run.py drives the pipeline: grid.py lays out the tiles, windows.py reads their pixels, segmenters.py finds
the masks of each tile, store.py saves finished tiles, and merge.py joins masks into objects, using the links that
links.py finds. The result is the `RasterObjects` of objects.py; geojson.py, geopackage.py and coco.py write its files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .georeference import Georeference
    from .objects import RasterObject, RasterObjects
    from .run import segment
    from .windows import Windows

__all__ = ["Georeference", "RasterObject", "RasterObjects", "Windows", "segment"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Georeference": "georeference",
        "RasterObject": "objects",
        "RasterObjects": "objects",
        "Windows": "windows",
        "segment": "run",
    },
)
