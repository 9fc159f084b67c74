"""Tests the inputs of annotation on a Ray cluster, without Ray: folders, parquet files and webdatasets."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from annotate_kills import make_images
from fastsam_core.annotate.file_list import FileList
from fastsam_core.distributed.inputs import (
    EncodedImageReader,
    FolderInput,
    FolderReader,
    ParquetInput,
    WebDatasetInput,
    infer_kind,
    sorted_hashes,
)


def test_kind_of_data_is_recognised(tmp_path: Path) -> None:
    assert infer_kind("s3://bucket/part-0.parquet") == infer_kind(["a.PARQUET", "b.parquet"]) == "parquet"
    assert infer_kind("shards/000.tar") == "webdataset" and infer_kind([Path("000.tar")]) == "webdataset"
    assert infer_kind([]) == infer_kind(3) == "folder"
    for name, kind in (("x.jpg", "folder"), ("x.parquet", "parquet"), ("x.tar", "webdataset")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / name).touch()
        assert infer_kind(folder) == kind


def test_tar_files_of_equal_names_are_refused(tmp_path: Path) -> None:
    for name in ("train/000.tar", "val/000.TAR"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for data in (tmp_path, [tmp_path / "train", tmp_path / "val"], ["s3://a/000.tar", "s3://b/000.tar"]):
        with pytest.raises(ValueError, match=r"000\.(tar|TAR) would give their images the same names"):
            WebDatasetInput.open(data)
    assert WebDatasetInput.open(["s3://a/000.tar", "s3://b/001.tar"]).files is None


def test_images_of_a_folder_are_listed_without_those_of_the_output(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 2)
    make_images(tmp_path / "images" / "out", 1)
    opened = FolderInput.open(tmp_path / "images", tmp_path / "images" / "out", 1, 8)
    assert opened.files.keys == ["a/00000.png", "b/00001.png"] and opened.files.root == str(tmp_path / "images")


def test_images_in_memory_and_streams_are_no_folder() -> None:
    with pytest.raises(ValueError, match="data must be a folder, a pattern or a list of image files, not "):
        FolderInput.open([np.zeros((8, 8, 3), np.uint8)], None, 1, 8)
    with pytest.raises(ValueError, match=r"list of image files, not 'rtsp://user:\*\*\*@camera/1'$"):
        FolderInput.open("rtsp://user:secret@camera/1", None, 1, 8)


def test_folder_becomes_tables_of_the_batches_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(table=dict))
    ray = SimpleNamespace(data=SimpleNamespace(from_arrow=list))
    files = FileList("", [f"{number}.png" for number in range(9)], {"5.png": "five"})
    opened = FolderInput(files, batch_size=2, images_per_task=5)
    tables = opened.dataset(ray, {"2.png", "3.png", "4.png"})
    assert [table["keys"] for table in tables] == [
        [[b"0.png", b"1.png"], [b"4.png", b"5.png"]],
        [[b"6.png", b"7.png"], [b"8.png"]],
    ]
    assert tables[0]["names"] == [[b"0", b"1"], [b"4", b"five"]]
    assert tables[0]["done"] == [[False, False], [True, False]]
    assert [len(table["keys"]) for table in FolderInput(files, 4, 1).dataset(ray, ())] == [1, 1, 1]
    assert opened.dataset(ray, files.keys) is None


class Parquet:
    """Stand-in for `ray.data` whose parquet files have the columns `name` and `image`, in two batches of names."""

    def __init__(self, *names: list[str]) -> None:
        self.names, self.read = names, []  # type: ignore[var-annotated]

    def read_parquet(self, data: Any, columns: Any = None) -> Parquet:
        self.read.append(columns)
        return self

    def schema(self) -> SimpleNamespace:
        return SimpleNamespace(names=["name", "image"])

    def iter_batches(self, batch_size: None) -> Any:
        return ({"name": names} for names in self.names)


def test_parquet_files_are_read_by_their_names() -> None:
    data = Parquet(["b.png", "a/x.jpg"], ["/a.png", "b.jpg"])
    ray = SimpleNamespace(data=data)
    opened = ParquetInput.open(ray, "x.parquet", "name", "image")
    assert opened.files.keys == ["a.png", "a/x.jpg", "b.jpg", "b.png"] and opened.files.renamed == {"b.png": "b-2"}
    assert data.read == [None, ["name"]], "only the names are read"
    assert opened.dataset(ray, ["a.png"]) is data and data.read[-1] == ["name", "image"]
    assert opened.dataset(ray, opened.files.keys) is None
    reader = opened.reader(["a.png"])
    assert reader.renamed == {"b.png": "b-2"} and reader._is_done("a.png") and not reader._is_done("b.png")


def test_parquet_files_without_the_columns_or_with_equal_names_are_refused() -> None:
    ray = SimpleNamespace(data=Parquet(["b.png"], ["a.png", "./b.png"]))
    with pytest.raises(ValueError, match=r"b\.png occurs twice in the column name; each image needs a unique name"):
        ParquetInput.open(ray, "x.parquet", "name", "image")
    with pytest.raises(ValueError, match=r"no column path; columns: name, image\. Set path_column= and image_column="):
        ParquetInput.open(ray, "x.parquet", "path", "image")
    with pytest.raises(ValueError, match="no column path and pixels; columns: name, image"):
        ParquetInput.open(ray, "x.parquet", "path", "pixels")


def test_rows_become_batches_of_what_is_left() -> None:
    reader = EncodedImageReader("parquet", "name", "image", {}, sorted_hashes(["1.png", "3.png"]))
    columns = {"name": [f"{number}.png" for number in range(7)], "image": [b"broken"] * 7}
    assert reader.first_name(columns) == "0.png"
    batches = [[load().key for load in batch] for batch in reader.batches(columns, 2, [])]
    assert batches == [["0.png", "2.png"], ["4.png", "5.png"], ["6.png"]]
    assert [len(batch) for batch in reader.batches(columns, 5, [])] == [5]


def test_parquet_rows_without_an_image_are_not_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    reader = EncodedImageReader("parquet", "name", "image", {}, sorted_hashes([]))
    columns = {"name": ["a/00000.png"] * 2, "image": [None, {"bytes": None, "path": "a/00000.png"}]}
    (batch,) = reader.batches(columns, 2, [])
    for loaded in (load() for load in batch):
        assert loaded.image is None and loaded.error == "there is no image in the column image"


def test_first_name_of_a_folder_is_that_of_its_first_batch() -> None:
    folder = FolderReader("")
    assert folder.first_name({"keys": [[b"a.png", b"b.png"], [b"c.png"]]}) == "a.png"
