"""Tests of file locks: one holder at a time, while others can still read the file."""

import errno
import os
from pathlib import Path

import pytest

from fastsam_core import _locks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


def test_one_holder_at_a_time(path: Path) -> None:
    first, second = _locks.open_file(path, os.O_CREAT), _locks.open_file(path)
    assert _locks.try_lock(first, path) and not _locks.try_lock(second, path)
    os.close(first)
    assert _locks.try_lock(second, path)
    os.close(second)


def test_locked_file_can_be_appended_to_and_read(path: Path) -> None:
    file = _locks.open_file(path, os.O_CREAT)
    os.write(file, b"one\n")
    assert _locks.try_lock(file, path)
    os.write(file, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    os.close(file)


def test_remove_deletes_and_closes_the_file(path: Path) -> None:
    file = _locks.open_file(path, os.O_CREAT)
    assert _locks.try_lock(file, path) and _locks.is_same_file(file, path)
    _locks.close_and_remove(file, path)
    assert not path.exists()
    with pytest.raises(OSError):
        os.fstat(file)


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
def test_is_still_detects_removed_or_replaced_files(path: Path) -> None:
    file = _locks.open_file(path, os.O_CREAT)
    path.unlink()
    assert not _locks.is_same_file(file, path)
    path.touch()
    assert not _locks.is_same_file(file, path)
    os.close(file)


def test_missing_lock_support_is_logged_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows has another way of locking")

    def unable(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no such function")

    monkeypatch.setattr(fcntl, "flock", unable)
    file = _locks.open_file(path, os.O_CREAT)
    assert [_locks.try_lock(file, path) for _ in range(2)] == [True, True]
    assert [record.message.split(";")[0] for record in caplog.records] == [
        f"files can't be locked ([Errno {errno.ENOSYS}] no such function)"
    ]
    os.close(file)
