"""Rasters that are read window by window: arrays, files and user-defined objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..sources.arrays import check_array, from_array
from ..sources.decode import check_size, read_image, read_size
from .georeference import INSTALL_HINT, validate_georeference
from .grid import Box
from .tiff import is_georeferenced, is_tiff


@runtime_checkable
class Windows(Protocol):
    """Interface of a raster of any size and origin that can be read in windows.

    `read` returns the pixels of a window within the raster, (height, width, 3) uint8 BGR. Two members are optional. A
    method `valid(y, x, height, width)` returns bool (height, width), False where the window has no data: such pixels
    are black to the model and belong to no object. An attribute `georeference` holds a `Georeference` or None.
    """

    height: int
    width: int

    def read(self, y: int, x: int, height: int, width: int, /) -> NDArray[np.uint8]:
        """Return the pixels of `height` rows from row `y` and `width` columns from column `x`."""
        ...


class Raster:
    """A `Windows` object with checks of what it returns. Opened by `open_raster`.

    name: name of the raster in output files.
    """

    def __init__(self, windows: Windows, name: str) -> None:
        self.height, self.width = _dimension(windows, "height"), _dimension(windows, "width")
        self.name = name
        georeference = getattr(windows, "georeference", None)
        self.georeference = None if georeference is None else validate_georeference(georeference)
        self._windows = windows

    def read(self, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Return the pixels of a box, (H, W, 3) uint8 BGR, and its bool mask of valid pixels, (H, W).

        The mask is None if all pixels are valid; invalid ones are black. The pixels are always a contiguous copy: a
        user's model may write into its tile, and the next tile overlaps it. Raises ValueError if the windows return
        another shape or dtype.
        """
        x1, y1, x2, y2 = box
        height, width = y2 - y1, x2 - x1
        pixels = np.asarray(self._windows.read(y1, x1, height, width))
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                f"read({y1}, {x1}, {height}, {width}) must give ({height}, {width}, 3) uint8 BGR, not "
                f"{pixels.shape} {pixels.dtype}"
            )
        pixels = np.array(pixels, order="C")
        read_valid = getattr(self._windows, "valid", None)
        if read_valid is None:
            return pixels, None
        valid = np.asarray(read_valid(y1, x1, height, width))
        if valid.shape != (height, width) or valid.dtype != np.bool_:
            raise ValueError(
                f"valid({y1}, {x1}, {height}, {width}) must give ({height}, {width}) bool, not {valid.shape} "
                f"{valid.dtype}"
            )
        if valid.all():
            return pixels, None
        # Nodata pixels may hold any value. Black keeps them from looking like part of their surroundings.
        pixels[~valid] = 0
        return pixels, valid


@contextmanager
def open_raster(image: Any) -> Iterator[Raster]:
    """Open an array, a file or a `Windows` object as a `Raster`.

    Raises TypeError for anything else, FileNotFoundError or ValueError for a file that can't be read, ImportError for a
    GeoTIFF without rasterio.
    """
    if isinstance(image, np.ndarray):
        yield Raster(_ArrayWindows(image), "array")
    elif isinstance(image, (str, os.PathLike)):
        path = os.path.expanduser(os.fspath(image))
        with _open_file(path) as windows:
            yield Raster(windows, os.path.basename(path))
    elif isinstance(image, Windows) and not type(image).__module__.startswith("rasterio."):
        yield Raster(image, type(image).__name__)
    else:
        raise TypeError(
            "image must be an array (H, W, 3) uint8 BGR, a path, or an object with height, width and read(y, x, "
            f"height, width), not {type(image).__name__}; of a data set that rasterio has opened, give the path"
        )


class _ArrayWindows:
    """An array in memory or on disk (`numpy.memmap`). Only windows of it are copied."""

    def __init__(self, array: NDArray[Any]) -> None:
        check_array(array)
        self.height, self.width = array.shape[:2]
        self._array = array

    def read(self, y: int, x: int, height: int, width: int, /) -> NDArray[np.uint8]:
        return from_array(self._array[y : y + height, x : x + width])


@contextmanager
def _open_file(path: str) -> Iterator[Windows]:
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise ValueError(f"{path} is not a regular file")
        raise FileNotFoundError(f"no such file: {path}")
    georeferenced = is_georeferenced(path)
    if georeferenced or (is_tiff(path) and _decoding_problem(path)):
        try:
            from .rasterio_windows import open_geotiff
        except ImportError as error:
            if not georeferenced:
                raise ValueError(
                    f"{path}: {_decoding_problem(path)}; or let rasterio read it in windows: {INSTALL_HINT}"
                ) from None
            raise ImportError(
                f"{path} is georeferenced, and reading it needs rasterio: {INSTALL_HINT} ({error})"
            ) from None
        with open_geotiff(path) as windows:
            yield windows
        return
    try:
        pixels = read_image(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    yield _ArrayWindows(pixels)


def _decoding_problem(path: str) -> str:
    """Return why Pillow can't decode a TIFF as a whole (too large, unsupported kind), judged by its header, or ""."""
    try:
        height, width = read_size(path)
        check_size(width, height)
    except ValueError as error:
        return str(error)
    return ""


def _dimension(windows: Any, name: str) -> int:
    side = getattr(windows, name)
    if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1:
        raise ValueError(f"a raster's {name} must be an integer of at least 1, not {side!r}")
    return int(side)
