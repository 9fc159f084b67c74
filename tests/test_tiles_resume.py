"""`tiles.segment` with a `work_dir`: interrupted runs resume, and folders of other runs are refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsam_core import SAM, tiles
from fastsam_core.tiles import store
from raster_examples import SMALL, Counting, bright, masks_of, road_and_house
from small_model import FEW, small_model


@pytest.fixture
def image() -> np.ndarray:
    return road_and_house()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_second_run_reuses_all_tiles(image: np.ndarray, tmp_path: Path) -> None:
    counting = Counting()
    first = tiles.segment(image, counting, work_dir=tmp_path / "work", **SMALL)
    before = content(tmp_path / "work")
    assert counting.calls == 15
    assert masks_of(tiles.segment(image, counting, work_dir=tmp_path / "work", **SMALL)) == masks_of(first)
    assert counting.calls == 15 and content(tmp_path / "work") == before
    assert masks_of(first) == masks_of(tiles.segment(image, bright, **SMALL)), "without a folder, the same"
    # Merging is repeated with any threshold. Settings may be NumPy integers.
    same: dict[str, Any] = {name: np.int64(side) for name, side in SMALL.items()}
    tiles.segment(image, counting, work_dir=tmp_path / "work", merge_iou=0.9, batch=4, **same)
    assert counting.calls == 15


def test_home_folder_is_expanded(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    saved = tiles.segment(image, bright, work_dir="~/new/work", **SMALL).save("~/objects.json")
    assert (
        saved == tmp_path / "objects.json" and saved.exists() and (tmp_path / "new" / "work" / "settings.json").exists()
    )


def test_finished_tiles_survive_an_error(image: np.ndarray, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        tiles.segment(image, Counting(6, fail), work_dir=tmp_path, **SMALL)
    counting = Counting()
    tiles.segment(image, counting, work_dir=tmp_path, **SMALL)
    assert counting.calls == 15 - 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("batch", [1, 4])
def test_killed_runs_resume_to_identical_files(image: np.ndarray, tmp_path: Path, batch: int) -> None:
    expected = tiles.segment(image, Counting(), work_dir=tmp_path / "whole", batch=batch, **SMALL)
    work = tmp_path / "work"

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killed(run: Callable[[], Any]) -> bool:
        child = os.fork()
        if child == 0:
            try:
                run()
            finally:
                os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    def dies_at_rename(number: int) -> None:
        rename, count = os.replace, 0

        def replace(*paths: Any) -> None:
            nonlocal count
            count += 1
            if count == number:
                die()
            rename(*paths)

        os.replace = replace  # type: ignore[assignment]  # only in the child process
        tiles.segment(image, Counting(), work_dir=work, batch=batch, **SMALL)

    done = []
    for moment in (1, 3, 2):
        assert killed(partial(dies_at_rename, moment))
        done.append(len(list(work.glob("tile-*"))))
    for moment in (2, 3):
        assert killed(partial(tiles.segment, image, Counting(moment, die), work_dir=work, batch=batch, **SMALL))
        done.append(len(list(work.glob("tile-*"))))
    assert done == sorted(done) and 0 < done[-1] < 15, "no kill fell into the work"
    found = tiles.segment(image, Counting(), work_dir=work, batch=batch, **SMALL)
    assert masks_of(found) == masks_of(expected)
    assert content(work) == content(tmp_path / "whole")
    assert not [path for path in work.rglob("*") if path.is_dir()], "what kills left is cleared"
    for suffix in ("json", "geojson", "gpkg"):
        a, b = (one.save(tmp_path / f"{name}.{suffix}") for name, one in (("a", expected), ("b", found)))
        assert a.read_bytes() == b.read_bytes()


def test_other_settings_are_refused(image: np.ndarray, tmp_path: Path) -> None:
    tiles.segment(image, bright, work_dir=tmp_path, **SMALL)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="tile was 64 and is 96"):
        tiles.segment(image, bright, work_dir=tmp_path, tile=96, overlap=16)
    with pytest.raises(ValueError, match=r'model was "raster_examples\.bright" and is "bright"'):
        tiles.segment(image, Counting(), work_dir=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="height was 150 and is 149"):
        tiles.segment(image[1:], bright, work_dir=tmp_path, **SMALL)
    changed = image.copy()
    changed[-1, -1] = 0
    with pytest.raises(ValueError, match="other pixels"):
        tiles.segment(changed, bright, work_dir=tmp_path, **SMALL)
    assert content(tmp_path) == before


def test_changed_valid_mask_is_refused_as_other_pixels(tmp_path: Path) -> None:
    class Dark:
        height, width = 40, 50
        kept = np.ones((40, 50), bool)

        def read(self, y: int, x: int, height: int, width: int, /) -> np.ndarray:
            return np.zeros((height, width, 3), np.uint8)

        def valid(self, y: int, x: int, height: int, width: int, /) -> np.ndarray:
            return self.kept[y : y + height, x : x + width]

    raster = Dark()
    tiles.segment(raster, bright, work_dir=tmp_path, **SMALL)
    raster.kept = np.tri(40, 50, dtype=bool)
    with pytest.raises(ValueError, match="other pixels"):
        tiles.segment(raster, bright, work_dir=tmp_path, **SMALL)


def test_file_as_work_dir_is_refused(image: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="work_dir must be a folder"):
            tiles.segment(image, bright, work_dir=folder, **SMALL)


def test_changed_model_options_are_refused(image: np.ndarray, tmp_path: Path) -> None:
    sam = SAM(small_model())
    options: dict[str, Any] = {"tile": 160, "overlap": 32, "imgsz": 128, "conf": -9, **FEW}
    tiles.segment(image, sam, work_dir=tmp_path, **options)
    with pytest.raises(ValueError, match=r"sam\.points_stride was 2 and is 1"):
        tiles.segment(image, sam, work_dir=tmp_path, **(options | {"points_stride": 1}))


def test_missing_and_damaged_tiles_are_segmented_again(
    image: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tiles.segment(image, bright, work_dir=tmp_path, **SMALL)
    before = content(tmp_path)
    names = sorted(name for name in before if name.startswith("tile-"))
    (tmp_path / names[0]).unlink()
    (tmp_path / names[3]).write_bytes(before[names[3]][:-20])
    swapped = json.loads(before[names[5]])
    swapped["masks"][0]["area"] += 1
    (tmp_path / names[5]).write_text(json.dumps(swapped))
    (tmp_path / names[7]).write_text("[" * 100_000)
    far = json.dumps(swapped | {"masks": [swapped["masks"][0] | {"box": "far"}]})
    (tmp_path / names[9]).write_text(far.replace('"far"', "[0, 1e999, 2, 3]"))
    assert masks_of(tiles.segment(image, bright, work_dir=tmp_path, **SMALL)) == masks_of(first)
    assert content(tmp_path) == before
    assert sum("is segmented again" in record.message for record in caplog.records) == 4
    for text in (
        "{}",
        "[" * 100_000,
        (tmp_path / "settings.json").read_text().replace(store.FORMAT, "fastsam_core.tiles 0"),
    ):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(ValueError, match="not of this version of tiles"):
            tiles.segment(image, bright, work_dir=tmp_path, **SMALL)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="without settings"):
        tiles.segment(image, bright, work_dir=tmp_path, **SMALL)


def test_settings_that_one_run_lacks_are_named(tmp_path: Path) -> None:
    with store.TileFiles(tmp_path, {"tile": 32, "old": 1}):
        pass
    with (
        pytest.raises(ValueError, match="other settings: new was not given and is 2; old was 1 and is not given "),
        store.TileFiles(tmp_path, {"tile": 32, "new": 2}),
    ):
        pass


def test_work_dir_in_use_is_refused(image: np.ndarray, tmp_path: Path) -> None:
    with store.TileFiles(tmp_path, {}), pytest.raises(ValueError, match="another process"):
        tiles.segment(image, bright, work_dir=tmp_path, **SMALL)
