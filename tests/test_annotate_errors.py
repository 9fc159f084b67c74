"""Tests of annotation with unreadable images and failing detectors."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotate_kills import TINY, detector, make_images, recorded
from fastsam_core import SAM, Annotator, auto_annotate, cli
from fastsam_core.annotate import AnnotateConfig
from fastsam_core.annotate.files import LabelFiles
from fastsam_core.models import checkpoint, registry
from fastsam_core.models.image_encoder import sam_vit
from golden_recipe import fill_state_dict


@pytest.fixture
def checkpoint_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkpoint of the tiny model for the command line, which can't set the input size: it is 128 in the model."""
    encoder = partial(sam_vit, 16, 1, 2, (0,), img_size=128, out_chans=16)
    row = dataclasses.replace(TINY, encoder=encoder, image_size=128)
    monkeypatch.setitem(registry.MODELS, "sam_b", row)
    checkpoint._expected_shapes.cache_clear()
    torch.save(fill_state_dict(row.build().state_dict()), tmp_path / "tiny.pt")
    yield tmp_path / "tiny.pt"
    checkpoint._expected_shapes.cache_clear()


def test_bad_images_do_not_change_the_exit_status(
    tmp_path: Path, checkpoint_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, target = tmp_path / "images", tmp_path / "out"
    make_images(images, 3)
    good = (images / "a" / "00000.png").read_bytes()
    (images / "a" / "00000.png").write_bytes(good[:100])
    (images / "empty.jpg").write_bytes(b"")
    line = ["annotate", f"data={images}", f"model={checkpoint_file}", f"output_dir={target}", "shard=0/1"]
    assert cli.main(line) == 0
    said = capsys.readouterr()
    assert "2 label files" in said.out and "2 skipped" in said.out and "the file is empty" in said.out
    lines = [json.loads(text) for text in (target / "manifest.jsonl").read_text().splitlines()]
    failed = {line["key"]: line["error"] for line in lines if line.get("status") == "error"}
    assert set(failed) == {"a/00000.png", "empty.jpg"} and "damaged" in failed["a/00000.png"]
    # Bad images are tried again and recorded once; they are labelled after they have been repaired.
    assert cli.main(line) == 0
    assert recorded(target).total() == 4
    (images / "empty.jpg").write_bytes(good)
    assert cli.main(line) == 0
    assert "3 label files" in capsys.readouterr().out and (target / "empty.txt").exists()


def test_reason_is_recorded_for_images_that_are_not_files(sam: SAM, images: Path, tmp_path: Path) -> None:
    data = [(images / "a" / "00000.png").read_bytes(), b"no image"]
    target = auto_annotate(data, detector, sam, output_dir=tmp_path / "out")
    lines = map(json.loads, (target / "manifest.jsonl").read_text().splitlines()[1:])
    errors = {line["key"]: line.get("error", "") for line in lines}
    assert errors["image0.jpg"] == "" and "not an image" in errors["image1.jpg"]
    with pytest.raises(ValueError, match=r"image1\.jpg: .*not an image"):
        auto_annotate(data, detector, sam, output_dir=tmp_path / "out", on_error="raise")


def test_on_error_raise_stops_at_first_bad_image(sam: SAM, images: Path) -> None:
    (images / "a" / "00000.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"a/00000\.png: not an image"):
        auto_annotate(images, detector, sam, on_error="raise")
    with pytest.raises(ValueError, match="accepted: skip, raise"):
        auto_annotate(images, detector, sam, on_error="ignore")


def test_failure_of_detector_skips_one_image(sam: SAM, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    def moody(image: np.ndarray) -> Any:
        if image.shape == shape:
            raise RuntimeError("not this one")
        return detector(image)

    from fastsam_core.sources import read_image

    shape = read_image(images / "c" / "00005.png").shape
    target = auto_annotate(images, moody, sam, batch=4)
    assert not (target / "c" / "00005.txt").exists()
    assert recorded(target)["c/00005.png", "error"] == 1 and recorded(target).total() == 12
    assert "RuntimeError: not this one" in caplog.text
    with pytest.raises(RuntimeError, match="not this one"):
        auto_annotate(images, moody, sam, batch=4, on_error="raise")


@pytest.mark.parametrize("count", [4, 30])
def test_detector_that_always_fails_raises_first_error(sam: SAM, tmp_path: Path, count: int) -> None:
    """The first error is raised after ten failures, or after all images if there are fewer."""
    make_images(tmp_path / "images", count)
    calls = 0

    def broken(image: np.ndarray) -> Any:
        nonlocal calls
        calls += 1
        raise RuntimeError(f"failure {calls}")

    with pytest.raises(RuntimeError, match=r"failure 1$"):
        auto_annotate(tmp_path / "images", broken, sam)
    assert calls == min(count, 10)


@pytest.mark.parametrize("batch", [1, 2])
def test_failed_attempt_holds_no_memory(sam: SAM, batch: int) -> None:
    """After an image that was too large for the GPU, the next ones have the memory to themselves."""
    held: list[weakref.ref[np.ndarray]] = []

    def allocate() -> None:
        much = np.zeros(3)
        held.append(weakref.ref(much))
        raise MemoryError("no memory")

    def failing(image: np.ndarray) -> Any:
        pixels = image.copy()
        held.append(weakref.ref(pixels))
        try:
            allocate()
        except MemoryError as error:
            raise RuntimeError("too large") from error

    annotator = Annotator(AnnotateConfig(failing, sam))
    labelled = annotator.label([np.zeros((8, 8, 3), np.uint8)] * batch, ["a.png"] * batch)
    assert [str(error) for error in labelled] == ["too large"] * batch
    assert held and not [reference for reference in held if reference() is not None]


def test_unfinished_files_are_removed_at_the_beginning_and_the_end(tmp_path: Path) -> None:
    first, second = (LabelFiles(tmp_path, ["yolo"], owner=f"shard-{index}") for index in range(2))
    first.scratch.mkdir(parents=True)
    (first.scratch / "killed.txt").touch()
    with first:
        assert not any(first.scratch.iterdir())
        with second:
            (second.scratch / "unfinished.txt").touch()
        assert not second.scratch.exists() and first.scratch.exists(), "each owner removes its own"
    assert not any(tmp_path.iterdir())


def test_leftover_that_cannot_be_removed_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LabelFiles(tmp_path, ["yolo"])
    labels.scratch.mkdir(parents=True)
    (labels.scratch / "open.txt").touch()
    monkeypatch.setattr("shutil.rmtree", lambda folder, ignore_errors: None)
    with labels:
        labels.write([("a/b.txt", b"0 0.5\n")])
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"0 0.5\n"
    assert [path.name for path in labels.scratch.iterdir()] == ["open.txt"]
