"""`tiles.segment`: kinds of rasters, batches, options, memory, and the `fastsam tiles` command."""

from __future__ import annotations

import json
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fastsam_core import ASSETS, SAM, cli, rle, tiles
from fastsam_core.models.native import can_use_native
from raster_examples import SMALL, Counting, bright, masks_of, road_and_house
from small_model import FEW, bgr_image, small_model


@pytest.fixture
def image() -> np.ndarray:
    return road_and_house()


# -------------------------------------------------------------------------------------------------------------- windows


def test_segment_finds_objects_across_tiles(image: np.ndarray) -> None:
    road, house = sorted(tiles.segment(image, bright, **SMALL), key=lambda obj: -obj.area)
    assert road.box.tolist() == [0, 70, 220, 80] and road.area == 2200
    assert house.box.tolist() == [100, 20, 130, 50] and house.area == 900
    assert 0.5 < house.predicted_iou < 0.6 and house.stability == 1


class Provider:
    """A user-defined raster, which records the windows it is asked for. valid: boolean mask of the pixels with data."""

    def __init__(self, image: np.ndarray, valid: np.ndarray | None = None) -> None:
        self.height, self.width = image.shape[:2]
        self._image, self.asked = image, []
        if valid is not None:
            self.valid = lambda y, x, height, width: valid[y : y + height, x : x + width]

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        self.asked.append((y, x, height, width))
        return self._image[y : y + height, x : x + width]


def test_every_kind_of_raster_gives_the_same_masks(image: np.ndarray, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), image)
    cv2.imwrite(str(tmp_path / "image.tif"), image)
    mapped = np.memmap(tmp_path / "raw", np.uint8, "w+", shape=image.shape)
    mapped[:] = image
    alpha = np.dstack([image, image[..., :1]])
    expected = masks_of(tiles.segment(image, bright, **SMALL))
    others = [mapped, alpha, image.astype(np.uint16) << 8, np.asfortranarray(image), Provider(image)]
    for raster in [*others, tmp_path / "image.png", str(tmp_path / "image.tif")]:
        assert masks_of(tiles.segment(raster, bright, **SMALL)) == expected
    assert tiles.segment(tmp_path / "image.png", bright, **SMALL).name == "image.png"


def test_each_tile_is_read_once(image: np.ndarray) -> None:
    provider = Provider(image)
    tiles.segment(provider, bright, **SMALL)
    assert {(height, width) for _, _, height, width in provider.asked} == {(64, 64)}
    assert len(set(provider.asked)) == len(provider.asked) == 3 * 5
    small = Provider(image[:40])
    tiles.segment(small, bright, **SMALL)
    assert {(height, width) for _, _, height, width in small.asked} == {(40, 64)}
    pixel = Provider(np.full((1, 1, 3), 200, np.uint8))
    assert len(tiles.segment(pixel, bright, **SMALL)) == 1 and pixel.asked == [(0, 0, 1, 1)]


def test_model_may_modify_its_tile(image: np.ndarray, tmp_path: Path) -> None:
    """Tiles span the full width here, so each is a contiguous block of the image and could alias its memory."""

    def darkening(tile: np.ndarray) -> list[dict[str, Any]]:
        found = bright(tile)
        tile[:] = 0
        return found

    narrow = np.ascontiguousarray(image[:, 100:164])
    before = narrow.copy()
    expected = masks_of(tiles.segment(narrow, bright, **SMALL))
    for raster in (narrow, Provider(narrow), narrow):  # the last one is read from the folder
        assert masks_of(tiles.segment(raster, darkening, work_dir=tmp_path, **SMALL)) == expected
    np.testing.assert_array_equal(narrow, before)


def test_models_get_contiguous_tiles(image: np.ndarray) -> None:
    def model(tile: np.ndarray) -> list[dict[str, Any]]:
        assert tile.flags.c_contiguous and tile.flags.writeable
        return bright(tile)

    columns = np.asfortranarray(image)
    some = np.arange(image.shape[1]) < 200
    for raster in (columns, Provider(columns), Provider(columns, np.broadcast_to(some, image.shape[:2]))):
        assert len(tiles.segment(raster, model, **SMALL)) == 2


def test_no_objects_where_there_is_no_data(image: np.ndarray) -> None:
    valid = np.ones(image.shape[:2], bool)
    valid[:, :100] = False
    valid[:60] = False
    counting = Counting()
    found = tiles.segment(Provider(image, valid), counting, **SMALL)
    assert [obj.box.tolist() for obj in found] == [[100, 70, 220, 80]]
    assert counting.calls < 15, "tiles without data aren't segmented"


