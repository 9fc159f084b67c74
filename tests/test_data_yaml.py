"""Tests of data sets that a data.yaml describes, as Ultralytics' users have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from fastsam_core.evaluate.datasets import MaskDataset, open_dataset
from fastsam_core.train.labelled import LabelledFolder

SQUARE = "0 0.2 0.2 0.6 0.2 0.6 0.6 0.2 0.6\n"


def add_image(path: Path, label: Path | None = None, objects: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(path)
    if label is not None:
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(SQUARE * objects)


def described(folder: Path, text: str, split: str = "val") -> MaskDataset:
    (folder / "data.yaml").write_text(text)
    return open_dataset(folder / "data.yaml", split=split)


def counts(data: MaskDataset) -> dict[str, int]:
    return {data.names[index]: len(data[index].objects) for index in range(len(data))}


@pytest.fixture
def coco8(tmp_path: Path) -> Path:
    """Return a folder laid out as coco8-seg is: images/train, images/val, labels/train, labels/val."""
    for number, split in enumerate(("train", "val"), 1):
        add_image(tmp_path / "images" / split / "a.jpg", tmp_path / "labels" / split / "a.txt", number)
        add_image(tmp_path / "images" / split / "b.jpg")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\nval: images/val\n",
        "path: .  # the root\ntrain: images/train # 4 images\nval: 'images/val'\ntest:\nnames:\n  0: person\n",
        'path: "{folder}"\ntrain: images/train\nval: [images/val]\n',
        "path: {folder}\ntrain: {folder}/images/train\nval:\n  - images/val\n",
        "path: images\ntrain:\n- train\nval:\n- val\nnc: 1\n",
        "train: ../images/train\nvalidation: ../images/val\n",
    ],
)
def test_splits_are_folders_of_images(coco8: Path, text: str) -> None:
    for split, number in (("val", 2), ("train", 1)):
        data = described(coco8, text.replace("{folder}", str(coco8)), split)
        assert list(counts(data).values()) == [number, 0] and data.labelled_indices() == [0]
        assert [os.path.basename(name) for name in data.names] == ["a.jpg", "b.jpg"]


def test_names_of_images_are_relative_to_the_root(coco8: Path, tmp_path: Path) -> None:
    assert counts(described(coco8, "val: images/val\n")) == {"images/val/a.jpg": 2, "images/val/b.jpg": 0}
    (tmp_path / "elsewhere").mkdir()
    outside = described(tmp_path / "elsewhere", f"val: {coco8}/images/val\n")
    assert counts(outside) == {
        f"{(coco8 / 'images' / 'val').as_posix()}/{name}.jpg": n for name, n in (("a", 2), ("b", 0))
    }


def test_several_folders_are_joined_and_images_count_once(coco8: Path) -> None:
    data = described(coco8, "val: [images/val, images/train, images/val]\n")
    assert counts(data) == {
        "images/train/a.jpg": 1,
        "images/train/b.jpg": 0,
        "images/val/a.jpg": 2,
        "images/val/b.jpg": 0,
    }


def test_a_split_may_hold_images_and_labels(tmp_path: Path) -> None:
    add_image(tmp_path / "valid" / "images" / "a.jpg", tmp_path / "valid" / "labels" / "a.txt", 3)
    (tmp_path / "valid" / "labels" / "lonely.txt").write_text(SQUARE)
    for entry in ("valid", "../valid/images", "valid/images"):
        data = described(tmp_path, f"val: {entry}\n")
        assert counts(data) == {"valid/images/a.jpg": 3}
        (stray,) = data.unmatched_label_files()
        assert stray.image == "lonely.txt"


def test_labels_may_lie_beside_the_images(tmp_path: Path) -> None:
    add_image(tmp_path / "set" / "a.jpg", tmp_path / "set" / "a.txt", 2)
    assert counts(described(tmp_path, "val: set\n")) == {"set/a.jpg": 2}


def test_a_split_may_be_a_list_of_images(coco8: Path) -> None:
    add_image(coco8 / "beside" / "c.jpg", coco8 / "beside" / "c.txt", 4)
    lines = [
        "./images/val/a.jpg",
        "",
        str(coco8 / "images" / "train" / "a.jpg"),
        "beside/c.jpg",
        "images/val/gone.jpg ",
    ]
    (coco8 / "val.txt").write_text("\r\n".join(lines))
    data = described(coco8, "val: val.txt\n")
    assert counts(data) == {
        "beside/c.jpg": 4,
        "images/train/a.jpg": 1,
        "images/val/a.jpg": 2,
        "images/val/gone.jpg": 0,
    }
    assert "gone.jpg" in data[3].failures[0].reason


def test_path_may_be_relative_to_the_current_folder(coco8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (coco8 / "settings").mkdir()
    monkeypatch.chdir(coco8.parent)
    data = described(coco8 / "settings", f"path: {coco8.name}\nval: images/val\n")
    assert counts(data) == {"images/val/a.jpg": 2, "images/val/b.jpg": 0}


def test_training_takes_the_split_train(coco8: Path) -> None:
    (coco8 / "data.yaml").write_text("train: images/train\nval: images/val\n")
    assert LabelledFolder(coco8 / "data.yaml", size=64).names == ["images/train/a.jpg"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("names: [a]\n", ValueError, r"data\.yaml has no entry 'val' that names images; splits that it has: none"),
        ("train: images/train\nval: null\n", ValueError, r"no entry 'val' .*; splits that it has: train"),
        ("val: images/none\n", FileNotFoundError, r"data\.yaml: there is no .*images/none"),
        ("path: nowhere\nval: images/val\n", FileNotFoundError, r"its path is nowhere, and there is no such folder"),
        ("val: {a: b}\n", ValueError, r"val is a mapping; a path, or a list of paths, is needed"),
        ("val: [images/val\n", ValueError, r"val can't be read .* is neither a list nor a mapping"),
        ("val: images/bare\n", ValueError, r"none of the 1 images of val has a label file"),
    ],
)
def test_what_a_file_lacks_is_said(coco8: Path, text: str, error: type[Exception], message: str) -> None:
    add_image(coco8 / "images" / "bare" / "a.jpg")
    with pytest.raises(error, match=message):
        described(coco8, text)


def test_a_folder_of_images_beside_it_is_refused(coco8: Path) -> None:
    (coco8 / "data.yaml").write_text("val: images/val\n")
    with pytest.raises(ValueError, match=r"doesn't go with .*data\.yaml, which says where the images are"):
        open_dataset(coco8 / "data.yaml", coco8 / "images")
