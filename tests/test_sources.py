"""Sources: files, folders, patterns and lists become BGR images with paths; invalid sources are refused."""

from __future__ import annotations

import ast
import base64
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam_core.sources import load_sources, read_image
from image_examples import BGR, RGB, encode, image_folder, names, only, write, write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "pics")


# --- one file


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".weird", ""])
def test_single_file_gives_one_item(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"Bild ä中{suffix}")
    for given in (path, str(path)):
        source = load_sources(given)
        assert (source.kind, len(source), source.path) == ("image", 1, str(path))
        item = only(given)
        assert (item.path, item.frame, item.index, item.total, item.kind) == (str(path), None, 0, 1, "image")
        assert np.array_equal(item.image, BGR)


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "b.png")
    monkeypatch.chdir(tmp_path / "a")
    assert only("b.png").path == str(tmp_path / "a" / "b.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert only("~/a/b.png").path == str(tmp_path / "a" / "b.png")


def test_source_can_be_iterated_twice(tmp_path: Path) -> None:
    with load_sources(write(tmp_path / "a.png")) as source:
        assert len(list(source)) == len(list(source)) == 1


def test_missing_file_suggests_close_names(tmp_path: Path) -> None:
    write(tmp_path / "zidane.jpg")
    with pytest.raises(FileNotFoundError, match=r"zidan\.jpg.*did you mean zidane\.jpg"):
        load_sources(tmp_path / "zidan.jpg")
    with pytest.raises(FileNotFoundError, match=r"looked for .*mountain\.png\)$"):
        load_sources(tmp_path / "mountain.png")
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist, but "):
        load_sources(tmp_path / "nowhere" / "a.jpg")


def test_missing_file_in_a_folder_that_can_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(FileNotFoundError, match=r"looked for .*a\.jpg\)$"):
        load_sources(tmp_path / "a.jpg")


def test_missing_drive_is_reported_as_missing_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a path may lie on a drive that doesn't exist, so that none of its parents is a folder."""
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist$"):
        load_sources("/nowhere/a.jpg")


def test_base64_text_is_recognised_and_not_repeated_in_the_error(tmp_path: Path) -> None:
    text = base64.b64encode(write(tmp_path / "a.png", np.zeros((90, 90, 3), np.uint8), "BMP").read_bytes()).decode()
    for given in (text, f"data:image/png;base64,{text}", "data:image/png;base64,iVBORw0KGgo="):
        with pytest.raises(FileNotFoundError, match=rf"{len(given):,} characters; .*base64\.b64decode") as caught:
            load_sources(given)
        assert len(str(caught.value)) < 300
    with pytest.raises(FileNotFoundError, match="no such file or folder"):  # longer than any file system allows
        load_sources(f"{'a' * 300}/{'b' * 300}.png")


def test_unreadable_file_names_the_file_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for content, reason in (
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (encode(RGB, "JPEG")[:400], "damaged"),
    ):
        path.write_bytes(content)
        source = load_sources(path)
        with pytest.raises(ValueError, match=f"a.jpg: .*{reason}"):
            list(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
@pytest.mark.parametrize("name", ["a.jpg", "a.mp4"])
def test_named_pipe_is_refused_without_blocking(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file"):
        list(load_sources(tmp_path / name))


def test_read_image_reads_a_file_or_names_the_missing_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a folder, not an image; .* without their sub-folders"):
        read_image(tmp_path)
    assert np.array_equal(read_image(write(tmp_path / "a.png")), BGR)


# --- folders, patterns, lists


def test_folder_gives_its_images_in_natural_order(folder: Path) -> None:
    source = load_sources(folder)
    assert (source.kind, len(source), source.path) == ("folder", 3, str(folder))
    items = list(source)
    assert [os.path.basename(i.path) for i in items] == ["IMG1.JPG", "img2.png", "img10.png"]
    assert [(i.index, i.total) for i in items] == [(0, 3), (1, 3), (2, 3)]


def test_natural_order_of_names_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "10.png", "9.png", "A3.png", "a10.png", "a2.png", "clip10.avi"):
        (tmp_path / name).touch()
    write_video(tmp_path / "clip9.avi", [BGR])
    (tmp_path / "a folder.png").mkdir()
    shown = ["9.png", "10.png", "a2.png", "A3.png", "a10.png", "b.png", "clip9.avi", "clip10.avi"]
    assert names(tmp_path) == shown
    monkeypatch.chdir(tmp_path)
    assert names("*") == shown


def test_bad_images_of_a_folder_are_logged_and_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "img2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "img3.png").symlink_to(folder / "gone.png")
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        items = list(load_sources(folder))
    assert [i.error is None for i in items] == [i.image is not None for i in items] == [True, False, False, True]
    assert "damaged PNG" in str(items[1].error) and "no such file" in str(items[2].error)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        f"skipped {folder / 'img2.png'}",
        f"skipped {folder / 'img3.png'}",
    ]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no image or video in the folder .*1 other entries.*\*\*"):
        load_sources(tmp_path)


def test_glob_patterns(folder: Path) -> None:
    assert names(f"{folder}/img*.png") == ["img2.png", "img10.png"]
    assert names(f"{folder}/*") == ["IMG1.JPG", "img2.png", "img10.png"]
    assert names(f"{folder}/**/*.png") == ["img2.png", "img10.png", "deep.png"]
    assert names(f"{folder}/img[0-9].png") == ["img2.png"]
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        load_sources(f"{folder}/*.tif")
    with pytest.raises(FileNotFoundError, match="1 entries match, but none is an image"):
        load_sources(f"{folder}/*.md")


def test_existing_file_whose_name_looks_like_a_pattern(folder: Path) -> None:
    write(folder / "a[1].png")
    write(folder / "a1.png")
    assert names(f"{folder}/a[1].png") == ["a[1].png"]
    assert names([folder / "a[1].png"]) == ["a[1].png"]
    (folder / "list.txt").write_text("a[1].png\n")
    assert names(folder / "list.txt") == ["a[1].png"]


def test_list_file_entries_may_be_files_folders_and_patterns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "cwd" / "here.png")
    monkeypatch.chdir(tmp_path / "cwd")
    listed = folder / "list.txt"
    listed.write_text(
        f"\ufeffimg2.png\n\n  here.png \nmissing.png\n{folder / 'IMG1.JPG'}\nsub\n*10.png\n**/h*.png\n", "utf-8"
    )
    items = list(load_sources(listed))
    assert [Path(i.path).name for i in items] == [
        "img2.png", "here.png", "missing.png", "IMG1.JPG", "deep.png", "img10.png", "here.png"
    ]  # fmt: skip
    assert [i.error is None for i in items] == [True, True, False, True, True, True, True]


