"""Exclusive file locks between processes. The system releases a lock when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

from ._log import warn_once

# Offset of the locked byte on Windows, where others can't read locked bytes: the last possible one, beyond the end of
# any file.
_LOCK_OFFSET = 2**31 - 2


def open_file(path: str | os.PathLike[str], flags: int = 0) -> int:
    """Open a file for reading and writing and return its descriptor. A new file gets default permissions."""
    # Without O_BINARY Windows would write "\r\n" for every "\n".
    return os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) | flags, 0o666)


def try_lock(file: int, path: str | os.PathLike[str]) -> bool:
    """Lock an open file, the one at `path`, until it is closed; return False if another process holds the lock.

    On a file system without locks, log a warning once and return True.
    """
    if sys.platform == "win32":
        import msvcrt

        position = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, _LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            return True
        except OSError:
            return False
        finally:
            os.lseek(file, position, os.SEEK_SET)
    else:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            warn_once(f"files can't be locked ({error}); make sure that only one process uses {os.fspath(path)}")
        return True


def is_same_file(file: int, path: str | os.PathLike[str]) -> bool:
    """Return whether an open file is still the one at `path`; the previous holder of the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def close_and_remove(file: int, path: Path) -> None:
    """Close a locked file and remove it."""
    if sys.platform == "win32":
        # Windows can't remove open files, so close it first. If another process has opened it meanwhile, it stays.
        os.close(file)
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
    else:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(file)
