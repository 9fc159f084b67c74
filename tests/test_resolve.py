"""Resolving model names to files: search order, downloads, and error messages for missing checkpoints."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fastsam_core.models import checkpoint, checksums, registry
from fastsam_core.models.checkpoint import load_model, resolve
from local_server import FileServer, reply, serve
from weights_examples import NANO, State, empty_folders, nano_state, touch


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return empty_folders(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def nano() -> State:
    return nano_state()


# --- folders


def test_current_folder_precedes_the_home_folder(folders: tuple[Path, Path]) -> None:
    here, home = folders
    for name in ("sam_b.pt", "sam_vit_b_01ec64.pth", "my.safetensors", "sub/my.pt"):
        stored = touch(home, name)
        assert resolve(name) == resolve(Path(name)) == stored
        local = touch(here, name)
        assert resolve(name) == Path(name) and resolve(local) == local
        local.unlink()


def test_official_file_is_found_by_all_its_names(folders: tuple[Path, Path]) -> None:
    here, home = folders
    stored = touch(home, "sam_vit_b_01ec64.pth")
    assert resolve("sam_b.pt") == resolve("sam_b") == stored
    local = touch(here, "sam_b.pt")
    assert resolve("sam_b").resolve() == local
    assert resolve("sam_vit_b_01ec64.pth") == stored  # Meta's file name doesn't mean another file of this folder


def test_folder_named_like_a_model_is_skipped(folders: tuple[Path, Path]) -> None:
    here, home = folders
    (here / "sam_b").mkdir()
    stored = touch(home, "sam_b.pt")
    assert resolve("sam_b") == stored
    (here / "mine").mkdir()
    with pytest.raises(ValueError, match="a folder"):
        resolve("mine")


def test_bundled_model_is_found_after_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: tuple[Path, Path], nano: State
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(checkpoint.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="install fastsam_core again"):
        resolve("sam_nano")
    half = {key: value.half() if value.is_floating_point() else value for key, value in nano.items()}
    save_file(half, tmp_path / "weights" / "sam_nano.safetensors")
    for name in ("sam_nano", "sam_nano.pt", "sam_nano.safetensors"):
        assert resolve(name) == tmp_path / "weights" / "sam_nano.safetensors"
    assert load_model("sam_nano.pt").name == NANO
    stored = touch(folders[1], "sam_nano.pt")
    assert resolve("sam_nano.pt") == stored


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("sam_bb.pt", FileNotFoundError, r"no checkpoint 'sam_bb\.pt'.*did you mean 'sam_b\.pt'\?"),
        ("sam_vit_b.pth", FileNotFoundError, r"did you mean 'sam_vit_b_01ec64\.pth'\?"),
        ("FastSAM-s.pt", FileNotFoundError, r"FastSAM\(\.\.\.\) load such checkpoints.*no checkpoint 'FastSAM-s\.pt'"),
        ("sam2.1_b.pt", FileNotFoundError, r"SAM 2 and SAM 3 are not supported; no checkpoint 'sam2\.1_b\.pt'"),
        ("mobilesam", FileNotFoundError, r"did you mean 'mobile_sam'\?"),
        ("yolov8n.pt", FileNotFoundError, r"YOLO\(\.\.\.\) and .*no official model of that name \(sam_b, sam_l"),
        ("nowhere/sam_b.pt", FileNotFoundError, r"nowhere does not exist; 'sam_b\.pt' without the folder stands for"),
        ("/tmp/../none.pt", FileNotFoundError, r"no checkpoint none\.pt in"),
        ("~no_such_user/sam.pt", FileNotFoundError, r"the folder ~no_such_user does not exist"),
        ("", ValueError, "empty string"),
        ("  ", ValueError, "empty string"),
        (os.devnull, ValueError, "is not a regular file"),
        (3, TypeError, "not a int"),
        (["sam_b.pt"], TypeError, "not a list"),
    ],
)
def test_missing_or_invalid_checkpoints_raise(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(model)


def test_typo_suggests_files_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "finetuned.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for folder in (str(tmp_path), "~"):
        with pytest.raises(FileNotFoundError, match=r"did you mean .*finetuned\.pt"):
            resolve(f"{folder}/fine_tuned.pt")


def test_none_means_sam_b(folders: tuple[Path, Path]) -> None:
    touch(folders[1], "sam_b.pt")
    with pytest.raises(ValueError, match=r"home.sam_b\.pt is not a"):
        load_model(None)


# --- downloads


@pytest.fixture
def mobile(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return bytes that are published as mobile_sam.pt, with their size and hash, during a test."""
    data = bytes(range(256)) * 1200
    checksum = checksums.Checksum(hashlib.sha256(data).hexdigest(), len(data))
    monkeypatch.setitem(checksums.BY_FILE_NAME, "mobile_sam.pt", checksum)
    return data


