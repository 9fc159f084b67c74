"""Position of a raster on the Earth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# GeoPackage stores the code of a reference system in 32 bits with a sign.
_MAX_CODE = 2**31 - 1
INSTALL_HINT = "pip install 'fastsam_core[geo]'"


class Georeference(NamedTuple):
    """Coordinate reference system and affine transform of a raster.

    crs: WKT version 1, or "" if unknown. transform: a, b, c, d, e, f, which map the pixel corner at column x, row y to
    (a x + b y + c, d x + e y + f). authority: name and code of the system, such as ("EPSG", 32632), or None.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    authority: tuple[str, int] | None = None

    def to_map(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Map pixel corners (K, 2) x, y to coordinates of the reference system."""
        a, b, c, d, e, f = self.transform
        x, y = np.asarray(points, np.float64).T
        return np.stack([a * x + b * y + c, d * x + e * y + f], 1)

    def to_longitude_latitude(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert points (K, 2) of the reference system to longitude, latitude in degrees on WGS 84.

        Raises ImportError without rasterio, ValueError if the system or a point can't be converted.
        """
        try:
            from rasterio.crs import CRS
            from rasterio.warp import transform
        except ImportError:
            raise ImportError(f"GeoJSON of a raster with a reference system needs rasterio: {INSTALL_HINT}") from None
        x, y = points.T
        advice = "write a .gpkg, which keeps its reference system"
        # OGC:CRS84 is WGS 84 with longitude first, as GeoJSON requires (RFC 7946, section 4).
        try:
            converted = transform(CRS.from_wkt(self.crs), CRS.from_string("OGC:CRS84"), x.tolist(), y.tolist())
        except Exception as error:  # rasterio also raises GDAL's own errors, which have no public base class
            raise ValueError(f"the raster can't be converted to WGS 84 ({str(error)[:200]}); {advice}") from error
        degrees = np.stack([np.asarray(converted[0], np.float64), np.asarray(converted[1], np.float64)], 1)
        if not np.isfinite(degrees).all():  # some versions of rasterio give infinity instead of an error
            raise ValueError(f"the raster has points that can't be converted to WGS 84; {advice}")
        return degrees


def validate_georeference(georeference: Any) -> Georeference:
    """Validate and normalise a `Georeference`.

    The transform may also be rasterio's `Affine`, and the authority's code may be text. An authority with another code
    becomes None. Raises ValueError for anything else, and for codes above 2,147,483,647.
    """
    try:
        crs, transform, authority = georeference
        a, b, c, d, e, f = (float(number) for number in tuple(transform)[:6])
        authority_code = (str(authority[0]), int(authority[1])) if authority and str(authority[1]).isdigit() else None
        code_fits = authority_code is None or authority_code[1] <= _MAX_CODE
        if code_fits and isinstance(crs, str) and np.isfinite([a, b, c, d, e, f]).all():
            return Georeference(crs, (a, b, c, d, e, f), authority_code)
    except (TypeError, ValueError, IndexError):
        pass
    raise ValueError(
        "a raster's georeference must be a Georeference of WKT, six numbers, and None or a name with a code of at most "
        f"{_MAX_CODE}, not {georeference!r}"[:400]
    )
