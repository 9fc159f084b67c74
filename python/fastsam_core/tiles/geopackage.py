"""GeoPackage files of a raster's objects: SQLite by OGC 12-128r15 (version 1.2), written with the standard library."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_path
from .._log import warn_once
from .geometries import Rings, multipolygon
from .georeference import Georeference

if TYPE_CHECKING:
    from .objects import RasterObjects

_APPLICATION_ID, _VERSION = 0x47504B47, 10200  # "GPKG", 1.2.0
_TABLE, _GEOMETRY = "objects", "geom"
# srs_id of the undefined Cartesian system, and of a system without authority code.
_UNDEFINED_SRS, _CUSTOM_SRS = -1, 100000
_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,'
    'AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]]'
)
_REFERENCE_SYSTEMS = [
    ("Undefined Cartesian", -1, "NONE", -1, "undefined", None),
    ("Undefined geographic", 0, "NONE", 0, "undefined", None),
    ("WGS 84", 4326, "EPSG", 4326, _WGS84, "longitude and latitude in degrees"),
]
# The standard requires a time of last change. A constant one gives equal bytes for equal objects.
_LAST_CHANGE = "1970-01-01T00:00:00.000Z"

_TABLES = f"""
CREATE TABLE gpkg_spatial_ref_sys (
  srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (
  table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE, description TEXT DEFAULT '',
  last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')), min_x DOUBLE, min_y DOUBLE,
  max_x DOUBLE, max_y DOUBLE, srs_id INTEGER REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (
  table_name TEXT NOT NULL UNIQUE REFERENCES gpkg_contents(table_name), column_name TEXT NOT NULL,
  geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL REFERENCES gpkg_spatial_ref_sys(srs_id),
  z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name));
CREATE TABLE gpkg_extensions (
  table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL, scope TEXT NOT NULL,
  UNIQUE (table_name, column_name, extension_name));
CREATE TABLE {_TABLE} (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, {_GEOMETRY} MULTIPOLYGON, area INTEGER, predicted_iou DOUBLE,
  stability DOUBLE);
"""

_INDEX = f"rtree_{_TABLE}_{_GEOMETRY}"
_BOUNDS = f"(NEW.id, {', '.join(f'ST_{side}(NEW.{_GEOMETRY})' for side in ('MinX', 'MaxX', 'MinY', 'MaxY'))})"
_HAS_GEOMETRY, _NO_GEOMETRY = (
    f"(NEW.{_GEOMETRY} NOTNULL AND NOT ST_IsEmpty(NEW.{_GEOMETRY}))",
    f"(NEW.{_GEOMETRY} ISNULL OR ST_IsEmpty(NEW.{_GEOMETRY}))",
)
_INSERT_ENTRY, _DELETE_ENTRY = (
    f"INSERT OR REPLACE INTO {_INDEX} VALUES {_BOUNDS};",
    f"DELETE FROM {_INDEX} WHERE id = OLD.id;",
)
# Triggers that keep the spatial index up to date when other programs edit the file (annex F.3).
_TRIGGERS = f"""
CREATE TRIGGER {_INDEX}_insert AFTER INSERT ON {_TABLE} WHEN {_HAS_GEOMETRY} BEGIN {_INSERT_ENTRY} END;
CREATE TRIGGER {_INDEX}_update1 AFTER UPDATE OF {_GEOMETRY} ON {_TABLE}
  WHEN OLD.id = NEW.id AND {_HAS_GEOMETRY} BEGIN {_INSERT_ENTRY} END;
CREATE TRIGGER {_INDEX}_update2 AFTER UPDATE OF {_GEOMETRY} ON {_TABLE}
  WHEN OLD.id = NEW.id AND {_NO_GEOMETRY} BEGIN {_DELETE_ENTRY} END;
CREATE TRIGGER {_INDEX}_update3 AFTER UPDATE ON {_TABLE} WHEN OLD.id != NEW.id AND {_HAS_GEOMETRY} \
BEGIN {_DELETE_ENTRY} {_INSERT_ENTRY} END;
CREATE TRIGGER {_INDEX}_update4 AFTER UPDATE ON {_TABLE}
  WHEN OLD.id != NEW.id AND {_NO_GEOMETRY} BEGIN DELETE FROM {_INDEX} WHERE id IN (OLD.id, NEW.id); END;
CREATE TRIGGER {_INDEX}_delete AFTER DELETE ON {_TABLE} WHEN OLD.{_GEOMETRY} NOT NULL BEGIN {_DELETE_ENTRY} END;
"""


def write(objects: RasterObjects, path: Path) -> None:
    """Write the table `objects`, with a spatial index if SQLite has R*Tree. See `RasterObjects.save`.

    Raises OSError if the disk is full or fails.
    """
    try:
        _write(objects, path)
    except sqlite3.OperationalError as error:
        raise OSError(f"{path} can't be written: {error}") from error


def _write(objects: RasterObjects, path: Path) -> None:
    georeference = objects.georeference

    def project(corners: NDArray[Any]) -> NDArray[np.float64]:
        return corners * np.array([1.0, -1.0]) if georeference is None else georeference.to_map(corners)

    with (
        atomic_path(path) as temporary,
        closing(sqlite3.connect(temporary, isolation_level=None)) as database,
    ):
        # `atomic_path` flushes and renames the finished file, so SQLite's own safeguards would only cost time.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {_VERSION}")
        database.executescript(_TABLES)
        database.execute("BEGIN")
        srs_id = _add_reference_systems(database, georeference)
        has_index = _add_index(database)
        bounds: tuple[float, ...] = ()
        for feature_id, obj in enumerate(objects, 1):
            geometry, object_bounds = _geometry(multipolygon(obj, project), srs_id)
            database.execute(
                f"INSERT INTO {_TABLE} VALUES (?, ?, ?, ?, ?)",
                (feature_id, geometry, obj.area, obj.predicted_iou, obj.stability),
            )
            if object_bounds:
                bounds = _union_of_bounds(object_bounds, bounds) if bounds else object_bounds
                if has_index:
                    database.execute(f"INSERT INTO {_INDEX} VALUES (?, ?, ?, ?, ?)", (feature_id, *object_bounds))
        left, right, bottom, top = bounds or (None,) * 4
        database.execute(
            "INSERT INTO gpkg_contents VALUES (?, 'features', ?, ?, ?, ?, ?, ?, ?, ?)",
            (_TABLE, _TABLE, f"objects of {_valid_utf8(objects.name)}", _LAST_CHANGE, left, bottom, right, top, srs_id),
        )
        database.execute(
            "INSERT INTO gpkg_geometry_columns VALUES (?, ?, 'MULTIPOLYGON', ?, 0, 0)", (_TABLE, _GEOMETRY, srs_id)
        )
        database.execute("COMMIT")
        if has_index:
            database.executescript(_TRIGGERS)


def _valid_utf8(name: str) -> str:
    """Return a file name as valid UTF-8, which SQLite requires; undecodable bytes are replaced by "?"."""
    return name.encode("utf-8", "replace").decode()


def _add_reference_systems(database: sqlite3.Connection, georeference: Georeference | None) -> int:
    """Insert the mandatory reference systems and the raster's own. Return the raster's srs_id."""
    rows = list(_REFERENCE_SYSTEMS)
    srs_id = _UNDEFINED_SRS
    if georeference is not None and georeference.crs:
        organization, code = georeference.authority or ("NONE", _CUSTOM_SRS)
        srs_id = code
        if srs_id not in (row[1] for row in rows):
            name = georeference.crs.split('"')[1] if '"' in georeference.crs else "raster"
            rows.append((name, srs_id, organization, code, georeference.crs, None))
    database.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", rows)
    return srs_id


def _add_index(database: sqlite3.Connection) -> bool:
    """Create the spatial index. If this SQLite lacks R*Tree, log that once and return False."""
    try:
        database.execute(f"CREATE VIRTUAL TABLE {_INDEX} USING rtree(id, minx, maxx, miny, maxy)")
    except sqlite3.OperationalError as error:
        warn_once(f"GeoPackages are written without a spatial index, because this SQLite can't create one ({error})")
        return False
    database.execute(
        "INSERT INTO gpkg_extensions VALUES (?, ?, 'gpkg_rtree_index', "
        "'http://www.geopackage.org/spec120/#extension_rtree', 'write-only')",
        (_TABLE, _GEOMETRY),
    )
    return True


def _geometry(parts: list[Rings], srs_id: int) -> tuple[bytes, tuple[float, ...]]:
    """Return a multipolygon as GeoPackage binary (little-endian) and its bounds (min x, max x, min y, max y).

    An empty multipolygon has the bounds ().
    """
    body = [struct.pack("<BII", 1, 6, len(parts))]
    for rings in parts:
        body.append(struct.pack("<BII", 1, 3, len(rings)))
        for ring in rings:
            body += [struct.pack("<I", len(ring)), np.ascontiguousarray(ring, "<f8").tobytes()]
    if not parts:
        return b"GP" + struct.pack("<BBi", 0, 0b10001, srs_id) + b"".join(body), ()
    points = np.concatenate([rings[0] for rings in parts])
    (left, bottom), (right, top) = points.min(0).tolist(), points.max(0).tolist()
    bounds = left, right, bottom, top
    return b"GP" + struct.pack("<BBi4d", 0, 0b00011, srs_id, *bounds) + b"".join(body), bounds


def _union_of_bounds(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    """Return the union of two bounds (min x, max x, min y, max y)."""
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])
