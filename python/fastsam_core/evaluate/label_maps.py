"""Readers of true masks stored as label maps: PNG files, and .npz files with a list of segments."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sources.decode import check_size, open_image

# Pillow's modes of images with one integer per pixel: 1, 8, 16 and 32 bits, and palette indices ("P").
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_COLOUR_MODES = ("RGB", "RGBA", "LA")
# Palette index that VOC and DAVIS give to pixels that belong to no object.
_VOID = 255
# Maximum length of the list of segments in characters, enough for tens of thousands of segments.
_MAX_SEGMENTS_LENGTH = 1 << 25


def read_png(path: Path) -> NDArray[Any]:
    """Return the object numbers (H, W) of a PNG. A palette image gives its indices, with 255 (VOC's void) as 0.

    Exception: a palette image that holds only 0 and 255 is a mask of one object, whose 255 stays. A grey image may be
    stored in colour, with equal channels of 8 bits. ValueError for other colour images and for a file that is no PNG.
    """
    with open(path, "rb") as file:
        image_format, image = open_image(file)
        if image_format != "PNG":
            raise ValueError(f"{path.name} is a {image_format} file, whose pixels are not exact; a PNG is needed")
        # Pillow reads 16-bit colours as 8 bits.
        could_be_grey = image.mode in _COLOUR_MODES and not any(";16" in str(tile) for tile in image.tile)
        if image.mode not in _MODES and not could_be_grey:
            raise _colour_error(path, image.mode)
        check_size(image.width, image.height)
        try:
            values = np.asarray(image)
        except Exception as error:  # decoders may raise anything
            raise ValueError(f"{path.name} is damaged: {error}") from error
    if image.mode in _COLOUR_MODES:
        channels = np.moveaxis(values, -1, 0)
        alpha = [channels[-1]] if image.mode.endswith("A") else []
        grey, *others = channels[: len(channels) - len(alpha)]
        if any((other != grey).any() for other in others) or any((values != 255).any() for values in alpha):
            raise _colour_error(path, image.mode)
        values = grey
    if image.mode == "1":
        values = values.astype(np.uint8) * 255
    if image.mode == "P" and not np.isin(values, (0, _VOID)).all():
        values = np.where(values == _VOID, 0, values)
    return values


def _colour_error(path: Path, mode: str) -> ValueError:
    return ValueError(
        f"{path.name} is in colour ({mode}); a PNG with one number per pixel is needed: greyscale of 8 or 16 bits, or "
        "with a palette"
    )


def object_values(labels: NDArray[Any]) -> list[int]:
    """Return the object numbers of a label map: every value but 0, ascending."""
    return [int(value) for value in np.unique(labels) if value != 0]


@dataclass(frozen=True)
class Segments:
    """Labels of the things that are not crowds, and the number of crowds."""

    thing_values: list[int]
    crowds: int


def read_npz(path: Path, size: tuple[int, int]) -> tuple[NDArray[Any], Segments]:
    """Return the label map (H, W) and the segments of an .npz file, for an image of `size` = (height, width).

    The file holds `labels`, integers (H, W), and `segments`, a JSON list of objects with `label`, `isthing` (default 1)
    and `iscrowd` (default 0). ValueError for any other file. Shapes and dtypes are checked in the headers, before the
    arrays are read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            shape, dtype = _read_header(archive, "labels.npy")
            if dtype.kind not in "iub" or shape != tuple(size):
                raise ValueError(
                    f"labels is {dtype} {shape}, but integers of shape {tuple(size)} are needed, the image's (height, "
                    "width)"
                )
            shape, dtype = _read_header(archive, "segments.npy")
            if dtype.kind not in "US" or shape != () or dtype.itemsize > 4 * _MAX_SEGMENTS_LENGTH:
                raise ValueError(f"segments is {dtype} {shape}, but a single string with a JSON list is needed")
        with np.load(path, allow_pickle=False) as content:
            labels, segments = content["labels"], content["segments"].item()
        return labels, _parse_segments(segments if isinstance(segments, str) else segments.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, zlib.error) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the file can't be opened; without a name, a damaged offset leads out of it
        raise ValueError(f"{path.name} is not an .npz file with labels and segments: {error}") from error


def _read_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        # Later versions are for structured arrays; their headers may claim a length of gigabytes, and NumPy reads them.
        if version != (1, 0):
            raise ValueError(f"{member} is written in NumPy's format {version}, where (1, 0) is needed, np.savez's own")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _parse_segments(text: str) -> Segments:
    try:
        entries = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"segments is not JSON: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("segments must be a list of JSON objects")
    thing_values, num_crowds = [], 0
    for position, entry in enumerate(entries):
        value = entry.get("label")
        if not isinstance(value, int) or isinstance(value, bool) or value in thing_values:
            raise ValueError(f"segments[{position}]: label must be an integer that no other segment has, not {value!r}")
        crowd, thing = entry.get("iscrowd", 0), entry.get("isthing", 1)
        for name, flag in (("iscrowd", crowd), ("isthing", thing)):
            if not isinstance(flag, (bool, int, float)) or flag not in (0, 1):
                raise ValueError(f"segments[{position}]: {name} must be 0 or 1, not {flag!r}")
        if crowd:
            num_crowds += 1
        elif thing:
            thing_values.append(value)
    return Segments(thing_values, num_crowds)
