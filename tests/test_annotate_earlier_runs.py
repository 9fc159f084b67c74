"""Tests which files among the images are known as what earlier runs wrote: label maps and contact sheets."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastsam_core.annotate.earlier_runs import find_earlier_output
from fastsam_core.annotate.file_list import FileList, list_files
from fastsam_core.annotate.manifest import Manifest
from fastsam_core.annotate.run import protect_images
from fastsam_core.annotate.shards import UNSHARDED, Shard


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def start_run(folder: Path, *formats: str, shard: Shard = UNSHARDED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(folder, {"formats": list(formats)}, shard).close()


def listed(data: object, output: Path, formats: tuple[str, ...] = ("yolo",), with_preview: bool = True) -> FileList:
    files = list_files(data, output)
    assert files is not None
    protect_images(files, output, formats, with_preview)
    return files


def test_label_maps_and_contact_sheets_of_earlier_runs_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = tmp_path / "images"
    written = [
        "preview.jpg", ".preview/1.png", "old/png/a.png", "old/png/deep/png/c.png", "sharded/set/png/a.png",
    ]  # fmt: skip
    photos = [
        "a.jpg", "a.png", "deep/png/c.png", "old/a.png", "old/png/a.jpg", "old/preview.jpg", "other/png/a.png",
        "other/preview.jpg", "png/b.png", "preview.png", "sharded/preview.jpg",
    ]  # fmt: skip
    touch(images, *written, *photos, "other/.preview/1.png")
    start_run(images, "yolo")  # no label maps
    start_run(images / "old", "png")  # no contact sheet
    start_run(images / "sharded" / "set", "coco", shard=Shard(0, 2))
    start_run(images / "sharded" / "set", "yolo", "png", shard=Shard(1, 2))
    caplog.set_level("INFO", "fastsam_core")
    for data in (images, str(images / "**" / "*.*g"), [images / name for name in written + photos if name[0] != "."]):
        caplog.clear()
        files = listed(data, tmp_path / "labels")
        assert files.keys == photos
        assert files.renamed == {"a.png": "a-2"}, "preview.png has its name for itself"
        assert "left out 4 label maps and contact sheets of earlier runs, such as old/png/a.png" in caplog.messages


def test_own_contact_sheet_is_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "preview.jpg", ".preview/1.png")
    with pytest.raises(ValueError, match=r"preview\.jpg is an image that the contact sheet would overwrite"):
        listed(tmp_path, tmp_path)
    assert listed(tmp_path, tmp_path, with_preview=False).keys == ["a.jpg", "preview.jpg"]
    start_run(tmp_path, "yolo")
    assert listed(tmp_path, tmp_path).keys == ["a.jpg"]


def test_output_of_earlier_runs_alone_is_kept(tmp_path: Path) -> None:
    touch(tmp_path, "preview.jpg", ".preview/1.png", "png/a.png")
    start_run(tmp_path, "png")
    assert listed(tmp_path, tmp_path / "labels").keys == ["png/a.png", "preview.jpg"]
    assert listed(tmp_path / "png", tmp_path / "labels").keys == ["a.png"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no manifest\n",
        '{"manifest": "another 7", "settings": {"formats": ["png"]}}\n',
        '{"manifest": "fastsam_core.annotate 1"}\n',
        '{"manifest": "fastsam_core.annotate 1", "settings": {"formats": 3}}\n',
        '{"manifest": "fastsam_core.annotate 1", "settings": {"formats": ["png"]}}',
    ],
)
def test_folders_without_a_whole_manifest_hold_images(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "preview.jpg", ".preview/1.png", "png/a.png", "a.jpg")
    (tmp_path / "manifest.jsonl").write_text(content)
    assert find_earlier_output(FileList(str(tmp_path), ["a.jpg", "png/a.png", "preview.jpg"])) == set()