def test_brackets_in_a_folder_name_are_not_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "set [1]"
    write(folder / "sub" / "a.png")
    (folder / "list.txt").write_text("sub/*.png\n")
    assert names(folder / "list.txt") == ["a.png"]
    with pytest.raises(FileNotFoundError, match="For its sub-folders too, pass ") as raised:
        load_sources(folder)
    assert names(ast.literal_eval(str(raised.value).rpartition(", pass ")[2])) == ["a.png"]


def test_csv_list_takes_the_first_column(folder: Path) -> None:
    for header in ("", "image,label\n", "File_Name\n"):
        (folder / "list.csv").write_text(header + '"img2.png",3\n\nimg10.png,4\n')
        assert names(folder / "list.csv") == ["img2.png", "img10.png"]
    (folder / "list.csv").write_text("")
    with pytest.raises(FileNotFoundError, match="names no file"):
        load_sources(folder / "list.csv")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", FileNotFoundError, "names no file"),
        (b"x.png\ny.png\n", FileNotFoundError, "none of the 2 files"),
        (b"\xff\xfe\xfa", ValueError, "not UTF-8"),
        (b"list.txt\n", ValueError, "nested"),
        (b"x.png\nRTSP://me:word@cam\n", ValueError, r"a stream, RTSP://me:\*\*\*@cam: .*\*\.streams"),
    ],
)
def test_bad_list_files_are_refused(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        load_sources(tmp_path / "list.txt")


def test_list_file_goes_on_after_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("empty\na.png\n")
    items = list(load_sources(tmp_path / "list.txt"))
    assert [(Path(i.path).name, i.error is None) for i in items] == [("empty", False), ("a.png", True)]


def test_unparsable_csv_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path\n{'a' * 200_000}.png\n")
    with pytest.raises(ValueError, match=r"list\.csv is not a list of files: .*field larger than field limit"):
        load_sources(tmp_path / "list.csv")


def test_list_of_arrays_files_and_tensors(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "a.png")
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    given = [BGR, str(path), Image.fromarray(RGB), chw, encode(RGB, "PNG"), path, folder, torch.stack([chw, chw])]
    source = load_sources(given)
    assert (source.kind, len(source)) == ("arrays", 11)
    items = list(source)
    assert [i.index for i in items] == list(range(11))
    assert all(i.total == 11 and np.array_equal(i.image, BGR) for i in items if not i.path.endswith("JPG"))
    assert [os.path.basename(i.path) for i in items] == [
        "image0.jpg", "a.png", "image2.jpg", "image3.jpg", "image4.jpg", "a.png",
        "IMG1.JPG", "img2.png", "img10.png", "image9.jpg", "image10.jpg",
    ]  # fmt: skip
    assert load_sources(tuple(given)).total == 11


def test_list_of_patterns_list_files_and_videos(tmp_path: Path, folder: Path) -> None:
    (folder / "list.txt").write_text("sub/deep.png\n")
    given = [f"{folder}/img*.png", folder / "list.txt", *os.scandir(os.fsencode(folder / "sub"))]
    assert names(given) == ["img2.png", "img10.png", "deep.png", "deep.png"]
    source = load_sources([*given, write_video(tmp_path / "clip.avi", [BGR] * 3), BGR])
    assert source.total is None  # unknown until the video ends
    assert [item.index for item in source] == [0, 1, 2, 3, 4, 4, 4, 5]


def test_list_goes_on_after_bad_files(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    items = list(load_sources([bad, good, tmp_path / "none.png", b"no", tmp_path / "empty", good]))
    assert [i.error is None for i in items] == [False, True, False, False, False, True]


# --- any source


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, "source is None; accepted: a path"),
        (True, TypeError, "source is True"),
        ("", ValueError, "empty string"),
        ("  ", ValueError, "empty string"),
        (-1, ValueError, "camera number"),
        (1.5, TypeError, "a float"),
        ({"a": 1}, TypeError, "a dict"),
        ({BGR.tobytes()}, TypeError, "a set"),
        ("screen 0", ValueError, "screen"),
        (" Screen 0 10 20 300 200", ValueError, "screen"),
        ("screen shot 1.png", FileNotFoundError, "no such file"),
        ("s3://bucket/a.png", ValueError, "not a supported address"),
        ("ftp://me:word@host/a.png", ValueError, r"'ftp://me:\*\*\*@host/a\.png' is not a supported address"),
        (["rtsp://me:word@host"], ValueError, r"'rtsp://me:\*\*\*@host' is a stream"),
        (Path("https://example.com/a.png"), ValueError, "pass it as str"),
        ("a\0b.png", FileNotFoundError, "no such file"),
        ("x" * 5000, FileNotFoundError, "no such file"),
        ([], ValueError, "empty list"),
        ([BGR, None], TypeError, r"source\[1\]: a NoneType"),
        ([BGR, 0], TypeError, r"source\[1\]: 0 is a camera number: pass it alone"),
        ([BGR, False], TypeError, r"source\[1\]: a bool can't be a source"),
        ([BGR / 255], ValueError, r"source\[0\]: .*scale"),
        ([BGR, ""], ValueError, r"source\[1\]: an empty string"),
        ([BGR, "rtsp://camera"], ValueError, r"source\[1\]: .*\.streams"),
        ([[BGR]], TypeError, r"source\[0\]: a list"),
        (["/nowhere/a.png", "/nowhere/b.png"], FileNotFoundError, "none of the 2 files"),
    ],
)
def test_invalid_sources_are_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_sources(given)


def test_closing_stops_the_iteration(folder: Path) -> None:
    source = load_sources(folder)
    seen = []
    for item in source:
        seen.append(item)
        source.close()
    assert len(seen) == 1


@pytest.mark.parametrize(("stride", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError)])
def test_stride_is_checked(stride: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="vid_stride"):
        load_sources(BGR, vid_stride=stride)
    load_sources(BGR, vid_stride=np.int64(2))  # type: ignore[arg-type]
