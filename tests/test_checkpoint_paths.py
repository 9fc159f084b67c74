"""Tests of locating and fetching official files; those without a published hash must equal the first download."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from fastsam_core.models.checkpoint_paths import download_official, find_checkpoint
from fastsam_core.models.checksums import BY_FILE_NAME, Checksum
from local_server import FileServer, serve

FIRST, SECOND = b"first" * 1000, b"other" * 1000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FASTSAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_later_downloads_must_match_the_recorded_hash(home: Path) -> None:
    note = home / "yolo.pt.sha256"
    with serve(FileServer(FIRST)) as address:
        assert download_official("yolo.pt", [f"{address}/yolo.pt"]) == home / "yolo.pt"
    assert note.read_text() == f"{hashlib.sha256(FIRST).hexdigest()}  yolo.pt\n"
    (home / "yolo.pt").unlink()
    with serve(FileServer(FIRST)) as address:
        assert download_official("yolo.pt", [f"{address}/yolo.pt"]).read_bytes() == FIRST
    (home / "yolo.pt").unlink()
    with serve(FileServer(SECOND)) as address:
        with pytest.raises(ValueError, match=r"its sha256 is .*yolo\.pt\.sha256 has it from an earlier download"):
            download_official("yolo.pt", [f"{address}/yolo.pt"])
        assert os.listdir(home) == ["yolo.pt.sha256"]
        note.unlink()
        assert download_official("yolo.pt", [f"{address}/yolo.pt"]).read_bytes() == SECOND


def test_published_hash_or_size_mismatch_does_not_suggest_deleting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for facts in (Checksum(hashlib.sha256(FIRST).hexdigest()), Checksum(size=len(SECOND) + 1)):
        monkeypatch.setitem(BY_FILE_NAME, "known.pt", facts)
        with serve(FileServer(SECOND)) as address, pytest.raises(ValueError) as caught:
            download_official("known.pt", [f"{address}/known.pt"])
        assert "delete" not in str(caught.value) and os.listdir(home) == []


def test_damaged_hash_file_is_ignored_and_rewritten(home: Path) -> None:
    home.mkdir()
    note = home / "yolo.pt.sha256"
    for text in (b"", b"abc", b"\xff\xfe" * 40):
        note.write_bytes(text)
        with serve(FileServer(FIRST)) as address:
            download_official("yolo.pt", [f"{address}/yolo.pt"])
        assert note.read_text().split() == [hashlib.sha256(FIRST).hexdigest(), "yolo.pt"]
        (home / "yolo.pt").unlink()


def test_files_are_found_in_the_working_directory_then_home(home: Path) -> None:
    official = {"yolo.pt": ("http://127.0.0.1:9/yolo.pt",)}
    home.mkdir()
    (home / "yolo.pt").write_bytes(b"home")
    assert find_checkpoint("yolo.pt", official) == home / "yolo.pt"
    Path("yolo.pt").write_bytes(b"here")
    assert find_checkpoint("yolo.pt", official) == Path("yolo.pt")
    with pytest.raises(FileNotFoundError, match=r"no official model .*\(yolo\.pt\); did you mean 'yolo\.pt'"):
        find_checkpoint("yoloo.pt", official)
    with pytest.raises(FileNotFoundError, match=r"the folder ~no_such_user does not exist"):
        find_checkpoint("~no_such_user/yolo.pt", official)
    with pytest.raises(TypeError, match="not a int"):
        find_checkpoint(3, official)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty string"):
        find_checkpoint(" ", official)


def test_name_of_a_model_on_a_hub_is_answered_with_what_to_give_instead() -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder facebook does not exist; .* its downloaded model"):
        find_checkpoint("facebook/sam-vit-base", {})
    with pytest.raises(FileNotFoundError, match=r"the folder weights does not exist$"):
        find_checkpoint("weights/mine.pt", {})


def test_folders_and_devices_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a file but a folder; give the checkpoint within it"):
        find_checkpoint(tmp_path, {})
    with pytest.raises(ValueError, match="is not a regular file"):
        find_checkpoint(os.devnull, {})
