"""Reading GeoTIFFs and writing GeoPackage and GeoJSON. Most tests need rasterio (extra `geo`)."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fastsam_core import cli, tiles
from fastsam_core.runs import MaskRuns
from fastsam_core.tiles import run_algebra
from fastsam_core.tiles.pieces import piece_from_runs
from fastsam_core.tiles.tiff import is_geotiff, is_tiff
from fastsam_core.tiles.windows import open_raster
from raster_examples import SMALL, bright

try:
    import rasterio
    import rasterio.rpc
    from rasterio.enums import ColorInterp
    from rasterio.warp import transform
except ImportError:
    rasterio = None

needs_rasterio = pytest.mark.skipif(rasterio is None, reason="needs rasterio: pip install 'fastsam_core[geo]'")
HEIGHT, WIDTH = 150, 220
NORTH, EAST, PIXEL = 5_200_000.0, 600_000.0, 0.5


def write(path: Path, bands: np.ndarray, **options: Any) -> Path:
    """Write bands (B, H, W) as a GeoTIFF in UTM zone 32 north, with half a metre per pixel."""
    profile = {
        "driver": "GTiff", "dtype": bands.dtype, "height": bands.shape[1], "width": bands.shape[2], "count": len(bands),
        "crs": "EPSG:32632", "transform": rasterio.Affine(PIXEL, 0, EAST, 0, -PIXEL, NORTH), "tiled": True,
        "blockxsize": 64, "blockysize": 64,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile | options) as file:
        file.write(bands)
    return path


def scene() -> np.ndarray:
    """Return (H, W) float in [0, 1]: a road across the image and a house with a courtyard, with noise."""
    image = np.random.default_rng(0).random((HEIGHT, WIDTH)) * 0.3
    image[70:80] += 0.69
    image[20:50, 100:130] += 0.69
    image[30:40, 110:120] -= 0.69
    return image


def boxes(found: tiles.RasterObjects) -> list[list[int]]:
    return sorted(found.boxes.tolist())


EXPECTED = [[0, 70, 220, 80], [100, 20, 130, 50]]


def minimal_tiff(path: Path, tags: list[int], big: bool, order: str) -> Path:
    """Write a TIFF of one directory with these tags and without pixels."""
    head = {"<": b"II", ">": b"MM"}[order]
    if big:
        content = head + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(tags))
        content += b"".join(struct.pack(f"{order}HHQQ", tag, 3, 1, 1) for tag in tags)
    else:
        content = head + struct.pack(f"{order}HIH", 42, 8, len(tags))
        content += b"".join(struct.pack(f"{order}HHII", tag, 3, 1, 1) for tag in tags)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_geotiff_is_recognised_by_its_tags(tmp_path: Path, big: bool, order: str) -> None:
    path = tmp_path / "x.tif"
    assert is_geotiff(minimal_tiff(path, [256, 257, 33550], big, order)) and is_tiff(path)
    assert not is_geotiff(minimal_tiff(path, [256, 257, 258], big, order)) and is_tiff(path)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert not is_geotiff(path)
    for start, counts in ((b"II*\0", True), (b"IIRO", False)):  # the latter is a raw photo's
        path.write_bytes(start + b"\xff" * 12)
        assert not is_geotiff(path) and is_tiff(path) is counts


def test_missing_rasterio_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rasterio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.delitem(sys.modules, "fastsam_core.tiles.rasterio_windows", raising=False)
    path = minimal_tiff(tmp_path / "x.tif", [256, 257, 34735], False, "<")
    with pytest.raises(ImportError, match=r"pip install 'fastsam_core\[geo\]'"):
        tiles.segment(path, bright)
    plain_tiff = tmp_path / "plain.tif"
    cv2.imwrite(str(plain_tiff), np.zeros((20, 30, 3), np.uint8))
    assert len(tiles.segment(plain_tiff, bright)) == 0
    (tmp_path / "plain.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    with pytest.raises(ImportError, match=r"pip install 'fastsam_core\[geo\]'"):
        tiles.segment(plain_tiff, bright)
    (tmp_path / "plain.tfw").unlink()
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "100")
    with pytest.raises(ValueError, match=r"plain\.tif: .*FASTSAM_MAX_PIXELS.*pip install 'fastsam_core\[geo\]'"):
        tiles.segment(plain_tiff, bright)
    where = tiles.Georeference("LOCAL_CS[]", (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    found = tiles.segment(np.full((10, 10, 3), 200, np.uint8), bright)
    found.georeference = where
    with pytest.raises(ImportError, match=r"pip install 'fastsam_core\[geo\]'"):
        found.save(tmp_path / "x.geojson")
    assert not (tmp_path / "x.geojson").exists()
    found.save(tmp_path / "x.gpkg")


@needs_rasterio
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
def test_uint8_bands_are_not_rescaled(tmp_path: Path, bands: int) -> None:
    values = np.random.default_rng(1).integers(0, 256, (bands, 20, 30)).astype(np.uint8)
    path = write(tmp_path / "x.tif", values)
    if bands >= 3:  # so that the fourth band isn't read as alpha
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.undefined] * bands
    seen: list[np.ndarray] = []
    tiles.segment(path, lambda tile: seen.append(tile) or [], **SMALL)  # type: ignore[func-returns-value]
    shown = values[:1].repeat(3, 0) if bands < 3 else values[2::-1]
    np.testing.assert_array_equal(seen[0], np.moveaxis(shown, 0, -1))


@needs_rasterio
def test_bands_are_chosen_by_colour_interpretation(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (4, 20, 30)).astype(np.uint8)
    path = write(tmp_path / "x.tif", values)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    seen: list[np.ndarray] = []
    tiles.segment(path, lambda tile: seen.append(tile) or [], **SMALL)  # type: ignore[func-returns-value]
    np.testing.assert_array_equal(seen[0], np.moveaxis(values[1:], 0, -1))


@needs_rasterio
def test_palette_is_applied(tmp_path: Path) -> None:
    places = np.random.default_rng(1).integers(0, 3, (1, 20, 30)).astype(np.uint8)
    path = write(tmp_path / "x.tif", places, photometric="palette")
    colours = {0: (10, 20, 30, 255), 1: (40, 50, 60, 255), 2: (70, 80, 90, 255)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, colours)
    seen: list[np.ndarray] = []
    tiles.segment(path, lambda tile: seen.append(tile) or [], **SMALL)  # type: ignore[func-returns-value]
    bgr = np.array([colours[place][2::-1] for place in range(3)], np.uint8)
    np.testing.assert_array_equal(seen[0], bgr[places[0]])


@needs_rasterio
@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint16", 900, 1900), ("int16", -500, 700), ("float32", 0.01, 0.02), ("float64", -3, 8)]
)
def test_other_dtypes_are_stretched_between_percentiles(tmp_path: Path, dtype: str, low: float, high: float) -> None:
    values = (low + scene() * (high - low)).astype(dtype)[None].repeat(3, 0)
    values[:, 0, 0] = high + 15 * (high - low)  # an outlier, which must not darken the rest
    path = write(tmp_path / "x.tif", values)
    shown: list[np.ndarray] = []
    found = tiles.segment(path, lambda tile: shown.append(tile) or bright(tile), **SMALL)
    assert boxes(found) == [[0, 0, 1, 1], *EXPECTED]
    # Linear between the percentiles, which cover all pixels because the raster is smaller than the sample.
    cuts = np.percentile(values[0].astype(np.float64), [2, 98])
    scaled = np.rint(np.clip((values[0] - cuts[0]) / (cuts[1] - cuts[0]), 0, 1) * 255)
    assert np.abs(shown[0][..., 0] - scaled[:64, :64]).max() <= 1


@needs_rasterio
def test_constant_band_becomes_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", np.full((1, 20, 30), 7, np.uint16))
    with open_raster(path) as raster:
        assert not raster.read((0, 0, 30, 20))[0].any()
    with rasterio.open(path) as opened, pytest.raises(TypeError, match="rasterio has opened, give the path"):
        tiles.segment(opened, bright)


@needs_rasterio
@pytest.mark.parametrize("how", ["nodata", "alpha", "nan", "nodata of float"])
def test_nodata_pixels_are_excluded(tmp_path: Path, how: str) -> None:
    blank = np.zeros((HEIGHT, WIDTH), bool)
    blank[:, :100] = blank[:60] = True
    values = np.rint(scene() * 255).astype(np.uint8)[None].repeat(3, 0)
    if how == "alpha":
        alpha = np.where(blank, 0, 255).astype(np.uint8)[None]
        path = write(tmp_path / "x.tif", np.concatenate([values, alpha]), photometric="rgb", alpha="yes")
    elif how == "nodata":
        values[:, blank] = 255
        path = write(tmp_path / "x.tif", values, nodata=255)
    else:
        floats = scene().astype(np.float32)[None]
        floats[:, blank] = np.nan if how == "nan" else -9999
        path = write(tmp_path / "x.tif", floats, nodata=None if how == "nan" else -9999)
    assert boxes(tiles.segment(path, bright, **SMALL)) == [[100, 70, 220, 80]]
    with open_raster(path) as raster:
        pixels, valid = raster.read((0, 0, WIDTH, HEIGHT))
    assert np.array_equal(valid, ~blank) and not pixels[blank].any()
    values[:] = 255
    nothing = write(tmp_path / "nothing.tif", values, nodata=255)
    assert len(tiles.segment(nothing, bright, **SMALL)) == 0


@needs_rasterio
def test_saved_files_are_georeferenced(tmp_path: Path) -> None:
    values = np.rint(scene() * 255).astype(np.uint8)[None].repeat(3, 0)
    found = tiles.segment(write(tmp_path / "x.tif", values), bright, **SMALL)
    assert boxes(found) == EXPECTED and found.transform == (PIXEL, 0, EAST, 0, -PIXEL, NORTH)
    assert found.crs is not None and rasterio.crs.CRS.from_wkt(found.crs).to_epsg() == 32632
    assert found.name == "x.tif"
    content = json.loads(found.save(tmp_path / "x.geojson").read_text())
    for feature, obj in zip(content["features"], found, strict=True):
        assert feature["properties"] == {
            "id": feature["id"], "area": obj.area, "predicted_iou": obj.predicted_iou, "stability": obj.stability
        }  # fmt: skip
        x1, y1, x2, y2 = obj.box.tolist()
        rings = feature["geometry"]["coordinates"]
        assert len(rings) == len(obj.polygons()[0].holes) + 1
        corners = np.array(rings[0])[:-1]
        xs, ys = transform("OGC:CRS84", "EPSG:32632", corners[:, 0].tolist(), corners[:, 1].tolist())
        columns, rows = (np.array(xs) - EAST) / PIXEL, (NORTH - np.array(ys)) / PIXEL
        # 1e-9 degrees are 0.1 mm.
        assert np.abs([columns.min() - x1, columns.max() - x2, rows.min() - y1, rows.max() - y2]).max() < 1e-3
        assert 8 < corners[:, 0].min() < 11 and 46 < corners[:, 1].min() < 48
        closed = np.array(rings[0])
        assert ((closed[:-1, 0] - closed[0, 0]) * (closed[1:, 1] - closed[0, 1])).sum() > (
            (closed[1:, 0] - closed[0, 0]) * (closed[:-1, 1] - closed[0, 1])
        ).sum(), "RFC 7946: counterclockwise"
    with sqlite3.connect(found.save(tmp_path / "x.gpkg")) as database:
        row = database.execute("SELECT organization, definition FROM gpkg_spatial_ref_sys WHERE srs_id = 32632")
        organization, definition = row.fetchone()
        assert organization == "EPSG" and rasterio.crs.CRS.from_wkt(definition).to_epsg() == 32632
        assert database.execute("SELECT min_x, min_y, max_x, max_y, srs_id FROM gpkg_contents").fetchone() == (
            EAST, NORTH - 80 * PIXEL, EAST + 220 * PIXEL, NORTH - 20 * PIXEL, 32632
        )  # fmt: skip
    database.close()


@needs_rasterio
def test_geojson_corners_at_round_degrees_are_exact(tmp_path: Path) -> None:
    degrees = rasterio.Affine(0.001, 0, 10, 0, -0.001, 50)
    path = write(tmp_path / "x.tif", np.full((1, 40, 50), 200, np.uint8), crs="EPSG:4326", transform=degrees)
    found = tiles.segment(path, bright, **SMALL)
    (feature,) = json.loads(found.save(tmp_path / "x.geojson").read_text())["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert sorted({x for x, _ in ring}) == [10, 10.05] and sorted({y for _, y in ring}) == [49.96, 50]


@needs_rasterio
def test_long_edges_are_subdivided_on_wgs_84(tmp_path: Path) -> None:
    """The object is a sea that covers a whole satellite image, with an island three pixels below its upper edge."""
    side = 10_980
    columns = np.arange(side)
    shore = (columns >= 5000) & (columns < 5200)
    above = MaskRuns(columns[shore], np.zeros(shore.sum(), np.int64), np.full(shore.sum(), 3))
    below = MaskRuns(columns, np.where(shore, 10, 0), np.full(side, side))
    piece = piece_from_runs(0, run_algebra.union([above, below]), 0.75, 0.5)
    where = tiles.Georeference(rasterio.CRS.from_epsg(32632).to_wkt(), (10, 0, EAST, 0, -10, NORTH), ("EPSG", 32632))
    content = json.loads(tiles.RasterObjects([piece], side, side, where).save(tmp_path / "x.geojson").read_text())
    exterior, island = content["features"][0]["geometry"]["coordinates"]
    assert len(island) < 10 and len(exterior) < 100
    # Distance in pixels from each point of the raster's border to the nearest edge in the file.
    x = np.arange(side + 1)
    start, end = np.zeros_like(x), np.full_like(x, side)
    border = np.concatenate([np.stack(pair, 1) for pair in ((x, start), (x, end), (start, x), (end, x))])
    there = where.to_longitude_latitude(where.to_map(border))
    ring = np.array(exterior)
    begins, edges = ring[:-1, None], np.diff(ring, axis=0)[:, None]
    along = ((there - begins) * edges).sum(2) / (edges**2).sum(2)
    nearest = np.hypot(*np.moveaxis(begins + np.clip(along, 0, 1)[..., None] * edges - there, 2, 0)).min(0)
    assert nearest.max() * 111_000 / 10 < 0.2


@needs_rasterio
def test_custom_datum_is_not_written_as_an_epsg_code(tmp_path: Path) -> None:
    shifted = rasterio.CRS.from_string("+proj=utm +zone=32 +ellps=GRS80 +towgs84=10,20,30 +units=m")
    path = write(tmp_path / "x.tif", np.rint(scene() * 255).astype(np.uint8)[None], crs=shifted)
    found = tiles.segment(path, bright, **SMALL)
    with sqlite3.connect(found.save(tmp_path / "x.gpkg")) as database:
        (system,) = database.execute("SELECT srs_id FROM gpkg_contents").fetchone()
        row = database.execute("SELECT organization, definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?", [system])
        organization, definition = row.fetchone()
    database.close()
    assert organization == "NONE" and "TOWGS84[10,20,30" in definition


@needs_rasterio
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("name", ["x.tfw", "x.TIFW", "x.wld"])
def test_world_file_gives_the_transform(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "x.tif", np.rint(scene() * 255).astype(np.uint8)[None], crs=None, transform=None)
    # A world file gives the centre of the first pixel.
    sides = (PIXEL, 0, 0, -PIXEL, EAST + PIXEL / 2, NORTH - PIXEL / 2)
    (tmp_path / name).write_text("\n".join(map(str, sides)))
    found = tiles.segment(path, bright, **SMALL)
    assert boxes(found) == EXPECTED and found.transform == (PIXEL, 0, EAST, 0, -PIXEL, NORTH) and found.crs is None


@needs_rasterio
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_pixel_limit_does_not_apply_to_rasters_read_by_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Both a GeoTIFF and a TIFF without georeference may have more pixels than FASTSAM_MAX_PIXELS."""
    values = np.rint(scene() * 255).astype(np.uint8)[None].repeat(3, 0)
    path = write(tmp_path / "x.tif", values)
    plain = write(tmp_path / "plain.tif", values, crs=None, transform=None)
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "10000")
    assert boxes(tiles.segment(path, bright, **SMALL)) == EXPECTED
    found = tiles.segment(plain, bright, **SMALL)
    assert boxes(found) == EXPECTED and found.georeference is None and found.crs is None
    assert not caplog.records


