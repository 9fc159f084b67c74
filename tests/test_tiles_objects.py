"""RasterObjects: 64-bit coordinates, windows, polygons, indexing, and the files they are saved to."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from pycocotools import mask as coco

from fastsam_core import rle
from fastsam_core.runs import MaskRuns
from fastsam_core.tiles import Georeference, RasterObjects
from fastsam_core.tiles.grid import Grid
from fastsam_core.tiles.merge import merge
from fastsam_core.tiles.pieces import piece_from_runs
from label_examples import filled
from test_outlines import CORNERS, ISLAND, any_mask

RING = np.pad(np.zeros((2, 3), bool), 2, constant_values=True)
DIAMOND = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
# A ring of pixels joined along edges, except where it closes at a corner.
HOOK = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)

# Predicted IoU and stability of the first, second and third object.
SCORES = ((0.75, 0.5), (0.625, 0.375), (0.5, 0.25))


def objects(*placed: tuple[np.ndarray, int, int], side: int = 60_000, **options: Any) -> RasterObjects:
    """Place masks with their corners at x, y in a square raster, with the scores of SCORES."""
    pieces = [
        piece_from_runs(0, MaskRuns.from_mask(mask, x, y), *own)
        for (mask, x, y), own in zip(placed, SCORES, strict=False)
    ]
    return RasterObjects(pieces, side, side, **options)


def ring_areas(rings: list[np.ndarray]) -> list[float]:
    """Return signed areas, positive for rings that are counterclockwise with y pointing up."""
    return [float((r[:-1, 0] * r[1:, 1] - r[1:, 0] * r[:-1, 1]).sum()) / 2 for r in rings]


# -------------------------------------------------------------------------------------------------------------- 64 bits


def whole_columns(grid: Grid, columns: slice) -> list[Any]:
    """Return each tile's piece of a mask of whole columns of the raster."""
    found = []
    for tile in grid:
        x1, y1, x2, y2 = tile.box
        xs = np.arange(x1, x2)[columns.start <= np.arange(x1, x2)]
        xs = xs[xs < columns.stop]
        if len(xs):
            runs = MaskRuns(xs, np.full(len(xs), y1), np.full(len(xs), y2))
            found.append(piece_from_runs(tile.number, runs, 0.9, 0.8))
    return found


@pytest.mark.parametrize(("side", "columns"), [(50_000, 44_000), (70_000, 65_000)])
def test_mask_areas_beyond_32_bits(side: int, columns: int) -> None:
    """Merge a mask of more than 2^31 (or 2^32) pixels across many tiles."""
    grid = Grid(side, side, 20_000, 1000)
    (whole,) = merge(whole_columns(grid, slice(1000, 1000 + columns)), grid, 0.5)
    area = side * columns
    assert area > (2**31 if side == 50_000 else 2**32)
    (found,) = RasterObjects([whole], side, side)
    assert found.area == area and found.box.tolist() == [1000, 0, 1000 + columns, side]
    assert found.box.dtype == np.int64 and RasterObjects([whole], side, side).areas.tolist() == [area]
    assert rle.area(found.mask) == area and found.mask["size"] == [side, columns]
    (part,) = found.polygons()
    assert sorted(map(tuple, part.exterior.tolist())) == sorted(
        [(1000, 0), (1000 + columns, 0), (1000 + columns, side), (1000, side)]
    )
    shown = found.dense(side - 3, 998, 5, 4)
    np.testing.assert_array_equal(shown, [[False, False, True, True]] * 3 + [[False] * 4] * 2)


def test_pixel_positions_beyond_32_bits(tmp_path: Path) -> None:
    """Place a small mask at the far end of a raster of 10^10 pixels. Its flat positions don't fit into 32 bits."""
    side = 100_000
    found = objects((RING, side - RING.shape[1], side - RING.shape[0]), side=side)
    assert found[0].offset.tolist() == [side - RING.shape[1], side - RING.shape[0]]
    (whole,) = found.rles()
    assert whole["size"] == [side, side] and rle.area(whole) == RING.sum()
    height, width = RING.shape
    np.testing.assert_array_equal(
        rle.decode(rle.crop(whole, [side - width, side - height, width, height])), RING.astype(np.uint8)
    )
    content = json.loads(found.save(tmp_path / "far.json").read_text())
    assert content["annotations"][0]["segmentation"] == whole


