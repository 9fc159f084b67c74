"""Tests how sources become keys of images: which files are listed, and how label files are named."""

from __future__ import annotations

import ntpath
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsam_core.annotate.file_list import _from_entries, default_label_name, file_key, find_renames, list_files
from fastsam_core.annotate.loading import _with_unique_names
from fastsam_core.sources.item import Item, Source
from fastsam_core.sources.paths import Entry


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_folder_is_listed_recursively(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "lost+found/f.jpg",
        "b.jpg",
        "a/x.PNG",
        "a/c/y.webp",
        "a/notes.txt",
        ".hidden/z.jpg",
        ".z.jpg",
        "clip.mp4",
    )
    files = list_files(tmp_path)
    assert files is not None
    assert files.keys == ["a/c/y.webp", "a/x.PNG", "b.jpg", "clip.mp4"]
    assert files.path("a/x.PNG") == str(tmp_path / "a" / "x.PNG")
    assert [files.label_name(key) for key in files.keys] == ["a/c/y", "a/x", "b", "clip"]


def test_output_folder_is_not_listed(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "labels/png/b.png")
    files = list_files(tmp_path, tmp_path / "labels")
    assert files is not None and files.keys == ["b.jpg"]
    files = list_files(tmp_path, tmp_path)
    assert files is not None and files.keys == ["b.jpg", "labels/png/b.png"]


