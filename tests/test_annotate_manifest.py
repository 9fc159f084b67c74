"""Tests the manifest of an annotation run: what is read back, also after crashes, and which files are refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastsam_core import _locks
from fastsam_core.annotate.dataset_files import names_of_classes
from fastsam_core.annotate.manifest import (
    FORMAT,
    History,
    Manifest,
    fingerprint,
    is_started,
    read_history,
    remove_other_manifests,
)
from fastsam_core.annotate.run import data_identity, default_output_dir
from fastsam_core.annotate.shards import UNSHARDED, Shard

SETTINGS = {"det_model": "yolo", "conf": 0.25}


def ok(key: str, *classes: tuple[int, str, int]) -> dict[str, Any]:
    return {"key": key, "status": "ok", "classes": [list(entry) for entry in classes]}


def write(folder: Path, *lines: dict[str, Any], shard: Shard = UNSHARDED, resume: bool = True) -> Path:
    manifest = Manifest(folder, SETTINGS, shard, resume)
    for line in lines:
        manifest.append(line)
    manifest.close()
    return manifest.path


def test_manifest_round_trip(tmp_path: Path) -> None:
    assert not is_started(tmp_path)
    write(tmp_path, ok("a", (0, "cup", 2), (1, "dish", 1)), {"key": "b", "status": "error", "error": "broken"})
    write(tmp_path, ok("c"), {"key": "v.mp4", "status": "video"}, shard=Shard(1, 3))
    assert is_started(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest-1-of-3.jsonl", "manifest.jsonl"]
    history = read_history(tmp_path, SETTINGS)
    assert history.finished == {"a", "c"} and history.failed == {"b": "broken"} and history.videos == {"v.mp4"}
    assert history.class_counts == {(0, "cup"): 2, (1, "dish"): 1} and history.num_empty == 1
    assert read_history(tmp_path, SETTINGS, lambda key: key == "c").finished == {"c"}
    header = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])
    assert header["settings"] == SETTINGS and header["fingerprint"] == fingerprint(SETTINGS)


def test_lines_are_flushed_once_a_second_and_at_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    flushed: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("os.fsync", lambda file: flushed.append(now))
    manifest = Manifest(tmp_path, SETTINGS)
    for now in (5.5, 6.0, 6.5, 7.25, 7.5):
        manifest.append(ok(f"{now}.jpg"))
    assert flushed == [5.0, 6.0, 7.25]
    manifest.close()
    assert flushed == [5.0, 6.0, 7.25, 7.5]


def test_repeated_lines_of_an_image_count_once(tmp_path: Path) -> None:
    error = {"key": "a", "status": "error", "error": "broken"}
    write(tmp_path, error, ok("a", (0, "cup", 2)), ok("a", (0, "cup", 2)))
    history = read_history(tmp_path, SETTINGS)
    assert history.finished == {"a"} and not history.failed and history.class_counts == {(0, "cup"): 2}


def test_video_that_is_read_to_its_end_has_failed_no_longer(tmp_path: Path) -> None:
    write(tmp_path, {"key": "v.mp4", "status": "error", "error": "broken"}, {"key": "v.mp4", "status": "video"})
    history = read_history(tmp_path, SETTINGS)
    assert history.videos == {"v.mp4"} and not history.failed


def test_last_line_of_a_relabelled_image_counts(tmp_path: Path) -> None:
    """The last line determines classes and failure, also across the manifests of several shards."""
    write(tmp_path, ok("a", (0, "cup", 2)), ok("b"), ok("c", (0, "cup", 1)), ok("b", (1, "dish", 4)))
    write(tmp_path, ok("c") | {"time": 2.0}, {"key": "a", "status": "error", "error": "broken"}, shard=Shard(0, 2))
    path = write(tmp_path, ok("c", (2, "fork", 1)) | {"time": 1.0}, shard=Shard(1, 2))
    os.utime(path, ns=(2**62, 2**62))
    history = read_history(tmp_path, SETTINGS)
    assert history.finished == {"b", "c"} and history.failed == {"a": "broken"}
    assert history.class_counts == {(1, "dish"): 4} and history.num_empty == 1
    only = read_history(tmp_path, SETTINGS, lambda key: key == "b")
    assert only.finished == {"b"} and not only.failed and only.class_counts == {(1, "dish"): 4}


def test_last_label_file_name_counts(tmp_path: Path) -> None:
    write(tmp_path, {**ok("a.png"), "name": "a-2"}, {**ok("b.png"), "name": "b-2"}, ok("v.mp4#7"), ok("b.png"))
    history = read_history(tmp_path, SETTINGS)
    assert [history.label_name(key) for key in ("a.png", "b.png", "v.mp4#7", "c.d.png")] == ["a-2", "b", "v_7", "c.d"]
    path = write(tmp_path, ok("a.png"), shard=Shard(0, 2))
    os.utime(path, ns=(1000, 1000))  # an older run
    assert read_history(tmp_path, SETTINGS).label_name("a.png") == "a-2"
    os.utime(tmp_path / "manifest.jsonl", ns=(0, 0))
    assert read_history(tmp_path, SETTINGS).label_name("a.png") == "a"


def test_manifest_cut_at_any_byte_is_read(tmp_path: Path) -> None:
    """After a cut at any byte, complete lines count, and the next line is not appended to the torn one."""
    whole = write(tmp_path, ok("a"), ok("b"), ok("c")).read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        (tmp_path / "manifest.jsonl").write_bytes(whole[:cut])
        expected = set("abc"[: max(0, sum(end <= cut for end in ends) - 1)])
        assert read_history(tmp_path, SETTINGS).finished == expected
        if cut % 23 == 0:
            write(tmp_path, ok("d"))
            assert read_history(tmp_path, SETTINGS).finished == expected | {"d"}


@pytest.mark.parametrize("size", [1, 65536, 200_000])
def test_torn_line_of_any_length_is_removed(tmp_path: Path, size: int) -> None:
    path = write(tmp_path, *(ok(f"{number:060}.jpg") for number in range(1500)))
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * size)
    write(tmp_path)
    assert path.read_bytes() == whole


def test_damaged_line_is_skipped_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, ok("a"), ok("b"), ok("c"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"key": "x"}\n' + b"\0" * 40 + b"\n" + lines[3])
    assert read_history(tmp_path, SETTINGS).finished == {"c"}
    assert "line 2 can't be read" in caplog.text and "line 3 can't be read" in caplog.text


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    write(tmp_path, ok("a"))
    other = {"det_model": "yolo", "conf": 0.5, "texts": ["dog"]}
    with pytest.raises(ValueError) as caught:
        read_history(tmp_path, other)
    text = str(caught.value)
    assert "conf was 0.25 and is 0.5" in text and 'texts was not given and is ["dog"]' in text
    assert fingerprint(SETTINGS)[:12] in text and fingerprint(other)[:12] in text
    assert "det_model" not in text and "resume=False" in text and str(tmp_path) in text


@pytest.mark.parametrize("content", ["hello\n", "[1]\n", '{"manifest": "another 7"}\n'])
def test_files_that_are_no_manifest_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(ValueError, match="is not a manifest"):
        read_history(tmp_path, SETTINGS)


@pytest.mark.parametrize("header", [{}, {"settings": None}, {"settings": ["conf"]}])
def test_manifest_without_settings_is_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps({"manifest": FORMAT, **header}) + "\n")
    with pytest.raises(ValueError) as caught:
        read_history(tmp_path, SETTINGS)
    assert str(caught.value).startswith(f"{path} is a damaged manifest: its first line has no settings; move it away")


def test_passwords_are_neither_recorded_nor_reported(tmp_path: Path) -> None:
    assert data_identity(None, "rtsp://user:secret@camera/1", tmp_path) == "rtsp://user:***@camera/1"
    assert data_identity(None, Path("cameras.streams"), tmp_path) == "cameras.streams"
    assert data_identity(None, ["rtsp://user:secret@camera/1"], tmp_path) == "list"
    with pytest.raises(ValueError, match=r"got data=\['rtsp://user:\*\*\*@camera/1'\]$"):
        default_output_dir(["rtsp://user:secret@camera/1"])


def test_second_writer_is_refused(tmp_path: Path) -> None:
    first = Manifest(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match=r"another process is writing .*shard="):
        Manifest(tmp_path, SETTINGS)
    Manifest(tmp_path, SETTINGS, Shard(0, 2)).close()
    first.close()
    Manifest(tmp_path, SETTINGS).close()


def test_short_lock_of_another_process_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, waits = iter([False, False, True]), []
    monkeypatch.setattr(_locks, "try_lock", lambda descriptor, path: next(answers))
    monkeypatch.setattr("time.sleep", waits.append)
    Manifest(tmp_path, SETTINGS).close()
    assert waits == [0.05, 0.05]


@pytest.mark.skipif(os.name != "posix", reason="other systems don't remove open files")
def test_manifest_that_is_removed_before_it_is_locked_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, is_first = _locks.try_lock, iter([True])

    def lock(descriptor: int, path: Path) -> bool:
        if next(is_first, False):
            path.unlink()
        return plain(descriptor, path)

    monkeypatch.setattr(_locks, "try_lock", lock)
    write(tmp_path, ok("a"))
    assert read_history(tmp_path, SETTINGS).finished == {"a"}


def test_manifest_that_another_shard_started_afresh_is_kept_and_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(tmp_path, ok("a"), shard=Shard(0, 2))
    new = {**SETTINGS, "conf": 0.5}
    own = Manifest(tmp_path, new, Shard(1, 2), resume=False)
    plain = _locks.try_lock

    def lock_later(descriptor: int, path: Path) -> bool:
        Manifest(tmp_path, new, Shard(0, 2), resume=False).close()  # the other shard is faster
        return plain(descriptor, path)

    with monkeypatch.context() as patch:
        patch.setattr(_locks, "try_lock", lambda *arguments: patch.undo() or lock_later(*arguments))
        remove_other_manifests(own.path, new, Shard(1, 2))
    own.close()
    assert json.loads(old.read_text())["settings"] == new
    Manifest(tmp_path, new, Shard(0, 2)).close()


def test_resume_false_replaces_the_manifest(tmp_path: Path) -> None:
    write(tmp_path, ok("a"))
    write(tmp_path, ok("b"), resume=False)
    assert read_history(tmp_path, SETTINGS).finished == {"b"}


@pytest.mark.parametrize("written", [0, 1, 17])
def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    manifest = Manifest(tmp_path, SETTINGS)
    manifest.append(ok("a"))
    plain = os.write

    calls = iter([True])

    def once_full(file: int, data: bytes) -> int:
        if written and next(calls, False):
            return plain(file, data[:written])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", once_full)
    with pytest.raises(OSError, match="No space left"):
        manifest.append(ok("b"))
    monkeypatch.undo()
    manifest.append(ok("c"))
    manifest.close()
    assert read_history(tmp_path, SETTINGS).finished == {"a", "c"}
    assert (tmp_path / "manifest.jsonl").read_bytes().count(b"\n") == 3


def test_manifest_that_cannot_be_begun_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            Manifest(tmp_path, SETTINGS)
    assert not is_started(tmp_path)
    Manifest(tmp_path, SETTINGS).close()


def test_key_with_undecodable_bytes_round_trips(tmp_path: Path) -> None:
    key = os.fsdecode(b"caf\xe9.jpg")
    write(tmp_path, ok(key))
    assert read_history(tmp_path, SETTINGS).finished == {key}


def test_classes_of_replaced_pixels_are_forgotten() -> None:
    history = History()
    for digest, found in (("one", (3, "dog", 2)), ("other", (1, "cat", 1)), ("other", (1, "cat", 1))):
        history.add(ok("image0", found) | {"digest": digest})
    assert names_of_classes(history) == {1: "cat"} and history.class_counts.total() == 1
