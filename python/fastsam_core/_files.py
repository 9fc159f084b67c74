"""Files: where downloads and caches live, and writes that are whole or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def home() -> Path:
    """The folder for downloaded checkpoints: `FASTSAM_HOME`, or the platform's cache folder for fastsam_core."""
    chosen = os.environ.get("FASTSAM_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return Path(user_cache_path("fastsam_core", appauthor=False))


def for_opencv(path: str | os.PathLike[str]) -> Any:
    """A path as OpenCV takes it: before 4.12 text alone; and the process dies of text that is not UTF-8."""
    text = os.fsdecode(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def seen_from(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """`path` relative to `folder`, with "/" on every system; the whole of it where they lie on two drives."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # Windows alone
        return Path(path).absolute().as_posix()


def check_folder(folder: str | os.PathLike[str]) -> None:
    """PermissionError where files can't be written in `folder`, or it can't be made: for before the work, not after."""
    path = Path(folder).absolute()
    there = next(one for one in (path, *path.parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(there))


@contextmanager
def atomic_path(target: str | os.PathLike[str], scratch: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is flushed to disk and renamed to `target`.

    scratch: a folder of the same file system for the temporary file instead, which a process that is killed leaves
    behind: whoever owns the folder can clear it.
    Parents are created. The temporary name keeps the suffix, because image and tensor writers go by it.
    On any error the temporary file is removed and `target` is left as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent if scratch is None else Path(scratch)
    # File systems count bytes, and a letter may have four.
    stem = os.fsencode(target.stem)[:64].decode(errors="ignore")
    temporary = folder / f".{stem}.{secrets.token_hex(8)}{target.suffix}"
    try:
        # Made here, so that it has the permissions that users' files have, and never takes another file's place.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        with open(temporary, "r+b") as file:  # Windows flushes what is open for writing
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        # Of a full disk the system names no file, and else it names one that nobody knows.
        if error.filename in (temporary, os.fspath(temporary)) or (error.filename is None and error.errno in _FULL):
            raise OSError(error.errno, error.strerror, os.fspath(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def append_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 at the end of a file, or nothing of it where not all can be written."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    is_new = not target.exists()
    with open(target, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        left = memoryview(text.encode("utf-8"))
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            file.truncate(before)
            if is_new:
                target.unlink()
            error.filename = error.filename or os.fspath(target)
            raise


def save_tensors(
    tensors: Mapping[str, Tensor], target: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, atomically. OSError where that can't be done.

    tensors: on any device and in any layout; those that share memory are written apart.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    apart: dict[str, Tensor] = {}
    memory: set[int] = set()  # a checkpoint is large: only what shares is copied
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        begin = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if begin in memory else plain
        memory.add(begin)
    with atomic_path(target) as temporary:
        try:
            save_file(apart, temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise OSError(f"{os.fspath(target)} can't be written: {error}") from error


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(text.encode())
