"""The command `fastsam tiles`."""

from __future__ import annotations

import os
from typing import Any

from .._arguments import UsageError, check_keys
from .._log import format_count

OPTIONS = {
    "source": "an image or GeoTIFF of any size; GeoTIFFs need the extra `geo`",
    "output": "file to write: .gpkg, .geojson or .json (COCO); default: <source>_objects.gpkg",
    "model": "name or path of a SAM checkpoint; default: sam_nano.pt",
    "tile": "side of a tile in pixels; default: 1024",
    "overlap": "minimum overlap of neighbouring tiles in pixels; default: 128",
    "merge_iou": "merge two masks whose IoU in the overlap of their tiles is above this; default: 0.5",
    "batch": "number of tiles read and encoded together; default: 1",
    "work_dir": "folder that keeps finished tiles, so that an interrupted run can resume; default: none",
    "device": "cpu, cuda, 0, ...; default: the GPU if there is one",
}


def run(values: dict[str, Any]) -> None:
    """Run the command with its key=value pairs."""
    from ..config import EVERYTHING_OPTIONS

    check_keys(values, [*OPTIONS, *sorted(EVERYTHING_OPTIONS)], "tiles")
    options = {key: value for key, value in values.items() if value is not None}
    source, output = options.pop("source", None), options.pop("output", None)
    if source is None:
        raise UsageError("tiles needs source=<an image or GeoTIFF>")
    from .objects import RasterObjects
    from .run import segment

    output = f"{os.path.splitext(source)[0]}_objects.gpkg" if output is None else output
    # Check the output now rather than after hours of work.
    if RasterObjects.check_path(output).suffix.lower() == ".geojson":
        _check_georeference(source)
    objects = segment(source, **options)
    print(f"{format_count(len(objects), 'object')} saved to {objects.save(output)}")


def _check_georeference(source: str) -> None:
    """Raise ValueError if a GeoTIFF can't be placed on WGS 84, the system of GeoJSON. Other files pass."""
    import numpy as np

    from .tiff import is_georeferenced
    from .windows import open_raster

    source = os.path.expanduser(source)
    if not os.path.isfile(source) or not is_georeferenced(source):
        return
    with open_raster(source) as raster:
        georeference = raster.georeference
        if georeference is not None and georeference.crs:
            corners = [(x, y) for x in (0, raster.width) for y in (0, raster.height)]
            georeference.to_longitude_latitude(georeference.to_map(np.array(corners)))
