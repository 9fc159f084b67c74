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

# Bands that aren't uint8 are stretched between these percentiles, the default of QGIS's "cumulative count cut".
PERCENTILES = (2.0, 98.0)
# Maximum side of the decimated read from which the percentiles are computed.
_MAX_SAMPLE_SIDE = 1024
_ERRORS = (RasterioError, RasterioIOError)  # before rasterio 1.4, RasterioIOError isn't a subclass of RasterioError
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@contextmanager
def open_geotiff(path: str) -> Iterator[GeoTiffWindows]:
    """Open a GeoTIFF. Raises ValueError if GDAL can't read the file or its bands have an unsupported dtype."""
    with ExitStack() as stack:
        with warnings.catch_warnings():
            # A TIFF without a georeference is treated like any other image.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                # Only this driver: some of GDAL's formats make it open further files or network addresses.
                dataset = stack.enter_context(rasterio.open(path, driver="GTiff"))
            except _ERRORS as error:
                raise ValueError(f"{path}: {error}") from None
            windows = GeoTiffWindows(dataset, path)
        yield windows


class GeoTiffWindows:
    """A GeoTIFF that is read in windows, see `Windows`.

    Bands: one or two are shown as grey, and a palette is applied. Of three or more, red, green and blue are chosen by
    the file's colour interpretation, or else are the first three. uint8 values are used as they are, and those of fewer
    bits are scaled to the 8-bit range. Other integers and floating-point bands are stretched linearly, each between its
    2nd and 98th percentile over the valid pixels of a read decimated to at most 1,024 pixels a side. Nodata,
    transparent and masked pixels, NaN and infinities aren't valid.
    """

    def __init__(self, dataset: Any, path: str) -> None:
        self.height, self.width = int(dataset.height), int(dataset.width)
        self._dataset, self._path = dataset, path
        self._bands = _displayed_bands(dataset)
        dtype_names = {str(dataset.dtypes[band - 1]) for band in self._bands}
        # By name, because NumPy has no dtype for rasterio's complex_int16.
        if any("complex" in name for name in dtype_names):
            raise ValueError(f"{path}: bands of {', '.join(sorted(dtype_names))} can't be shown as an image")
        dtypes = {np.dtype(name) for name in dtype_names}
        self._palette = _palette(dataset, self._bands)
        self._limits = None if self._palette is not None else self._stretch_limits(dtypes)
        self.georeference = _georeference(dataset)
        unsupported = (
            "ground control points" if dataset.gcps[0] else "rational polynomials (RPC)" if dataset.rpcs else ""
        )
        if self.georeference is None and unsupported:
            logger.warning(
                "%s is georeferenced by %s, which are not supported: objects are in pixel coordinates. Rectify it "
                "first, for example with gdalwarp",
                path,
                unsupported,
            )

    def read(self, y: int, x: int, height: int, width: int, /) -> NDArray[np.uint8]:
        """Return the pixels of a window, (height, width, 3) uint8 BGR."""
        bands = self._read(indexes=self._bands, window=Window(x, y, width, height))
        if self._palette is not None:
            pixels = self._palette[np.minimum(bands[0], len(self._palette) - 1)]
        else:
            pixels = np.moveaxis(bands if self._limits is None else self._apply_stretch(bands), 0, -1)
            pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, ::-1]
        return np.ascontiguousarray(pixels, np.uint8)

    def valid(self, y: int, x: int, height: int, width: int, /) -> NDArray[np.bool_]:
        """Return where a window has data, bool (height, width)."""
        window = Window(x, y, width, height)
        valid: NDArray[np.bool_] = self._masks(window=window) != 0
        if np.dtype(self._dataset.dtypes[self._bands[0] - 1]).kind == "f":
            valid &= np.isfinite(self._read(indexes=self._bands, window=window)).all(0)
        return valid

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

    def _stretch_limits(self, dtypes: set[np.dtype[Any]]) -> NDArray[np.float64] | None:
        """Return the values that map to 0 and 255, (bands, 2), or None for 8-bit bands, which need no stretch."""
        if dtypes != {np.dtype(np.uint8)}:
            return self._percentiles()
        bits = [int(self._dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8)) for band in self._bands]
        return None if min(bits) == 8 else np.array([[0, 2**count - 1] for count in bits], np.float64)

    def _percentiles(self) -> NDArray[np.float64]:
        """Return the percentiles of each band that map to 0 and 255, (bands, 2), from a decimated read."""
        shape = min(self.height, _MAX_SAMPLE_SIDE), min(self.width, _MAX_SAMPLE_SIDE)
        bands = self._read(indexes=self._bands, out_shape=(len(self._bands), *shape)).astype(np.float64)
        valid = (self._masks(out_shape=shape) != 0) & np.isfinite(bands).all(0)
        if not valid.any():
            return np.tile([0.0, 1.0], (len(bands), 1))
        limits: NDArray[np.float64] = np.percentile(bands[:, valid], PERCENTILES, axis=1).T
        return limits

    def _apply_stretch(self, bands: NDArray[Any]) -> NDArray[np.uint8]:
        assert self._limits is not None
        low, high = self._limits[:, 0, None, None], self._limits[:, 1, None, None]
        # NaN and infinities aren't valid, but they must cast to uint8 too. A band of a single value becomes black.
        values = np.clip(np.nan_to_num(bands.astype(np.float64), nan=-np.inf), low, high)
        return np.rint((values - low) * (255 / np.where(high > low, high - low, 1))).astype(np.uint8)


def _displayed_bands(dataset: Any) -> list[int]:
    """Return the 1-based indices of the bands to show: one, or red, green and blue."""
    interpretation = list(dataset.colorinterp)
    if all(colour in interpretation for colour in _RGB):
        return [interpretation.index(colour) + 1 for colour in _RGB]
    colours = [band for band, colour in enumerate(interpretation, 1) if colour != ColorInterp.alpha] or [1]
    return colours[:3] if len(colours) >= 3 else colours[:1]


def _palette(dataset: Any, bands: list[int]) -> NDArray[np.uint8] | None:
    """Return the colour table of a palette band, (colours, 3) BGR, or None for other bands."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    table = dataset.colormap(bands[0])
    colours = np.zeros((max(table) + 1, 3), np.uint8)
    for index, (red, green, blue, *_) in table.items():
        colours[index] = blue, green, red
    return colours


def _georeference(dataset: Any) -> Georeference | None:
    transform = tuple(float(value) for value in tuple(dataset.transform)[:6])
    if dataset.crs is None and transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
        return None
    a, b, c, d, e, f = transform
    if dataset.crs is None:
        return Georeference("", (a, b, c, d, e, f))
    # Below this confidence, a matched system has the same axes and ellipsoid but may have a different datum.
    matched = dataset.crs.to_authority(confidence_threshold=90)
    authority = (str(matched[0]), int(matched[1])) if matched is not None and str(matched[1]).isdigit() else None
    return Georeference(dataset.crs.to_wkt(), (a, b, c, d, e, f), authority)