def at(monkeypatch: pytest.MonkeyPatch, name: str, *urls: str) -> None:
    monkeypatch.setitem(registry.MODELS, name, replace(registry.MODELS[name], urls=urls))


def test_download_resumes_into_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, mobile: bytes, folders: tuple[Path, Path]
) -> None:
    here, home = folders
    server = FileServer(mobile, broken=1)
    with serve(server) as address:
        at(monkeypatch, "mobile_sam", f"{address}/mobile_sam.pt")
        monkeypatch.setattr("fastsam_core.models.download.time.sleep", lambda seconds: None)
        assert resolve("mobile_sam").read_bytes() == mobile
        assert resolve("mobile_sam.pt") == home / "mobile_sam.pt"
    assert [request is None for request in server.requests] == [True, False]
    assert os.listdir(home) == ["mobile_sam.pt"] and os.listdir(here) == []


def test_error_for_home_that_is_a_file_names_fastsam_home(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setenv("FASTSAM_HOME", os.path.abspath("file"))
    with pytest.raises(OSError, match="FASTSAM_HOME can name another one"):
        load_model("sam_b.pt")


def test_download_with_another_hash_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, mobile: bytes, folders: tuple[Path, Path]
) -> None:
    with serve(FileServer(mobile[:-1] + b"x")) as address:
        at(monkeypatch, "mobile_sam", f"{address}/mobile_sam.pt")
        with pytest.raises(ValueError, match=r"its sha256 is .*, expected "):
            resolve("mobile_sam.pt")
    assert os.listdir(folders[1]) == []


def test_hash_of_local_files_is_not_checked(mobile: bytes, folders: tuple[Path, Path]) -> None:
    for folder in folders:
        path = touch(folder, "mobile_sam.pt")
        assert resolve("mobile_sam.pt").resolve() == path
        path.unlink()


def test_download_falls_back_to_the_second_address(
    monkeypatch: pytest.MonkeyPatch, mobile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(handler: Any) -> None:
        if handler.path.startswith("/first"):
            reply(handler, b"gone", 404)
        else:
            reply(handler, mobile)

    with serve(answer) as address, caplog.at_level(logging.WARNING, "fastsam_core"):
        at(monkeypatch, "mobile_sam", f"{address}/first/mobile_sam.pt", f"{address}/second/mobile_sam.pt")
        assert resolve("mobile_sam.pt").read_bytes() == mobile
    assert any("answers 404" in record.getMessage() for record in caplog.records)


def test_meta_file_name_is_downloaded_only_from_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(handler: Any) -> None:
        asked.append(handler.path)
        reply(handler, b"", 404)

    with serve(answer) as address:
        at(monkeypatch, "sam_b", f"{address}/sam_vit_b_01ec64.pth", f"{address}/assets/sam_b.pt")
        with pytest.raises(ConnectionError, match=r"sam_vit_b_01ec64\.pth is neither in .*home.*answers 404"):
            load_model("sam_vit_b_01ec64.pth")
        assert asked == ["/sam_vit_b_01ec64.pth"]
        with pytest.raises(ConnectionError, match=r"save it as .*sam_b\.pt"):
            load_model("sam_b.pt")
        assert asked == ["/sam_vit_b_01ec64.pth"] * 2 + ["/assets/sam_b.pt"]


def test_published_hashes_and_sizes_are_plausible() -> None:
    for checksum in checksums.BY_FILE_NAME.values():
        assert checksum.sha256 is not None and len(bytes.fromhex(checksum.sha256)) == 32
        assert checksum.size is not None and checksum.size > 4e7
    # Four bytes per parameter plus up to 300 kB for names. A missing digit in a size would fail.
    for name, file in (("sam_b", "sam_vit_b_01ec64.pth"), ("sam_l", "sam_vit_l_0b3195.pth")):
        size = checksums.BY_FILE_NAME[file].size
        values = sum(torch.Size(shape).numel() for shape in checkpoint._expected_shapes(registry.MODELS[name]).values())
        assert size is not None and 0 <= size - 4 * values < 300_000