def test_empty_masks_and_those_with_half_their_pixels_outside_the_data_are_dropped() -> None:
    valid = np.zeros((40, 40), bool)
    valid[:, :20] = True
    provider = Provider(np.zeros((40, 40, 3), np.uint8), valid)

    def whole(tile: np.ndarray) -> list[dict[str, Any]]:
        return [{"segmentation": np.full(tile.shape[:2], value)} for value in (True, False)]

    assert len(tiles.segment(provider, whole, **SMALL)) == 0
    valid[5:, :30] = True
    (found,) = tiles.segment(provider, whole, **SMALL)
    np.testing.assert_array_equal(found.dense(0, 0, 40, 40), valid)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5, 2), np.uint8), "channels"),
        (np.zeros((5, 5, 3), np.float32), "scale"),
        (7, "height, width and read"),
        ("missing.png", "no such file"),
        (".", "regular file"),
    ],
)
def test_invalid_images_are_refused(image: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        tiles.segment(image, bright)


def test_rasters_that_return_wrong_shapes_are_refused(image: np.ndarray) -> None:
    broken = Provider(image)
    broken.read = lambda y, x, height, width: image[:3, :3]
    with pytest.raises(ValueError, match=r"read\(0, 0, 64, 64\) must give \(64, 64, 3\)"):
        tiles.segment(broken, bright, **SMALL)
    with pytest.raises(ValueError, match=r"valid\(0, 0, 64, 64\) must give"):
        tiles.segment(Provider(image, np.ones((150, 220), np.uint8)), bright, **SMALL)
    broken.height = 0
    with pytest.raises(ValueError, match="height"):
        tiles.segment(broken, bright, **SMALL)


def test_georeference_in_rasterios_form(image: np.ndarray, tmp_path: Path) -> None:
    """An Affine has nine numbers, and an EPSG code may be a string. Invalid ones are refused before segmenting."""
    placed: Any = Provider(image)
    placed.georeference = tiles.Georeference("LOCAL_CS[]", (2, 0, 500, 0, -2, 900, 0, 0, 1), ("EPSG", "32632"))  # type: ignore[arg-type]
    found = tiles.segment(placed, bright, **SMALL)
    assert found.transform == (2, 0, 500, 0, -2, 900) and found.crs == "LOCAL_CS[]"
    with sqlite3.connect(found.save(tmp_path / "found.gpkg")) as database:
        contents = database.execute("SELECT min_x, min_y, max_x, max_y, srs_id FROM gpkg_contents").fetchone()
    database.close()
    assert contents == (500, 740, 940, 860, 32632)
    placed.georeference = ("LOCAL_CS[]", (1, 0, 0, 0, 1, 0), ("EPSG", 2**31 - 1))
    georeference = tiles.segment(placed, bright, **SMALL).georeference
    assert georeference is not None and georeference.authority == ("EPSG", 2**31 - 1)
    counting = Counting()
    too_large = ("LOCAL_CS[]", (1, 0, 0, 0, 1, 0), ("EPSG", 2**31))
    for wrong in (7, ("LOCAL_CS[]", (1, 0, 0, 0, 1)), (32632, (1, 0, 0, 0, 1, 0), None), too_large):
        placed.georeference = wrong
        with pytest.raises(ValueError, match="georeference must be"):
            tiles.segment(placed, counting, **SMALL)
    assert counting.calls == 0


def test_pixel_limit_applies_to_images(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), image)
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "1000")
    with pytest.raises(ValueError, match="FASTSAM_MAX_PIXELS"):
        tiles.segment(tmp_path / "image.png", bright)


