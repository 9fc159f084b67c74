"""GeoTIFF files, read window by window with rasterio (extra `geo`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window

from .._log import logger
from .georeference import Georeference

# Bands that aren't 8-bit are stretched between these percentiles: the default of QGIS's "cumulative count cut".
PERCENTILES = (2.0, 98.0)
# The side of the decimated read that the percentiles are taken from.
_SAMPLE = 1024
_ERRORS = (RasterioError, RasterioIOError)  # before rasterio 1.4 the second isn't one of the first
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@contextmanager
def open_geotiff(path: str) -> Iterator[GeoTiffWindows]:
    """A GeoTIFF's windows. ValueError for a file that GDAL can't read, or of a kind that isn't offered."""
    with ExitStack() as stack:
        with warnings.catch_warnings():
            # A TIFF that doesn't say where it lies is a picture like others.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                # No other driver: some of GDAL's formats name further files or addresses.
                dataset = stack.enter_context(rasterio.open(path, driver="GTiff"))
            except _ERRORS as error:
                raise ValueError(f"{path}: {error}") from None
            windows = GeoTiffWindows(dataset, path)
        yield windows


class GeoTiffWindows:
    """The windows of a GeoTIFF, see `Windows`.

    One or two bands are grey, three or more are red, green and blue, by their colour interpretation if the file gives
    one, else the first three; a palette is applied. 8-bit bands are taken as they are, and those of fewer bits brought
    to the range of 8; 16 and more bits, and floating-point bands, are stretched linearly, each between its 2nd and 98th
    percentile over the valid pixels of a read decimated to 1,024 pixels a side. Nodata, transparent and masked pixels
    and NaN aren't valid.
    """

    def __init__(self, dataset: Any, path: str) -> None:
        self.height, self.width = int(dataset.height), int(dataset.width)
        self._dataset, self._path = dataset, path
        self._bands = _colour_bands(dataset)
        names = {str(dataset.dtypes[band - 1]) for band in self._bands}
        if any("complex" in name for name in names):  # complex_int16 is known to rasterio alone
            raise ValueError(f"{path}: bands of {', '.join(sorted(names))} can't be shown as an image")
        kinds = {np.dtype(name) for name in names}
        self._palette = _palette(dataset, self._bands)
        self._limits = None if self._palette is not None else self._stretch(kinds)
        self.georeference = _georeference(dataset)
        unread = "ground control points" if dataset.gcps[0] else "rational polynomials (RPC)" if dataset.rpcs else ""
        if self.georeference is None and unread:
            logger.warning(
                "%s is georeferenced by %s, which isn't supported: coordinates stay in pixels. Rectify it first, for "
                "example with gdalwarp",
                path,
                unread,
            )

    def read(self, y: int, x: int, height: int, width: int, /) -> NDArray[np.uint8]:
        """BGR pixels of a window."""
        bands = self._read(indexes=self._bands, window=Window(x, y, width, height))
        if self._palette is not None:
            shown = self._palette[np.minimum(bands[0], len(self._palette) - 1)]
        else:
            shown = np.moveaxis(bands if self._limits is None else self._stretched(bands), 0, -1)
            shown = np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown[:, :, ::-1]
        return np.ascontiguousarray(shown, np.uint8)

    def valid(self, y: int, x: int, height: int, width: int, /) -> NDArray[np.bool_]:
        """Where a window has data: bool (height, width)."""
        window = Window(x, y, width, height)
        found: NDArray[np.bool_] = self._masks(window=window) != 0
        if np.dtype(self._dataset.dtypes[self._bands[0] - 1]).kind == "f":
            found &= np.isfinite(self._read(indexes=self._bands, window=window)).all(0)
        return found

    def _read(self, **options: Any) -> NDArray[Any]:
        try:
            bands: NDArray[Any] = self._dataset.read(**options)
        except _ERRORS as error:
            raise ValueError(f"{self._path} can't be read, it is damaged: {error.__cause__ or error}") from None
        return bands

    def _masks(self, **options: Any) -> NDArray[np.uint8]:
        try:
            masks: NDArray[np.uint8] = self._dataset.dataset_mask(**options)
        except _ERRORS as error:
            raise ValueError(f"{self._path} can't be read, it is damaged: {error.__cause__ or error}") from None
        return masks

    def _stretch(self, kinds: set[np.dtype[Any]]) -> NDArray[np.float64] | None:
        """(bands, 2): what becomes 0 and 255; None where the values are that already."""
        if kinds != {np.dtype(np.uint8)}:
            return self._percentiles()
        bits = [int(self._dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8)) for band in self._bands]
        return None if min(bits) == 8 else np.array([[0, 2**count - 1] for count in bits], np.float64)

    def _percentiles(self) -> NDArray[np.float64]:
        """(bands, 2): what becomes 0 and 255."""
        shape = min(self.height, _SAMPLE), min(self.width, _SAMPLE)
        bands = self._read(indexes=self._bands, out_shape=(len(self._bands), *shape)).astype(np.float64)
        valid = (self._masks(out_shape=shape) != 0) & np.isfinite(bands).all(0)
        if not valid.any():
            return np.tile([0.0, 1.0], (len(bands), 1))
        limits: NDArray[np.float64] = np.percentile(bands[:, valid], PERCENTILES, axis=1).T
        return limits

    def _stretched(self, bands: NDArray[Any]) -> NDArray[np.uint8]:
        assert self._limits is not None
        low, high = self._limits[:, 0, None, None], self._limits[:, 1, None, None]
        # NaN and infinities have their place too, though they aren't valid. A band of one value becomes black.
        values = np.clip(np.nan_to_num(bands.astype(np.float64), nan=-np.inf), low, high)
        return np.rint((values - low) * (255 / np.where(high > low, high - low, 1))).astype(np.uint8)


def _colour_bands(dataset: Any) -> list[int]:
    """The bands that are shown, from 1 on: one, or red, green and blue."""
    meaning = list(dataset.colorinterp)
    if all(colour in meaning for colour in _RGB):
        return [meaning.index(colour) + 1 for colour in _RGB]
    colours = [band for band, colour in enumerate(meaning, 1) if colour != ColorInterp.alpha] or [1]
    return colours[:3] if len(colours) >= 3 else colours[:1]


def _palette(dataset: Any, bands: list[int]) -> NDArray[np.uint8] | None:
    """(colours, 3) BGR, of a band whose values are places in a table of colours."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    table = dataset.colormap(bands[0])
    colours = np.zeros((max(table) + 1, 3), np.uint8)
    for place, (red, green, blue, *_) in table.items():
        colours[place] = blue, green, red
    return colours


def _georeference(dataset: Any) -> Georeference | None:
    transform = tuple(float(value) for value in tuple(dataset.transform)[:6])
    if dataset.crs is None and transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
        return None
    a, b, c, d, e, f = transform
    if dataset.crs is None:
        return Georeference("", (a, b, c, d, e, f))
    # With less confidence the axes and the ellipsoid are the same, but the datum may be another one.
    named = dataset.crs.to_authority(confidence_threshold=90)
    authority = (str(named[0]), int(named[1])) if named is not None and str(named[1]).isdigit() else None
    return Georeference(dataset.crs.to_wkt(), (a, b, c, d, e, f), authority)
