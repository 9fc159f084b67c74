"""Tests `yolo_bbox2segment`, which turns labelled boxes into polygons and keeps classes and their order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsam_core import SAM, Predictor
from fastsam_core.data.converter import yolo_bbox2segment
from fastsam_core.formats import read_labels
from golden_recipe import test_image as golden_image
from label_examples import pixels

BOXES = "7 0.275 0.375 0.45 0.5\n0 0.5 0.52 0.5 0.625\n3 0.79 0.48 0.32 0.875\n"


@pytest.fixture
def sam(model: Any) -> SAM:
    sam = SAM(model)
    sam.overrides["imgsz"] = 128
    return sam


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images of 80 x 48 pixels: one with boxes, one with an empty label file, one without a label file."""
    for name in ("1", "sub/2", "3"):
        path = tmp_path / "set" / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(golden_image(48, 80)).save(path)
    (tmp_path / "set" / "labels" / "sub").mkdir(parents=True)
    (tmp_path / "set" / "labels" / "1.txt").write_text(BOXES)
    (tmp_path / "set" / "labels" / "sub" / "2.txt").write_text("")
    (tmp_path / "set" / "data.yaml").write_text("names: {0: cup, 3: plate, 7: spoon}\n")
    return tmp_path / "set" / "images"


def test_each_box_becomes_a_polygon(images: Path, sam: SAM) -> None:
    folder = yolo_bbox2segment(images, sam_model=sam)
    assert folder == images.parent / "labels-segment"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert files == ["1.txt", "3.txt", "data.yaml", "sub/2.txt"]
    assert (folder / "3.txt").read_text() == (folder / "sub" / "2.txt").read_text() == ""
    first = next(iter(read_labels(folder, "yolo", images=images)))
    assert [found.class_id for found in first.objects] == [7, 0, 3]
    assert list(first.names.values()) == ["cup", "1", "2", "plate", "4", "5", "6", "spoon"]
    boxes = [found.xyxy() for found in next(iter(read_labels(images.parent, "yolo"))).objects]
    result = sam(images / "1.png", bboxes=np.array(boxes, np.float32), conf=-1e9, verbose=False)[0]
    for place in range(3):
        np.testing.assert_array_equal(pixels(first, place), result.masks.pixels(place))


def test_dropped_masks_do_not_shift_classes(images: Path, sam: SAM, tmp_path: Path) -> None:
    boxes = [found.xyxy() for found in next(iter(read_labels(images.parent, "yolo"))).objects]
    scores = sam(images / "1.png", bboxes=boxes, conf=-1e9, verbose=False)[0].predicted_iou.tolist()
    weakest = int(np.argmin(scores))
    yolo_bbox2segment(images, tmp_path / "out", sam, conf=sum(sorted(scores)[:2]) / 2)
    classes = [int(line.split()[0]) for line in (tmp_path / "out" / "1.txt").read_text().splitlines()]
    assert classes == [class_id for place, class_id in enumerate([7, 0, 3]) if place != weakest]


def test_box_without_mask_stays_a_rectangle(
    images: Path, model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = model.decode_prompts

    def nothing(*arguments: Any, **options: Any) -> Any:
        logits, scores = plain(*arguments, **options)
        return -logits.abs() - 1, scores

    monkeypatch.setattr(model, "decode_prompts", nothing)
    predictor = Predictor(overrides={"model": model, "imgsz": 128})
    # A box too small for a pixel has no polygon.
    (images.parent / "labels" / "sub" / "2.txt").write_text("1 0.501 0.501 0.001 0.001\n")
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        folder = yolo_bbox2segment(str(images), sam_model=predictor, device="cpu")
    assert folder is not None
    assert (folder / "1.txt").read_text().splitlines()[0] == "7 0.05 0.125 0.5 0.125 0.5 0.625 0.05 0.625"
    assert (
        "3 label files" in caplog.text and "boxes without a mask kept as rectangles: 3; boxes dropped: 1" in caplog.text
    )
    assert (folder / "sub" / "2.txt").read_text() == ""


def test_current_folder_is_found_like_any_other(images: Path, sam: SAM, monkeypatch: pytest.MonkeyPatch) -> None:
    for current, im_dir in ((images, "."), (images / "sub", "..")):
        monkeypatch.chdir(current)
        assert yolo_bbox2segment(im_dir, sam_model=sam) == images.parent / "labels-segment"


def test_images_that_share_a_label_file_are_refused_before_any_is_segmented(images: Path, sam: SAM) -> None:
    Image.fromarray(golden_image(48, 80)).save(images / "3.jpg")
    with pytest.raises(ValueError, match=r"3\.jpg and 3\.png in .* would have the same label file; rename one of them"):
        yolo_bbox2segment(images, sam_model=sam)
    assert not (images.parent / "labels-segment").exists()


def test_labels_with_polygons_are_left_alone(images: Path, sam: SAM, caplog: pytest.LogCaptureFixture) -> None:
    with open(images.parent / "labels" / "sub" / "2.txt", "a") as file:
        file.write("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        assert yolo_bbox2segment(images, sam_model=sam) is None
    assert "2.txt holds polygons already; nothing to do" in caplog.text
    assert not (images.parent / "labels-segment").exists()


def test_unreadable_image_is_reported_and_skipped(images: Path, sam: SAM, caplog: pytest.LogCaptureFixture) -> None:
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:2000])
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        folder = yolo_bbox2segment(images, sam_model=sam)
    assert folder is not None and not (folder / "3.txt").exists() and (folder / "1.txt").stat().st_size
    assert "3.png: damaged" in caplog.text and "2 label files" in caplog.text and "images skipped: 1" in caplog.text


def test_wrong_arguments_are_refused(images: Path, sam: SAM, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sam_model must be a checkpoint"):
        yolo_bbox2segment(images, sam_model=3)
    with pytest.raises(FileNotFoundError, match="im_dir is the folder of the images"):
        yolo_bbox2segment(tmp_path / "nowhere", sam_model=sam)
    (tmp_path / "link").symlink_to(images.parent / "labels")
    with pytest.raises(ValueError, match="whose boxes would be overwritten"):
        yolo_bbox2segment(images, tmp_path / "link", sam)
    assert (images.parent / "labels" / "1.txt").read_text() == BOXES
    (images.parent / "labels" / "1.txt").write_text("0 2 2 1 1\n")
    with pytest.raises(ValueError, match=r"1\.txt, line 1: 2 lies outside"):
        yolo_bbox2segment(images, sam_model=sam)
    (images.parent / "labels").rename(images.parent / "else")
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*labels"):
        yolo_bbox2segment(images, sam_model=sam)
