"""Tests of the names of label files: those of the images, below the folder, one image each."""

from __future__ import annotations

import ntpath
import os
from pathlib import Path

import numpy as np
import pytest

from fastsam_core.formats import (
    ImageLabels,
    LabelledObject,
    Segmentation,
    convert_labels,
    open_writer,
    read_labels,
)
from label_examples import encoded


def test_image_names_that_share_a_label_file_are_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path, "yolo") as writer:
        writer.write(ImageLabels("a/1.jpg", 4, 4))
        writer.write(ImageLabels("b/1.jpg", 4, 4))
        with pytest.raises(ValueError, match=r"a/1.PNG and an earlier image would both have their labels in .*1.txt"):
            writer.write(ImageLabels("a/1.PNG", 4, 4))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")) == ["a/1.txt", "b/1.txt"]


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "a/..", "/../a.jpg", "/", "..\\a.jpg", "."])
def test_image_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with open_writer(tmp_path / "in", "yolo") as writer, pytest.raises(ValueError, match="can't be used"):
        writer.write(ImageLabels(name, 4, 4))
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\nb.jpg", "a\ud83d.jpg", "\udd00.jpg"])
def test_image_names_with_control_characters_or_lone_surrogates_are_refused(tmp_path: Path, name: str) -> None:
    with open_writer(tmp_path / "in", "yolo") as writer, pytest.raises(ValueError, match="can't be used"):
        writer.write(ImageLabels(name, 4, 4))
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@pytest.mark.skipif(os.name == "nt", reason="names of files are not bytes on Windows")
def test_image_names_of_bytes_that_are_not_utf8_are_written(tmp_path: Path) -> None:
    with open_writer(tmp_path, "yolo") as writer:
        writer.write(ImageLabels(os.fsdecode(b"\x80\xff.jpg"), 4, 4))
    assert b"\x80\xff.txt" in os.listdir(os.fsencode(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "/data/images/a.jpg",
        "C:\\data\\images\\a.jpg",
        "./data//images/a.jpg",
        "/data/labels/../images/a.jpg",
        "data\\b\\c\\..\\..\\images\\a.jpg",
    ],
)
def test_absolute_image_names_stay_below_the_folder(tmp_path: Path, name: str) -> None:
    with open_writer(tmp_path, "yolo") as writer:
        writer.write(ImageLabels(name, 4, 4))
    assert (tmp_path / "data" / "images" / "a.txt").read_text() == ""


@pytest.mark.parametrize("name", ["C:a.jpg", "b/C:a.jpg", "C:\\D:\\a.jpg"])
def test_drives_within_image_names_are_refused_on_windows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("os.path.splitdrive", ntpath.splitdrive)
    with open_writer(tmp_path / "windows", "yolo") as writer, pytest.raises(ValueError, match="drives within it"):
        writer.write(ImageLabels(name, 4, 4))
    monkeypatch.undo()
    with open_writer(tmp_path / "posix", "yolo") as writer:
        writer.write(ImageLabels("b/12:30.jpg", 4, 4))
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["12:30.txt"]


def test_windows_image_names_become_paths(tmp_path: Path) -> None:
    mask = Segmentation.from_rle(encoded(np.ones((4, 4), bool)))
    with open_writer(tmp_path / "labels.json", "coco") as writer:
        writer.write(ImageLabels("b\\a.jpg", 4, 4, [LabelledObject(0, mask)]))
    convert_labels(tmp_path / "labels.json", tmp_path / "sa", from_="coco", to="sa1b")
    (labels,) = read_labels(tmp_path / "sa", "sa1b")
    assert labels.file_name == "b/a.jpg"