# --------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned a NoneType for a tile"),
        (iter(()), "returned a tuple_iterator for a tile"),
        ([3], "among the masks"),
        ([{"segmentation": np.ones((3, 3), bool)}], r"\(3, 3\)"),
        ([{"segmentation": {"size": [3, 3], "counts": "09"}}], r"\[3, 3\]"),
        ([{"segmentation": {"size": [64, 64], "counts": "0"}}], "RLE"),
        ([{"segmentation": np.ones((64, 64), bool), "predicted_iou": float("nan")}], "finite"),
        ([{"segmentation": np.ones((64, 64), bool), "predicted_iou": None}], "aren't numbers: .None"),
    ],
)
def test_invalid_results_of_a_model_are_refused(image: np.ndarray, returned: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tiles.segment(image, lambda tile: returned, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 5}, "checkpoint"),
        ({"model": bright, "points_stride": 4}, "takes no options; got points_stride$"),
        ({"model": bright, "points_stride": 4, "device": "cpu"}, "takes no options; got points_stride, device$"),
        ({"model": bright, "merge_iou": 1}, "below 1"),
        ({"model": bright, "merge_iou": -0.1}, "merge_iou must be a finite number from 0 to 1"),
        ({"model": bright, "batch": 0}, "batch"),
        ({"model": "sam_nano.pt", "points_strid": 4}, "points_strid"),
        ({"model": "sam_nano.pt", "save": True}, "save"),
        ({"model": "sam_nano.pt", "points_stride": 0}, "points_stride"),
    ],
)
def test_invalid_options_are_refused(image: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tiles.segment(image, **options)


def test_result_does_not_depend_on_the_batch_size() -> None:
    image = bgr_image(150, 230)
    found = {}
    for batch in (1, 2, 5):
        sam = SAM(small_model())
        found[batch] = masks_of(tiles.segment(image, sam, tile=96, overlap=32, batch=batch, imgsz=128, conf=-9, **FEW))
        sizes = sam.model.batches
        assert sum(sizes) == 2 * 4 and max(sizes) == (batch if native() else 1)
    assert found[1] and found[1] == found[2] == found[5]


def native() -> bool:
    """Return whether the native encoder runs. It gives the same bits for any batch size."""
    with torch.no_grad():
        return can_use_native(torch.zeros(1))


@pytest.mark.parametrize(("width", "count"), [(1024, 1), (1025, 2), (1920, 2), (1921, 3)])
def test_default_tiles_have_1024_pixels_and_overlap_by_128(width: int, count: int) -> None:
    counting = Counting()
    tiles.segment(np.zeros((8, width, 3), np.uint8), counting)
    assert counting.calls == count


def test_options_reach_the_model(image: np.ndarray) -> None:
    sam = SAM(small_model())
    common: dict[str, Any] = {"tile": 160, "overlap": 32, "imgsz": 128, "conf": -9, "conf_thres": -1e9}
    counts = [
        len(tiles.segment(image, sam, points_per_side=per_side, stability_score_thresh=-1, iou=1.0, **common))
        for per_side in (1, 3)
    ]
    assert 0 < counts[0] < counts[1]


def test_sam_nano_on_the_bundled_image() -> None:
    image = cv2.imread(str(ASSETS / "scene.jpg"))
    found = tiles.segment(image, tile=384, overlap=96, points_stride=16)
    assert len(found) > 5
    crossing = [obj for obj in found for axis in (0, 1) if obj.box[axis] < 256 and obj.box[axis + 2] > 384]
    assert crossing, "no object crosses a seam"
    for obj in found:
        assert obj.dense(0, 0, *image.shape[:2]).sum() == obj.area == rle.area(obj.mask)
        assert 0 < obj.predicted_iou <= 1.2 and 0 < obj.stability <= 1
    overlaps = rle.iou(list(found.rles()), list(found.rles()), [0] * len(found))
    np.fill_diagonal(overlaps, 0)
    assert overlaps.max() < 0.9, "an object came out twice"


# --------------------------------------------------------------------------------------------------------------- memory


def test_memory_depends_on_the_tile_size(tmp_path: Path) -> None:
    side, tile = 5000, 512
    raster = np.memmap(tmp_path / "raw", np.uint8, "w+", shape=(side, side, 3))
    raster[2000:2010] = 200
    raster[100:300, 100:300] = 200

    tiles.segment(raster[:1024, :1024], bright, tile=tile, overlap=64)  # warm-up: imports and caches
    tracemalloc.start()
    try:
        found = tiles.segment(raster, bright, tile=tile, overlap=64, work_dir=tmp_path / "work")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sorted(found.areas.tolist()) == [200 * 200, 10 * side]
    # The raster is 95 tiles large. The limit allows one tile and its copies as float, label map and so on.
    assert peak < 12 * tile * tile * 3, f"{peak / (tile * tile * 3):.1f} tiles"


# -------------------------------------------------------------------------------------------------------------- command


def test_command_writes_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "big.png"), bgr_image(120, 150))
    options = ["tile=96", "overlap=32", "points_stride=2", "conf_thres=-100", "stability_score_thresh=-1", "imgsz=128"]
    assert cli.main(["tiles", f"source={tmp_path}/big.png", f"output={tmp_path}/out.json", *options]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert f"{len(found['annotations'])} object" in capsys.readouterr().out and found["images"][0]["width"] == 150
    assert cli.main(["tiles", f"source={tmp_path}/big.png", f"work_dir={tmp_path}/work", *options]) == 0
    assert (tmp_path / "big_objects.gpkg").is_file() and (tmp_path / "work" / "settings.json").is_file()


def test_command_expands_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells don't expand a ~ inside a word, so the command must."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cv2.imwrite(str(tmp_path / "home" / "big.png"), bgr_image(60, 80))
    assert cli.main(["tiles", "source=~/big.png", "work_dir=~/work", "points_stride=1"]) == 0
    assert cli.main(["tiles", "source=~/big.png", "output=~/out.json", "points_stride=1"]) == 0
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [
        "big.png", "big_objects.gpkg", "out.json", "work"
    ]  # fmt: skip
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("tiles", 2, "needs source="),
        ("tiles source=x.png tyle=5", 2, "did you mean tile?"),
        ("tiles source=x.png save=True", 2, "unknown option 'save' of tiles"),
        ("tiles source=x.png output=x.shp", 1, ".gpkg, .geojson, .json"),
        ("tiles source=missing.png output=x.json", 1, "missing.png"),
    ],
)
def test_invalid_commands_are_refused(
    words: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == status
    assert message in capsys.readouterr().err
