"""Segment everything in rasters that fit neither into memory nor into one input of a model.

run.py is `segment`: windows.py gives it the pixels of grid.py's tiles, segmenters.py the masks of each, store.py keeps
what is finished, and merge.py makes objects of them, by links.py. objects.py is what comes out; geojson.py,
geopackage.py and coco.py write it.
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