@needs_rasterio
def test_geotiff_run_can_be_resumed(tmp_path: Path) -> None:
    values = (scene() * 5000).astype(np.uint16)[None]
    path = write(tmp_path / "x.tif", values, nodata=0)
    first = tiles.segment(path, bright, work_dir=tmp_path / "work", **SMALL)
    again = tiles.segment(path, bright, work_dir=tmp_path / "work", **SMALL)
    assert [obj.mask for obj in first] == [obj.mask for obj in again] and len(first) == 2


@needs_rasterio
def test_damaged_and_unsupported_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", np.rint(scene() * 255).astype(np.uint8)[None], compress="deflate")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"x\.tif"):
        tiles.segment(path, bright, **SMALL)
    with pytest.raises(ValueError, match=r"x\.tif"):
        tiles.segment(minimal_tiff(path, [256, 257, 34735], False, "<"), bright)
    with pytest.raises(ValueError, match="complex"):
        tiles.segment(write(tmp_path / "c.tif", np.ones((1, 20, 20), np.complex64)), bright)


@needs_rasterio
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ('LOCAL_CS["site",UNIT["metre",1]]', None),
        ("EPSG:32632", (1e9, 0, 5e12, 0, -1e9, 5e12)),  # far outside the zone
    ],
)
def test_rasters_that_cannot_be_placed_on_wgs_84(
    tmp_path: Path, crs: str, transform: tuple[float, ...] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {} if transform is None else {"transform": rasterio.Affine(*transform)}
    bands = (scene() * 255).astype(np.uint8)[None]
    path = write(tmp_path / "a.tif", bands, crs=rasterio.CRS.from_user_input(crs), **where)
    found = tiles.segment(path, bright, **SMALL)
    with pytest.raises(ValueError, match=r"WGS 84 .*write a \.gpkg"):
        found.save(tmp_path / "x.geojson")
    assert not (tmp_path / "x.geojson").exists() and len(found) == 2
    found.save(tmp_path / "x.gpkg")
    # The command reports it before segmenting: the model doesn't even exist.
    assert cli.main(["tiles", f"source={path}", f"output={tmp_path / 'x.geojson'}", "model=nothing.pt"]) == 1
    assert "WGS 84" in capsys.readouterr().err


@needs_rasterio
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_ground_control_points_are_reported_as_unused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corners = [(0, 0, 10, 50), (0, WIDTH, 11, 50), (HEIGHT, 0, 10, 49)]
    points = [rasterio.control.GroundControlPoint(*corner) for corner in corners]
    path = write(tmp_path / "a.tif", (scene() * 255).astype(np.uint8)[None], crs=None, transform=None)
    with rasterio.open(path, "r+") as file:
        file.gcps = points, rasterio.CRS.from_epsg(4326)
    found = tiles.segment(path, bright, **SMALL)
    assert found.georeference is None and "ground control points" in caplog.text


@needs_rasterio
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_rational_polynomials_are_reported_as_unused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.tif", (scene() * 255).astype(np.uint8)[None], crs=None, transform=None)
    numbers = {f"{axis}_{kind}": 1.0 for axis in ("lat", "long", "height", "line", "samp") for kind in ("off", "scale")}
    factors = {f"{axis}_{part}_coeff": [1.0] * 20 for axis in ("line", "samp") for part in ("num", "den")}
    with rasterio.open(path, "r+") as file:
        file.rpcs = rasterio.rpc.RPC(**numbers, **factors)
    found = tiles.segment(path, bright, **SMALL)
    assert found.georeference is None and "rational polynomials" in caplog.text


@needs_rasterio
@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_fewer_than_eight_bits_are_scaled_to_eight(tmp_path: Path, bits: int) -> None:
    most = 2**bits - 1
    levels = np.rint(scene() * most).astype(np.uint8)
    with open_raster(write(tmp_path / "a.tif", levels[None], nbits=bits)) as raster:
        pixels, _ = raster.read((0, 0, WIDTH, HEIGHT))
    assert (pixels == np.rint(levels * (255 / most))[:, :, None]).all()


@needs_rasterio
@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_complex_bands_are_refused(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "a.tif", scene().astype(np.complex64)[None], dtype=dtype)
    with pytest.raises(ValueError, match=f"bands of {dtype} can't be shown"):
        tiles.segment(path, bright, **SMALL)
