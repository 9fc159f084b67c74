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
_UNKNOWN, _OWN = -1, 100000  # srs_id of the undefined Cartesian system, and of a system without authority code
_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,'
    'AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]]'
)
_SYSTEMS = [
    ("Undefined Cartesian", -1, "NONE", -1, "undefined", None),
    ("Undefined geographic", 0, "NONE", 0, "undefined", None),
    ("WGS 84", 4326, "EPSG", 4326, _WGS84, "longitude and latitude in degrees"),
]
# The standard requires a time of last change. A constant one gives equal bytes for equal objects.
_CHANGED = "1970-01-01T00:00:00.000Z"

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
_THERE, _GONE = (
    f"(NEW.{_GEOMETRY} NOTNULL AND NOT ST_IsEmpty(NEW.{_GEOMETRY}))",
    f"(NEW.{_GEOMETRY} ISNULL OR ST_IsEmpty(NEW.{_GEOMETRY}))",
)
_PUT, _TAKE = f"INSERT OR REPLACE INTO {_INDEX} VALUES {_BOUNDS};", f"DELETE FROM {_INDEX} WHERE id = OLD.id;"
# Triggers that keep the spatial index up to date when other programs edit the file (annex F.3).
_TRIGGERS = f"""
CREATE TRIGGER {_INDEX}_insert AFTER INSERT ON {_TABLE} WHEN {_THERE} BEGIN {_PUT} END;
CREATE TRIGGER {_INDEX}_update1 AFTER UPDATE OF {_GEOMETRY} ON {_TABLE}
  WHEN OLD.id = NEW.id AND {_THERE} BEGIN {_PUT} END;
CREATE TRIGGER {_INDEX}_update2 AFTER UPDATE OF {_GEOMETRY} ON {_TABLE}
  WHEN OLD.id = NEW.id AND {_GONE} BEGIN {_TAKE} END;
CREATE TRIGGER {_INDEX}_update3 AFTER UPDATE ON {_TABLE} WHEN OLD.id != NEW.id AND {_THERE} BEGIN {_TAKE} {_PUT} END;
CREATE TRIGGER {_INDEX}_update4 AFTER UPDATE ON {_TABLE}
  WHEN OLD.id != NEW.id AND {_GONE} BEGIN DELETE FROM {_INDEX} WHERE id IN (OLD.id, NEW.id); END;
CREATE TRIGGER {_INDEX}_delete AFTER DELETE ON {_TABLE} WHEN OLD.{_GEOMETRY} NOT NULL BEGIN {_TAKE} END;
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
    where = objects.georeference

    def place(corners: NDArray[Any]) -> NDArray[np.float64]:
        return corners * np.array([1.0, -1.0]) if where is None else where.to_map(corners)

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
        system = _add_systems(database, where)
        with_index = _add_index(database)
        bounds: tuple[float, ...] = ()
        for number, found in enumerate(objects, 1):
            geometry, box = _geometry(multipolygon(found, place), system)
            database.execute(
                f"INSERT INTO {_TABLE} VALUES (?, ?, ?, ?, ?)",
                (number, geometry, found.area, found.predicted_iou, found.stability),
            )
            if box:
                bounds = _around(box, bounds) if bounds else box
                if with_index:
                    database.execute(f"INSERT INTO {_INDEX} VALUES (?, ?, ?, ?, ?)", (number, *box))
        left, right, bottom, top = bounds or (None,) * 4
        database.execute(
            "INSERT INTO gpkg_contents VALUES (?, 'features', ?, ?, ?, ?, ?, ?, ?, ?)",
            (_TABLE, _TABLE, f"objects of {_readable(objects.name)}", _CHANGED, left, bottom, right, top, system),
        )
        database.execute(
            "INSERT INTO gpkg_geometry_columns VALUES (?, ?, 'MULTIPOLYGON', ?, 0, 0)", (_TABLE, _GEOMETRY, system)
        )
        database.execute("COMMIT")
        if with_index:
            database.executescript(_TRIGGERS)


def _readable(name: str) -> str:
    """Return a file name as valid UTF-8, which SQLite requires; undecodable bytes are replaced by "?"."""
    return name.encode("utf-8", "replace").decode()


def _add_systems(database: sqlite3.Connection, where: Georeference | None) -> int:
    """Insert the mandatory reference systems and the raster's own. Return the raster's srs_id."""
    rows = list(_SYSTEMS)
    system = _UNKNOWN
    if where is not None and where.crs:
        organization, code = where.authority or ("NONE", _OWN)
        system = code
        if system not in (row[1] for row in rows):
            name = where.crs.split('"')[1] if '"' in where.crs else "raster"
            rows.append((name, system, organization, code, where.crs, None))
    database.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", rows)
    return system


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


def _geometry(parts: list[Rings], system: int) -> tuple[bytes, tuple[float, ...]]:
    """Return a multipolygon as GeoPackage binary (little-endian) and its bounds (min x, max x, min y, max y).

    An empty multipolygon has the bounds ().
    """
    body = [struct.pack("<BII", 1, 6, len(parts))]
    for rings in parts:
        body.append(struct.pack("<BII", 1, 3, len(rings)))
        for ring in rings:
            body += [struct.pack("<I", len(ring)), np.ascontiguousarray(ring, "<f8").tobytes()]
    if not parts:
        return b"GP" + struct.pack("<BBi", 0, 0b10001, system) + b"".join(body), ()
    points = np.concatenate([rings[0] for rings in parts])
    (left, bottom), (right, top) = points.min(0).tolist(), points.max(0).tolist()
    box = left, right, bottom, top
    return b"GP" + struct.pack("<BBi4d", 0, 0b00011, system, *box) + b"".join(body), box


def _around(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    """Return the union of two bounds (min x, max x, min y, max y)."""
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])