def test_symbolic_links_are_followed_without_cycles(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "elsewhere/b.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "images" / "more")
    os.symlink(tmp_path / "images", tmp_path / "images" / "round")
    os.symlink(tmp_path / "images", tmp_path / "elsewhere" / "back")
    files = list_files(tmp_path / "images")
    assert files is not None and files.keys == ["a.jpg", "more/b.jpg"]
    os.symlink("itself.jpg", tmp_path / "images" / "itself.jpg")  # an image that can't be read
    os.symlink("itself", tmp_path / "images" / "itself")
    files = list_files(tmp_path / "images")
    assert files is not None and files.keys == ["a.jpg", "itself.jpg", "more/b.jpg"]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/notes.txt")
    with pytest.raises(FileNotFoundError, match=r"no image or video in the folder .* or below it"):
        list_files(tmp_path)


def test_keys_of_patterns_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/a/1.jpg", "set/b/1.jpg", "set/b/2.jpg", "other/3.jpg")
    pattern = list_files(str(tmp_path / "set" / "**" / "*.jpg"))
    assert pattern is not None and pattern.root == str(tmp_path / "set")
    assert pattern.keys == ["a/1.jpg", "b/1.jpg", "b/2.jpg"]
    # The root is the fixed part of the pattern, whichever files match.
    fewer = list_files(str(tmp_path / "set" / "**" / "2.jpg"))
    assert fewer is not None and fewer.keys == ["b/2.jpg"]
    (tmp_path / "set" / "list.txt").write_text("a/1.jpg\nb/1.jpg\nb/1.jpg\n")
    listed = list_files(tmp_path / "set" / "list.txt")
    assert listed is not None and listed.root == str(tmp_path / "set") and listed.keys == ["a/1.jpg", "b/1.jpg"]
    chosen = list_files([tmp_path / "other" / "3.jpg", str(tmp_path / "set" / "b" / "2.jpg")])
    assert chosen is not None and chosen.root == str(tmp_path) and chosen.keys == ["other/3.jpg", "set/b/2.jpg"]
    monkeypatch.chdir(tmp_path / "set")
    assert (relative := list_files("*/1.jpg")) is not None and relative.keys == ["a/1.jpg", "b/1.jpg"]
    single = list_files(tmp_path / "other" / "3.jpg")
    assert single is not None and single.keys == ["3.jpg"]


def test_files_on_drives_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [Entry("image", path) for path in (r"C:\set\a.jpg", r"c:\set\more\b.jpg", r"D:\c.jpg")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        patch.setattr(os, "sep", "\\")
        beside, elsewhere = _from_entries(entries[:2], "C:\\"), _from_entries(entries[:2], r"D:\lists")
        with pytest.raises(ValueError) as caught:
            _from_entries(entries, "C:\\")
    assert beside is not None and elsewhere is not None
    assert (beside.root, beside.keys) == ("C:\\", ["set/a.jpg", "set/more/b.jpg"])
    assert (elsewhere.root, elsewhere.keys) == (r"C:\set", ["a.jpg", "more/b.jpg"])
    assert str(caught.value).startswith(
        "files on the drives C: and D: have no folder in common; label the files of each"
    )


def test_pattern_skips_output_folder(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.jpg", "set/labels/preview.jpg", "set/labels/png/a.png")
    for pattern in ("**/*", "**/*.*g"):
        found = list_files(str(tmp_path / "set" / pattern), tmp_path / "set" / "labels")
        assert found is not None and found.keys == ["a.jpg"]
    # An output folder that contains the images must not exclude them.
    for output in (tmp_path, tmp_path / "set"):
        found = list_files(str(tmp_path / "set" / "*.jpg"), output)
        assert found is not None and found.keys == ["a.jpg"]


def test_sources_that_are_no_files_give_none(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    image = np.zeros((8, 8, 3), np.uint8)
    assert list_files([image]) is None
    assert list_files(image) is None
    assert list_files(["https://example.org/a.jpg", str(tmp_path / "a.jpg")]) is None
    assert list_files("rtsp://camera/1") is None
    for other in (tmp_path, tmp_path / "missing.jpg"):
        assert list_files([tmp_path / "a.jpg", other]) is None
    (tmp_path / "list.txt").write_text("https://example.org/a.jpg\na.jpg\n")
    assert list_files(tmp_path / "list.txt") is None


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a.jpg", "a.png", "b.jpg"], {"a.png": "a-2"}),
        (["a-2.jpg", "a.jpg", "a.png"], {"a.png": "a-3"}),
        (["A.jpg", "a.png"], {"a.png": "a-2"}),
        (["x/a.jpg", "y/a.jpg"], {}),
        (["A/x.jpg", "a/x.jpg"], {"a/x.jpg": "a/x-2"}),
        (["clip.avi", "clip.jpg", "clip.mp4"], {"clip.mp4": "clip-2"}),
        (["clip.mp4", "clip_0.jpg"], {"clip.mp4": "clip-2"}),
        (["CLIP_12.jpg", "clip-2_7.jpg", "clip.mp4"], {"clip.mp4": "clip-3"}),
        (["clip.mp4", "clip_.jpg", "clip_0_a.jpg", "clip_0_1.jpg", "clip_x.jpg"], {}),
        (["a.b.jpg", "a.jpg"], {}),
    ],
)
def test_names_of_label_files(keys: list[str], expected: dict[str, str]) -> None:
    assert find_renames(keys) == expected


def test_images_of_other_sources_are_called_by_the_last_part_of_their_address() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    addresses = (
        "https://host/a/photo.jpg?signature=ab/cd",
        "https://host/b/PHOTO.png?x=1#y/z",
        "/images/what?.jpg",
        "image0.jpg",
        "https://host/photo-2",
    )
    items = [Item(image, address) for address in addresses]
    items += [Item(image, "rtsp://host/camera?id=1/2", frame=frame, kind="stream") for frame in (0, 7)]
    loaded = list(_with_unique_names(Source("iterator", lambda: iter(items))))
    expected = ["photo.jpg", "PHOTO-2.png", "what?.jpg", "image0.jpg", "photo-2-2", "camera_0", "camera_7"]
    assert [one.key for one in loaded] == [one.file_name for one in loaded] == expected
    assert [one.label_name for one in loaded] == [os.path.splitext(name)[0] for name in expected]
    assert len({one.digest for one in loaded}) == 1 and loaded[0].digest


def test_images_of_equal_names_are_numbered() -> None:
    names = ["a.jpg", "a-2.jpg", "a.jpg", "a.png", "A.jpg", "a-2.jpg", "b.jpg"]
    loaded = _with_unique_names(Source("iterator", lambda: iter(Item(None, name) for name in names)))
    expected = ["a.jpg", "a-2.jpg", "a-3.jpg", "a-4.png", "A-5.jpg", "a-2-2.jpg", "b.jpg"]
    assert [one.key for one in loaded] == expected


def test_listed_files_have_different_label_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png")
    files = list_files(tmp_path)
    assert files is not None and [files.label_name(key) for key in files.keys] == ["a", "a-2"]


@pytest.mark.parametrize(
    ("key", "file", "name"),
    [
        ("x/a.jpg", "x/a.jpg", "x/a"),
        ("x/v.mp4", "x/v.mp4", "x/v"),
        ("x/v.mp4#12", "x/v.mp4", "x/v_12"),
        ("v#1.mp4#2", "v#1.mp4", "v#1_2"),
        ("v.mp4#cover.jpg", "v.mp4#cover.jpg", "v.mp4#cover"),  # a file of this name
        ("a.jpg#3", "a.jpg#3", "a"),
    ],
)
def test_frames_are_called_by_their_video_and_number(key: str, file: str, name: str) -> None:
    assert (file_key(key), default_label_name(key)) == (file, name)


@given(
    st.sets(
        st.builds(
            lambda folder, stem, suffix: f"{folder}{stem}{suffix}",
            st.sampled_from(["", "a/", "A/", "a/b/"]),
            st.sampled_from(["x", "X", "x-2", "x-3", "x_1", "y"]),
            st.sampled_from([".jpg", ".png", ".JPG", ".mp4", ".avi"]),
        ),
        max_size=30,
    )
)
def test_label_names_are_unique(keys: set[str]) -> None:
    """Names differ also on file systems that ignore case, and include those of video frames."""
    renamed = find_renames(sorted(keys))
    taken: list[str] = []
    for key in sorted(keys):
        name = renamed.get(key, os.path.splitext(key)[0]).casefold()
        is_clip = key.lower().endswith((".mp4", ".avi"))
        taken += [f"{name}_{frame}" for frame in range(3)] if is_clip else [name]
    assert len(set(taken)) == len(taken)
