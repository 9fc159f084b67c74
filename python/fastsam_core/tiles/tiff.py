"""Detect georeferenced TIFFs without a library, from the tags of the first image and from world files."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory (OGC GeoTIFF 1.1, 7.1); RPCCoefficientTag (GDAL).
_GEO_TAGS = {33550, 33922, 34264, 34735, 50844}
_MOST_TAGS = 65535


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a TIFF or BigTIFF, judged by its first bytes."""
    with open(path, "rb") as file:
        return _layout(file) is not None


def is_geotiff(path: str | os.PathLike[str]) -> bool:
    """Return whether the first image of a TIFF or BigTIFF has georeferencing tags. False for a damaged file."""
    with open(path, "rb") as file:
        layout = _layout(file)
        if layout is None:
            return False
        order, big = layout
        try:
            return not _GEO_TAGS.isdisjoint(_tags(file, order, big))
        except (struct.error, OSError, OverflowError):
            return False


def is_placed_tiff(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a GeoTIFF, or a TIFF with a world file beside it, named as GDAL expects."""
    if is_geotiff(path):
        return True
    stem, suffix = os.path.splitext(path)
    names = [end for one in (".tfw", f"{suffix}w", ".wld") for end in (one.lower(), one.upper())]
    return is_tiff(path) and any(os.path.isfile(stem + name) for name in names)


def _layout(file: BinaryIO) -> tuple[str, bool] | None:
    """Return the byte order ("<" or ">") and whether the file is a BigTIFF, or None if it is no TIFF."""
    head = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 4:
        return None
    version = struct.unpack(f"{order}H", head[2:])[0]
    return (order, version == 43) if version in (42, 43) else None


def _tags(file: BinaryIO, order: str, big: bool) -> list[int]:
    """Return the tag numbers of the first directory."""
    file.seek(8 if big else 4)
    (start,) = struct.unpack(f"{order}{'Q' if big else 'I'}", file.read(8 if big else 4))
    file.seek(start)
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))
    size = 20 if big else 12
    entries = file.read(size * min(count, _MOST_TAGS))
    return [struct.unpack_from(f"{order}H", entries, place)[0] for place in range(0, len(entries) - size + 1, size)]