# ------------------------------------------------------------------------------------------------- windows and polygons


@settings(max_examples=60, deadline=None)
@given(mask=any_mask)
@example(mask=RING)
@example(mask=ISLAND)
@example(mask=CORNERS)
@example(mask=DIAMOND)
@example(mask=HOOK)
def test_windows_and_polygons_match_the_mask(mask: np.ndarray) -> None:
    if not mask.any():
        return
    (found,) = objects((mask, 40_000, 50_000))
    height, width = mask.shape
    np.testing.assert_array_equal(found.dense(50_000, 40_000, height, width), mask)
    np.testing.assert_array_equal(found.dense(50_001, 39_998, height, 3), np.pad(mask, ((0, 1), (2, 0)))[1:, :3])
    parts = found.polygons()
    count, of_pixel = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(parts) == count - 1
    seen = set()
    for part in parts:
        for contour in (part.exterior, *part.holes):
            # Valid by OGC's rules: no ring meets itself.
            assert len(np.unique(contour, axis=0)) == len(contour)
        moved = [contour - np.array([40_000, 50_000]) for contour in (part.exterior, *part.holes)]
        drawn = filled(moved[:1], height, width)
        for hole in moved[1:]:
            drawn &= ~filled([hole], height, width)
        (component,) = set(of_pixel[drawn].tolist())
        np.testing.assert_array_equal(drawn, of_pixel == component)
        seen.add(component)
    assert len(seen) == count - 1


def test_indexing_windows_and_dense() -> None:
    found = objects((RING, 10, 20), (DIAMOND, 500, 600), (CORNERS, 12, 22))
    assert len(found) == 3 and found[-1].area == 3 and [obj.area for obj in found] == found.areas.tolist()
    assert [obj.area for obj in found[1:]] == [4, 3] and found[:1].boxes.tolist() == [found[0].box.tolist()]
    for chosen in (found.areas < 5, [1, 2], np.array([-2, -1]), np.nonzero(found.areas < 5), torch.tensor([1, 2])):
        assert [obj.area for obj in found[chosen]] == [4, 3] and found[chosen].boxes.tolist() == found.boxes[
            1:
        ].tolist()
        assert found[chosen].predicted_iou.tolist() == [obj.predicted_iou for obj in found[chosen]] == [0.625, 0.5]
        assert found[chosen].stability.tolist() == [obj.stability for obj in found[chosen]] == [0.375, 0.25]
    assert repr(found[1:]) == "RasterObjects(2 of 60000 x 60000)"
    assert found[np.int64(1)].area == 4 and len(found[found.areas > 99]) == 0
    assert found.boxes.dtype == found.areas.dtype == np.int64
    assert len({found[0], found[1]}) == 2 and found[0] not in {found[1]}  # objects can be in sets, by identity
    assert found.within(0, 0, 100, 100).areas.tolist() == [RING.sum(), 3]
    assert len(found.within(21, 11, 0, 90)) == len(found.within(21, 11, 90, -1)) == 0
    assert len(found.within(0, 0, 21, 11)) == 1 and len(found.within(0, 0, 20, 60_000)) == 0
    x1, y1, x2, y2 = found.boxes[1].tolist()
    for apart in (0, 1):  # windows that touch the diamond from outside on each side, then overlap it by a pixel
        sides = ((y1, x1 - 5, 9, 5 + apart), (y1, x2 - apart, 9, 5), (y1 - 5, x1, 5 + apart, 9), (y2 - apart, x1, 5, 9))
        assert [len(found.within(*window)) for window in sides] == [apart] * 4
    shown = found.dense(598, 500, 5, 3)
    assert shown.shape == (3, 5, 3) and shown.sum(axis=(1, 2)).tolist() == [0, 4, 0]
    for beyond in (3, [3], np.array([True])):
        with pytest.raises(IndexError):
            found[beyond]
    with pytest.raises(TypeError, match="row indices must"):
        found[True]


# ---------------------------------------------------------------------------------------------------------------- files


