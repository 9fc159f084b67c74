"""Segment everything in rasters that fit neither into memory nor into one input of a model.

run.py is `segment`: windows.py gives it the pixels of grid.py's tiles, segmenters.py the masks of each, store.py keeps
what is finished, and merge.py makes objects of them, by links.py. objects.py is what comes out; geojson.py,
geopackage.py and coco.py write it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .georeference import Georeference
    from .objects import RasterObject, RasterObjects
    from .run import segment
    from .windows import Windows

__all__ = ["Georeference", "RasterObject", "RasterObjects", "Windows", "segment"]

_HOMES = {
    "Georeference": "georeference",
    "RasterObject": "objects",
    "RasterObjects": "objects",
    "Windows": "windows",
    "segment": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
