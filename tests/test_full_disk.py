"""Tests that on a full disk, simulated by a file size limit, files are complete or absent and errors name them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fastsam_core import SAM, Results, rle, tiles
from fastsam_core._files import append_text, save_tensors, write_text
from fastsam_core.models.download import download
from image_examples import write_video
from local_server import reply, serve
from small_model import small_model

resource = pytest.importorskip("resource")

_MOST = 40_000  # bytes; more than pytest writes in the meantime


@contextmanager
def full_disk(most: int = _MOST) -> Iterator[None]:
    """Let no file grow beyond `most` bytes within the context."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def save_image(folder: Path) -> None:
    Results(noise(300, 300), "a.png", {}).save(folder / "target.png")


def save_text(folder: Path) -> None:
    write_text(folder / "target.txt", "x" * 2 * _MOST)


def save_weights(folder: Path) -> None:
    save_tensors(small_model().state_dict(), folder / "target.safetensors")


def save_geopackage(folder: Path) -> None:
    def checkers(image: np.ndarray) -> list[dict[str, object]]:
        mask = np.indices(image.shape[:2]).sum(0) % 2 == 0
        return [{"segmentation": rle.encode(np.asfortranarray(mask.astype(np.uint8)))}]

    objects = tiles.segment(noise(100, 100), checkers, tile=100, overlap=10)
    assert len(objects) == 1
    objects.save(folder / "target.gpkg")


@pytest.mark.parametrize("save", [save_image, save_text, save_weights, save_geopackage])
def test_failed_save_leaves_no_file(save: Callable[[Path], None], tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OSError, match="target"):
        save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path)
    assert [path.stem for path in tmp_path.iterdir()] == ["target"]


def test_incomplete_video_is_removed(tmp_path: Path) -> None:
    write_video(tmp_path / "in.avi", [noise(150, 200)] * 4)
    model = SAM(small_model())
    options = {"bboxes": [4, 6, 40, 30], "project": str(tmp_path / "out"), "save": True, "verbose": False}
    with full_disk(8000), pytest.raises(OSError, match=r"in\.avi can.t be written whole"):
        model(tmp_path / "in.avi", **options)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "in.avi"]
    assert len(model(tmp_path / "in.avi", **options)) == 4
    assert [path.name for path in (tmp_path / "out").rglob("*.avi")] == ["in.avi"]


def test_failed_download_names_its_file(tmp_path: Path) -> None:
    body = noise(300, 300).tobytes()
    with serve(lambda handler: reply(handler, body)) as address:
        with full_disk(), pytest.raises(OSError, match=r"target\.pt"):
            download(f"{address}/x.pt", tmp_path / "target.pt", progress=False)
        assert not (tmp_path / "target.pt").exists()
        assert download(f"{address}/x.pt", tmp_path / "target.pt", progress=False).read_bytes() == body


def test_append_writes_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "labels.txt"
    append_text(target, "0 0.5\n")
    with full_disk(), pytest.raises(OSError, match="labels"):
        append_text(target, "1 0.25\n" * _MOST)
    assert target.read_text() == "0 0.5\n"
    append_text(target, "1 0.25\n")
    assert target.read_text() == "0 0.5\n1 0.25\n"
    with full_disk(), pytest.raises(OSError, match="new"):
        append_text(tmp_path / "new.txt", "1 0.25\n" * _MOST)
    assert not os.path.exists(tmp_path / "new.txt")
