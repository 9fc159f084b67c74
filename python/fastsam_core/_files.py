"""File helpers: the cache folder for downloads, and atomic writes."""

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

_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> Path:
    """Return the folder for downloaded checkpoints: `FASTSAM_HOME`, or the platform's cache folder for fastsam_core."""
    override = os.environ.get("FASTSAM_HOME")
    if override:
        return Path(os.path.expanduser(override))
    from platformdirs import user_cache_path

    return Path(user_cache_path("fastsam_core", appauthor=False))


def opencv_path(path: str | os.PathLike[str]) -> Any:
    """Return a path in a form that OpenCV accepts: str, or bytes if it is not valid UTF-8.

    OpenCV before 4.12 accepts only str, and a str that can't be encoded as UTF-8 crashes the process.
    """
    text = os.fsdecode(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def relative_posix(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """Return `path` relative to `folder`, with "/" on every system; the absolute path if they are on two drives."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # different drives, on Windows only
        return Path(path).absolute().as_posix()


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise an error if files can't be written in `folder` or it can't be created, so that a run fails before its work.

    That is PermissionError for a read-only folder, and NotADirectoryError if a file is in the way.
    """
    path = Path(folder).absolute()
    # On Windows the drive may be missing; it is named then.
    existing = next((candidate for candidate in (path, *path.parents) if candidate.exists()), Path(path.anchor))
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(existing))
    if not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(existing))


@contextmanager
def atomic_path(
    target: str | os.PathLike[str], temporary_folder: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is flushed to disk and renamed to `target`.

    temporary_folder: another folder on the same file system for the temporary file. A killed process leaves that file
    behind, and the owner of the folder can delete it there.
    Parent folders are created. The temporary name keeps the suffix, because image and tensor writers depend on it.
    On any error the temporary file is removed and `target` is left as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent if temporary_folder is None else Path(temporary_folder)
    # File systems limit names in bytes, and a character can take four.
    stem = os.fsencode(target.stem)[:64].decode(errors="ignore")
    temporary = folder / f".{stem}.{secrets.token_hex(8)}{target.suffix}"
    try:
        # Created here, so that it gets the default permissions and never overwrites another file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        with open(temporary, "r+b") as file:  # Windows can only flush files that are open for writing
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        # Name the target: errors of a full disk name no file, and others name the temporary one, unknown to users.
        if error.filename in (temporary, os.fspath(temporary)) or (
            error.filename is None and error.errno in _DISK_FULL_ERRORS
        ):
            raise OSError(error.errno, error.strerror, os.fspath(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def append_text(target: str | os.PathLike[str], text: str) -> None:
    """Append `text` as UTF-8 to a file. If it can't be written completely, restore the file and raise OSError."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    is_new = not target.exists()
    with open(target, "ab", buffering=0) as file:
        original_size = file.seek(0, os.SEEK_END)
        remaining = memoryview(text.encode("utf-8"))
        try:
            while remaining:
                remaining = remaining[file.write(remaining) :]
        except OSError as error:
            file.truncate(original_size)
            if is_new:
                target.unlink()
            error.filename = error.filename or os.fspath(target)
            raise


def save_tensors(
    tensors: Mapping[str, Tensor], target: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically. Raises OSError if that fails.

    tensors: on any device and with any strides; tensors that share memory are written as separate copies.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    unshared: dict[str, Tensor] = {}
    seen_storages: set[int] = set()  # only tensors that share a storage are copied, as checkpoints are large
    for name, tensor in tensors.items():
        contiguous = tensor.detach().cpu().contiguous()
        address = contiguous.untyped_storage().data_ptr()
        unshared[name] = contiguous.clone() if address in seen_storages else contiguous
        seen_storages.add(address)
    with atomic_path(target) as temporary:
        try:
            save_file(unshared, temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise OSError(f"{os.fspath(target)} can't be written: {error}") from error


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to a file, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(text.encode())
