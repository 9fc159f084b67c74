"""Detect georeferenced TIFFs without a library, from the tags of the first image and from world files."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory (OGC GeoTIFF 1.1, 7.1); RPCCoefficientTag (GDAL).
_GEO_TAGS = {33550, 33922, 34264, 34735, 50844}
_MAX_TAGS = 65535


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
        byte_order, is_big = layout
        try:
            return not _GEO_TAGS.isdisjoint(_tags(file, byte_order, is_big))
        except (struct.error, OSError, OverflowError):
            return False


def is_georeferenced(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a GeoTIFF, or a TIFF with a world file beside it, named as GDAL expects."""
    if is_geotiff(path):
        return True
    stem, image_suffix = os.path.splitext(path)
    suffixes = [cased for suffix in (".tfw", f"{image_suffix}w", ".wld") for cased in (suffix.lower(), suffix.upper())]
    return is_tiff(path) and any(os.path.isfile(stem + world_suffix) for world_suffix in suffixes)


def _layout(file: BinaryIO) -> tuple[str, bool] | None:
    """Return the byte order ("<" or ">") and whether the file is a BigTIFF, or None if it is no TIFF."""
    header = file.read(4)
    byte_order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if byte_order is None or len(header) < 4:
        return None
    version = struct.unpack(f"{byte_order}H", header[2:])[0]
    return (byte_order, version == 43) if version in (42, 43) else None


def _tags(file: BinaryIO, byte_order: str, is_big: bool) -> list[int]:
    """Return the tag numbers of the first directory."""
    file.seek(8 if is_big else 4)
    (start,) = struct.unpack(f"{byte_order}{'Q' if is_big else 'I'}", file.read(8 if is_big else 4))
    file.seek(start)
    (count,) = struct.unpack(f"{byte_order}{'Q' if is_big else 'H'}", file.read(8 if is_big else 2))
    size = 20 if is_big else 12
    entries = file.read(size * min(count, _MAX_TAGS))
    return [
        struct.unpack_from(f"{byte_order}H", entries, offset)[0] for offset in range(0, len(entries) - size + 1, size)
    ]
