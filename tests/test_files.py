"""Tests of atomic writing: files are complete or absent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastsam_core._files import atomic_path, cache_folder, check_writable, opencv_path, save_tensors, write_text


def test_written_file_replaces_the_old_one_without_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "new" / "labels.txt"
    for text in ("old", "ä new one"):
        write_text(target, text)
        assert target.read_text(encoding="utf-8") == text
    assert list(target.parent.iterdir()) == [target]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "image.png"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_file_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    plain = os.replace
    monkeypatch.setattr(os, "fsync", lambda file: steps.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda *paths: steps.append("replace") or plain(*paths))
    write_text(str(tmp_path / "labels.txt"), "x")
    assert steps == ["fsync", "replace"] and (tmp_path / "labels.txt").read_text() == "x"


def test_unfinished_file_is_in_the_given_folder(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    for folder in (tmp_path / "scratch", str(tmp_path / "scratch")):
        with atomic_path(tmp_path / "new" / "labels.txt", folder) as temporary:
            assert temporary.parent == tmp_path / "scratch" and temporary.read_bytes() == b""
            temporary.write_text("x")
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "new" / "labels.txt"]


def test_files_with_long_names_are_written(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250 + ".txt")
    write_text(target, "x")
    assert target.read_text() == "x"
    emoji = tmp_path / ("\U0001f600" * 60 + ".jpg")  # 244 bytes; file systems allow 255
    write_text(emoji, "y")
    assert emoji.read_text() == "y"


@pytest.mark.skipif(os.name != "posix", reason="permissions are a POSIX thing")
def test_files_have_the_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text(tmp_path / "written", "x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "written")}
    assert len(modes) == 1


def test_opencv_gets_bytes_only_for_paths_that_are_not_utf8() -> None:
    # OpenCV 4.8 doesn't accept bytes.
    assert opencv_path(Path("photos/ä 1.png")) == str(Path("photos/ä 1.png"))
    if os.name == "posix":
        assert opencv_path(os.fsdecode(b"photos/\xe4.png")) == b"photos/\xe4.png"


def test_home_is_set_by_fastsam_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSAM_HOME", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("FASTSAM_HOME", "~no_such_user/models")
    assert cache_folder() == Path("~no_such_user/models")
    monkeypatch.delenv("FASTSAM_HOME")
    assert cache_folder().name == "fastsam_core"


def test_tensors_that_share_memory_are_saved_separately(tmp_path: Path) -> None:
    rows = torch.arange(12.0).reshape(3, 4)
    tensors = {"rows": rows, "again": rows, "part": rows[1:], "turned": rows.T, "none": torch.zeros(0)}
    save_tensors(tensors, tmp_path / "all.safetensors")
    found = load_file(tmp_path / "all.safetensors")
    assert set(found) == set(tensors) and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_check_folder_finds_unwritable_folders_and_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable("")
    check_writable("new/deeper")
    (tmp_path / "file").touch()
    for folder in ("file", "file/deeper"):
        with pytest.raises(NotADirectoryError) as in_the_way:
            check_writable(folder)
        assert in_the_way.value.filename == str(tmp_path / "file")
    (tmp_path / "file").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # the superuser may write anywhere
    for folder in ("", "new/deeper"):
        with pytest.raises(PermissionError) as caught:
            check_writable(folder)
        assert caught.value.filename == str(tmp_path)
    assert not any(tmp_path.iterdir())


def test_check_folder_names_a_missing_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("exists", "is_dir"):
        monkeypatch.setattr(Path, method, lambda path: False)
    with pytest.raises(NotADirectoryError) as caught:
        check_writable(tmp_path / "new")
    assert caught.value.filename == tmp_path.anchor