def test_coco_file_matches_pycocotools(tmp_path: Path) -> None:
    found = objects((RING, 10, 20), (DIAMOND, 50, 60), side=80)
    content = json.loads(found.save(tmp_path / "found.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "raster", "width": 80, "height": 80}]
    assert content["info"]["description"] and content["licenses"] == []
    for entry, obj in zip(content["annotations"], found, strict=True):
        np.testing.assert_array_equal(coco.decode(entry["segmentation"]).astype(bool), obj.dense(0, 0, 80, 80))
        assert entry["area"] == obj.area and entry["category_id"] == content["categories"][0]["id"]
        assert entry["image_id"] == content["images"][0]["id"] and entry["iscrowd"] == 0
        assert entry["bbox"] == coco.toBbox(entry["segmentation"]).tolist()
        assert (entry["predicted_iou"], entry["stability_score"]) == SCORES[entry["id"] - 1]
        assert entry["score"] == entry["predicted_iou"]  # the confidence, without which results can't be evaluated


def test_geojson_in_pixels(tmp_path: Path) -> None:
    ragged = np.random.default_rng(0).random((20, 30)) < 0.6
    found = objects((RING, 10, 20), (DIAMOND, 50, 60), (ragged, 30, 20), side=80)
    content = json.loads(found.save(tmp_path / "found.geojson").read_text())
    assert [feature["properties"]["area"] for feature in content["features"]] == found.areas.tolist()
    kinds = [feature["geometry"]["type"] for feature in content["features"]]
    assert kinds == ["Polygon", "MultiPolygon", "MultiPolygon"]
    for number, (feature, obj) in enumerate(zip(content["features"], found, strict=True), 1):
        properties = feature["properties"]
        assert feature["id"] == properties["id"] == number
        assert (properties["predicted_iou"], properties["stability"]) == SCORES[number - 1]
        shape = feature["geometry"]
        parts = [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]
        areas = [ring_areas([np.array(ring) for ring in rings]) for rings in parts]
        assert all(rings[0] > 0 and all(hole < 0 for hole in rings[1:]) for rings in areas)
        assert sum(map(sum, areas)) == obj.area
        assert all(ring[0] == ring[-1] for rings in parts for ring in rings)


def test_geojson_in_degrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are rounded, and straight edges get no more corners. A corner that can't be converted is an error."""
    reference_systems, warp = SimpleNamespace(from_wkt=str, from_string=str), SimpleNamespace()
    monkeypatch.setitem(sys.modules, "rasterio", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "rasterio.crs", SimpleNamespace(CRS=reference_systems))
    monkeypatch.setitem(sys.modules, "rasterio.warp", warp)
    warp.transform = lambda source, target, x, y: (x, y)
    where = Georeference("GEOGCS[]", (1 / 3000, 0.0, 10.0, 0.0, -1 / 3000, 50.0))
    found = objects((np.ones((30, 40), bool), 11, 22), side=80, georeference=where)
    content = json.loads(found.save(tmp_path / "found.geojson").read_text())
    assert content["features"][0]["geometry"]["coordinates"] == [
        [[10.017, 49.992666667], [10.003666667, 49.992666667], [10.003666667, 49.982666667], [10.017, 49.982666667],
         [10.017, 49.992666667]]
    ]  # fmt: skip
    warp.transform = lambda source, target, x, y: (x, [np.inf, *y[1:]])
    with pytest.raises(ValueError, match=r"points that can't be converted to WGS 84; write a \.gpkg"):
        found.save(tmp_path / "other.geojson")


def geometries(blob: bytes) -> tuple[int, list[float], list[list[np.ndarray]]]:
    """Read srs_id, envelope and rings of a GeoPackage geometry by clause 2.1.3 of the standard."""
    magic, version, flags, system = struct.unpack_from("<2sBBi", blob)
    assert magic == b"GP" and version == 0 and flags & 1
    assert flags >> 1 & 7 == 1, "an envelope of x and y"
    envelope = list(struct.unpack_from("<4d", blob, 8))
    place = 40
    order, kind, count = struct.unpack_from("<BII", blob, place)
    assert (order, kind) == (1, 6)
    place += 9
    parts = []
    for _ in range(count):
        order, kind, rings = struct.unpack_from("<BII", blob, place)
        assert (order, kind) == (1, 3)
        place += 9
        part = []
        for _ in range(rings):
            (points,) = struct.unpack_from("<I", blob, place)
            part.append(np.frombuffer(blob, "<f8", 2 * points, place + 4).reshape(-1, 2))
            place += 4 + 16 * points
        parts.append(part)
    assert place == len(blob)
    return system, envelope, parts


# A made-up coordinate system with 2 units per pixel and the origin at x = 500,000, y = 4,000,000; y points up.
WHERE = Georeference('LOCAL_CS["site"]', (2.0, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0))


def test_transforms_may_rotate() -> None:
    where = Georeference("", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert where.to_map(np.array([[10, 100], [0, 0]])).tolist() == [[213, 546], [3, 6]]


@pytest.mark.parametrize("where", [None, WHERE, WHERE._replace(crs=""), WHERE._replace(authority=("EPSG", 32633))])
def test_geopackage_tables_and_geometries(tmp_path: Path, where: Georeference | None) -> None:
    found = objects((RING, 10, 20), (DIAMOND, 50, 60), side=80, georeference=where)
    path = found.save(tmp_path / "found.gpkg")
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
    assert database.execute("PRAGMA user_version").fetchone() == (10200,)  # 1.2.0
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    named = where is not None and bool(where.crs)
    system = (32633 if where is not None and where.authority else 100000) if named else -1
    rows = database.execute("SELECT * FROM objects ORDER BY id").fetchall()
    assert [row[0] for row in rows] == [1, 2]
    corner, size = (0.0, 0.0), 1.0
    if where is not None:
        corner, size = (500_000.0, 4_000_000.0), 2.0
    for (number, blob, area, predicted_iou, stability), obj in zip(rows, found, strict=True):
        srs, envelope, parts = geometries(blob)
        x1, y1, x2, y2 = obj.box.tolist()
        assert srs == system and (area, predicted_iou, stability) == (obj.area, *SCORES[number - 1])
        assert envelope == [
            corner[0] + size * x1, corner[0] + size * x2, corner[1] - size * y2, corner[1] - size * y1
        ]  # fmt: skip
        areas = [ring_areas(rings) for rings in parts]
        assert all(rings[0] > 0 and all(hole < 0 for hole in rings[1:]) for rings in areas)
        assert sum(map(sum, areas)) == obj.area * size**2
        index = database.execute("SELECT minx, maxx, miny, maxy FROM rtree_objects_geom WHERE id = ?", [number])
        np.testing.assert_allclose(index.fetchone(), envelope, rtol=1e-6)
    extension = database.execute("SELECT table_name, column_name, extension_name FROM gpkg_extensions").fetchall()
    assert extension == [("objects", "geom", "gpkg_rtree_index")]
    definition = database.execute("SELECT definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?", [system]).fetchone()
    assert definition == (where.crs if named and where is not None else "undefined",)
    box = database.execute("SELECT min_x, min_y, max_x, max_y, srs_id, data_type FROM gpkg_contents").fetchone()
    assert box[4:] == (system, "features")
    assert box[:4] == (corner[0] + size * 10, corner[1] - size * 63, corner[0] + size * 53, corner[1] - size * 20)
    database.close()
    assert sorted(tmp_path.iterdir()) == [path], "nothing else is left"
    again = found.save(tmp_path / "AGAIN.GPKG")
    assert again.read_bytes() == path.read_bytes()
    with closing(sqlite3.connect(found[::-1].save(tmp_path / "backwards.gpkg"))) as database:
        assert database.execute("SELECT min_x, min_y, max_x, max_y FROM gpkg_contents").fetchone() == box[:4]


@pytest.mark.parametrize(("authority", "own"), [(None, 100_000), (("EPSG", 32633), 32633), (("EPSG", 4326), 4326)])
def test_geopackage_lists_the_required_reference_systems(
    tmp_path: Path, authority: tuple[str, int] | None, own: int
) -> None:
    found = objects((RING, 10, 20), side=80, georeference=WHERE._replace(authority=authority))
    with closing(sqlite3.connect(found.save(tmp_path / "found.gpkg"))) as database:
        rows = database.execute("SELECT srs_id, organization, organization_coordsys_id FROM gpkg_spatial_ref_sys")
        required = {(-1, "NONE", -1), (0, "NONE", 0), (4326, "EPSG", 4326)}
        assert set(rows) == required | {(own, "EPSG" if authority else "NONE", own)}


def test_geopackage_geometries_without_area_are_empty(tmp_path: Path) -> None:
    flat = Georeference("", (1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    path = objects((RING, 10, 20), side=80, georeference=flat).save(tmp_path / "found.gpkg")
    with closing(sqlite3.connect(path)) as database:
        ((blob,),) = database.execute("SELECT geom FROM objects").fetchall()
        assert struct.unpack("<2sBBiBII", blob) == (b"GP", 0, 0b10001, -1, 1, 6, 0)  # marked as empty, no parts
        assert database.execute("SELECT * FROM rtree_objects_geom").fetchall() == []
        assert database.execute("SELECT min_x, max_y FROM gpkg_contents").fetchall() == [(None, None)]


def test_geopackage_index_follows_changes_by_other_programs(tmp_path: Path) -> None:
    path = objects((RING, 10, 20), (DIAMOND, 50, 60), side=80).save(tmp_path / "found.gpkg")
    with closing(sqlite3.connect(path)) as database:
        # SQL functions that annex F.3 requires of programs that change a file.
        for place, side in enumerate(("MinX", "MaxX", "MinY", "MaxY")):
            database.create_function(f"ST_{side}", 1, lambda blob, place=place: geometries(blob)[1][place])
        database.create_function("ST_IsEmpty", 1, lambda blob: None if blob is None else not geometries(blob)[2])

        def index(change: str) -> dict[int, list[float]]:
            database.execute(change)
            rows = database.execute("SELECT id, minx, maxx, miny, maxy FROM rtree_objects_geom")
            return {number: sides for number, *sides in rows}

        ring, diamond = index("SELECT 1").values()
        copied = "(SELECT geom FROM objects WHERE id = 2)"
        assert index(f"UPDATE objects SET geom = {copied} WHERE id = 1") == {1: diamond, 2: diamond} and ring != diamond
        assert index("UPDATE objects SET geom = NULL WHERE id = 1") == {2: diamond}
        assert index(f"UPDATE objects SET id = 7, geom = {copied} WHERE id = 1") == {7: diamond, 2: diamond}
        assert index("UPDATE objects SET id = 8, geom = NULL WHERE id = 7") == {2: diamond}
        assert index(f"INSERT INTO objects (id, geom) VALUES (9, {copied})") == {2: diamond, 9: diamond}
        assert index("DELETE FROM objects WHERE id = 2") == {9: diamond}


def test_undecodable_raster_name_is_replaced(tmp_path: Path) -> None:
    found = RasterObjects([], 3, 4, name="b\udcffd.tif")
    with closing(sqlite3.connect(found.save(tmp_path / "found.gpkg"))) as database:
        assert database.execute("SELECT description FROM gpkg_contents").fetchone() == ("objects of b?d.tif",)


def test_saving_without_objects(tmp_path: Path) -> None:
    none = RasterObjects([], 10, 20)
    assert none.boxes.shape == (0, 4) and list(none) == []
    assert json.loads(none.save(tmp_path / "none.geojson").read_text())["features"] == []
    assert json.loads(none.save(tmp_path / "none.json").read_text())["annotations"] == []
    with sqlite3.connect(none.save(tmp_path / "none.gpkg")) as database:
        assert database.execute("SELECT count(*) FROM objects").fetchone() == (0,)
    database.close()


@pytest.mark.parametrize("name", ["found.shp", "found", "folder.json"])
def test_unsupported_file_names_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match=r"\.gpkg, \.geojson, \.json"):
        objects((RING, 0, 0)).save(tmp_path / name)


def test_check_path_refuses_unwritable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_text("")
    # check_path runs before hours of work.
    with pytest.raises(ValueError, match=r"a\.png is not a folder"):
        RasterObjects.check_path(tmp_path / "a.png" / "deep" / "found.gpkg")
    assert RasterObjects.check_path(tmp_path / "new" / "found.gpkg").name == "found.gpkg"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError):
        RasterObjects.check_path(tmp_path / "found.gpkg")
