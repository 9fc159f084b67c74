"""Tests `auto_annotate` with boxes of simple detectors and an untrained sam_nano, mostly by its YOLO label files."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import SAM, Predictor, auto_annotate, rle
from fastsam_core.annotate.run import default_output_dir
from fastsam_core.sources.item import Source
from golden_recipe import test_image as golden_image

BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0], [50.0, 2.0, 76.0, 44.0]]
KEEP_ALL = {"conf": -1e9, "save": False}


@pytest.fixture
def sam(model: Any) -> SAM:
    made = SAM(model)
    made.overrides["conf"] = -1e9
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two images, 80 x 48 pixels."""
    from PIL import Image

    target = tmp_path / "images"
    target.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(golden_image(48, 80)).save(target / name)
    return target


def detector_of(boxes: Any, class_ids: Any, names: Any = None) -> Callable[[np.ndarray], Any]:
    return lambda image: (boxes, [0.9] * len(boxes), class_ids, names)


def files(folder: Path) -> list[str]:
    """List the YOLO label files of a folder by relative path."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.txt"))


def lines(path: Path) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in path.read_text().splitlines()]


def test_one_line_per_box_with_its_class(sam: SAM, folder: Path) -> None:
    seen: list[np.ndarray] = []

    def detector(image: np.ndarray) -> Any:
        seen.append(image)
        return torch.tensor(BOXES), torch.full((3,), 0.8), torch.tensor([7, 0, 3]), {7: "cup", 0: "plate", 3: "spoon"}

    target = auto_annotate(folder, detector, sam)
    assert target == folder.parent / "images_auto_annotate_labels"
    assert files(target) == ["a.txt", "b.txt"]
    assert [image.shape for image in seen] == [(48, 80, 3)] * 2
    assert (seen[0] == golden_image(48, 80)[..., ::-1]).all(), "the detector gets BGR"
    rows = lines(target / "a.txt")
    assert [row[0] for row in rows] == [7, 0, 3]
    for row in rows:
        assert len(row) % 2 == 1 and len(row) >= 7
        assert all(0 <= value <= 1 for value in row[1:])
    result = sam(folder / "a.png", bboxes=BOXES, verbose=False)[0]
    for row, mask in zip(rows, result.masks.data, strict=True):
        polygon = np.reshape(row[1:], (-1, 2)) * [80, 48]
        filled = rle.decode(rle.frPyObjects([polygon.ravel().tolist()], 48, 80)[0])
        assert (filled == mask.numpy()).all(), "an outline with all parts and holes fills to the mask"


def test_class_ids_stay_with_their_boxes_when_a_mask_is_dropped(model: Any, folder: Path) -> None:
    everything_kept = Predictor(overrides={"model": model, **KEEP_ALL, "verbose": False})
    scores = everything_kept(folder / "a.png", bboxes=BOXES)[0].predicted_iou
    dropped = int(scores.argmin())
    assert len(set(scores.tolist())) == 3
    conf = float(scores.sort().values[:2].mean())
    strict = Predictor(overrides={"model": model, "conf": conf, "save": False, "verbose": False})
    target = auto_annotate(folder, detector_of(BOXES, [11, 12, 13]), strict)
    assert [row[0] for row in lines(target / "a.txt")] == [11 + i for i in range(3) if i != dropped]


def test_segment_everything_writes_class_zero(model: Any, folder: Path) -> None:
    predictor = Predictor(
        overrides={
            "model": model, **KEEP_ALL, "conf_thres": -1e9, "stability_score_thresh": -1, "points_stride": 2,
            "verbose": False,
        }
    )  # fmt: skip
    expected = len(predictor(folder / "a.png")[0])
    assert expected > 0
    target = auto_annotate(folder, None, predictor, output_dir=folder / "labels")
    assert target == folder / "labels"
    rows = lines(target / "a.txt")
    assert 0 < len(rows) <= expected
    assert {row[0] for row in rows} == {0}


def test_unreadable_image_is_reported_and_skipped(sam: SAM, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "broken.png").write_bytes(b"not an image")
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        target = auto_annotate(folder, detector_of(BOXES, [1, 1, 2], ["none", "cup", "plate"]), sam)
    assert files(target) == ["a.txt", "b.txt"]
    assert any("broken.png" in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert "2 label files" in caplog.records[-1].getMessage() and "1 skipped" in caplog.records[-1].getMessage()
    assert "cup 4, plate 2" in caplog.records[-1].getMessage()


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
@pytest.mark.parametrize(("name", "said"), [("a\nb.png", "control characters"), ("x" * 251 + ".png", "too long")])
def test_image_with_unwritable_name_is_skipped(sam: SAM, folder: Path, name: str, said: str) -> None:
    (folder / name).write_bytes((folder / "b.png").read_bytes())
    options = {"formats": ("yolo", "labelme"), "preview": 0}
    target = auto_annotate(folder, detector_of(BOXES, [1, 2, 3]), sam, **options)
    assert sorted(path.name for path in (target / "labelme").iterdir()) == ["a.json", "b.json"]
    with pytest.raises((ValueError, OSError), match=said):
        auto_annotate(folder, detector_of(BOXES, [1, 2, 3]), sam, **options, on_error="raise", resume=False)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EILSEQ])
def test_name_that_the_file_system_refuses_concerns_one_image(
    sam: SAM, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (folder / "what?.png").write_bytes((folder / "b.png").read_bytes())
    plain = os.replace

    def replace(source: Path, target: Path) -> None:
        if "?" in str(target):
            raise OSError(code, os.strerror(code), str(target))
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    target = auto_annotate(folder, detector_of(BOXES, [1, 2, 3]), sam, preview=0)
    lines = [json.loads(text) for text in (target / "manifest.jsonl").read_text().splitlines()[1:]]
    assert {line["key"]: line["status"] for line in lines} == {"a.png": "ok", "b.png": "ok", "what?.png": "error"}


@pytest.mark.skipif(os.name != "posix", reason="other systems report another error")
@pytest.mark.parametrize("names", [("a.txt/c.png",), ("a.txt/deep/c.png",), ("c.txt/d.png", "c.webp")])
def test_label_file_and_folder_of_one_name_concern_one_image(sam: SAM, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes((folder / "b.png").read_bytes())
    target = auto_annotate(folder, detector_of(BOXES, [1, 2, 3]), sam, preview=0)
    lines = [json.loads(text) for text in (target / "manifest.jsonl").read_text().splitlines()[1:]]
    assert sorted(line["status"] for line in lines) == ["error", *["ok"] * (1 + len(names))]
    assert f"{target / names[0].split('/')[0]}" in next(line["error"] for line in lines if line["status"] == "error")


def test_image_named_like_a_video_frame_is_listed(sam: SAM, folder: Path) -> None:
    (folder / "a.png").rename(folder / "clip.mp4#1.png")
    target = auto_annotate(folder, detector_of(BOXES, [1, 2, 3]), sam, formats="coco", preview=0)
    listed = json.loads((target / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in listed] == ["b.png", "clip.mp4#1.png"]


def test_tilde_in_paths_is_expanded(sam: SAM, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    target = auto_annotate("~/images", detector_of(BOXES, [1, 2, 3]), sam)
    assert target == tmp_path / "images_auto_annotate_labels"
    assert auto_annotate("~/images", detector_of(BOXES, [1, 2, 3]), sam, output_dir="~/out") == tmp_path / "out"
    assert files(tmp_path / "out") == ["a.txt", "b.txt"]


def test_images_of_one_stem_do_not_collide(sam: SAM, folder: Path) -> None:
    for name in ("a.bmp", "a-2.png", "A.jpg"):
        (folder / name).write_bytes((folder / "b.png").read_bytes())
    target = auto_annotate(folder, lambda image: ([], [], [], None), sam)
    names = files(target)
    assert len(names) == 5 and "a-2.txt" in names
    assert len({name.casefold() for name in names}) == 5


def test_fifth_positional_argument_is_output_dir(sam: SAM, folder: Path, tmp_path: Path) -> None:
    target = auto_annotate(str(folder), lambda image: ([], [], [], None), sam, "cpu", str(tmp_path / "out"))
    assert target == tmp_path / "out" and len(files(target)) == 2


def test_bad_detector_output_names_the_image(sam: SAM, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"a tuple of 3 for .*a\.png"):
        auto_annotate(folder, lambda image: (BOXES, [0.9] * 3, [0] * 3), sam)


def test_missing_detector_is_refused_before_writing(sam: SAM, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        auto_annotate(folder, "nowhere.pt", sam)
    assert not (folder.parent / "images_auto_annotate_labels").exists(), "refused before anything is made"
    with pytest.raises(TypeError, match="int"):
        auto_annotate(folder, 3)


def test_wrong_arguments_are_refused(sam: SAM, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"det_model='yolov8n\.pt' is a YOLO checkpoint"):
        auto_annotate(folder, "yolov8n.pt", sam, texts=["a dog"])
    with pytest.raises(TypeError, match="resume must be True or False, not 'maybe'"):
        auto_annotate(folder, None, sam, resume="maybe")
    for output_dir in (3, b"labels"):
        with pytest.raises(TypeError, match="output_dir must be text, not "):
            auto_annotate(folder, None, sam, output_dir=output_dir)
    for output_dir in (folder / "a.png", folder / "a.png" / "labels"):
        with pytest.raises(NotADirectoryError, match=r"a\.png"):
            auto_annotate(folder, None, "nowhere.pt", output_dir=output_dir)
    with pytest.raises(TypeError, match="sam_model"):
        auto_annotate(folder, None, 3)
    with pytest.raises(FileNotFoundError):
        auto_annotate(tmp_path / "missing", None, sam)
    with pytest.raises(ValueError, match="output_dir is needed"):
        auto_annotate([np.zeros((8, 8, 3), np.uint8)], None, sam)
    with pytest.raises(ValueError, match="output_dir is needed"):
        auto_annotate(str(folder / "*.png"), None, sam)


def test_default_output_folder_drops_the_suffix(sam: SAM, folder: Path) -> None:
    renamed = folder.rename(folder.parent / "v1.0")
    assert auto_annotate(renamed, lambda image: ([], [], [], None), sam) == renamed.parent / "v1_auto_annotate_labels"


def test_default_output_folder_is_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "set" / "images"
    inner.mkdir(parents=True)
    (inner / "a.jpg").touch()
    monkeypatch.chdir(inner)
    beside = tmp_path / "set" / "images_auto_annotate_labels"
    assert default_output_dir(".") == default_output_dir(inner) == default_output_dir(f"{inner}/") == beside
    assert default_output_dir("..") == tmp_path / "set_auto_annotate_labels"
    assert default_output_dir("a.jpg") == Path("a_auto_annotate_labels")


def test_source_is_closed_however_the_run_ends(sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(Source, "close", lambda self: closed.append(1))
    image = np.zeros((8, 8, 3), np.uint8)
    auto_annotate([image], lambda image: ([], [], [], None), sam, output_dir=tmp_path / "good")
    assert len(closed) == 1
    with pytest.raises(ValueError, match="a tuple of 1"):
        auto_annotate([image], lambda image: ([],), sam, output_dir=tmp_path / "bad")
    assert len(closed) == 2
