"""Files that one process has for itself: the system lets go of a lock when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

from ._log import warn_once

# Windows keeps others from reading what is locked, so that it is the last byte that it can lock: no file comes so far.
_FAR = 2**31 - 2


def open_file(path: str | os.PathLike[str], flags: int = 0) -> int:
    """A file to read and write, as a descriptor that can be locked, with the permissions that users' files have."""
    # Without O_BINARY Windows would write "\r\n" for every "\n".
    return os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) | flags, 0o666)


def lock(file: int, path: str | os.PathLike[str]) -> bool:
    """Have an open file, the one at `path`, until it is closed: False where another process has it.

    A file system without locks is said once, and True.
    """
    if sys.platform == "win32":
        import msvcrt

        before = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            return True
        except OSError:
            return False
        finally:
            os.lseek(file, before, os.SEEK_SET)
    else:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            warn_once(f"files can't be locked here ({error}); see to it that only one process uses {os.fspath(path)}")
        return True


def is_still(file: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file is the one at `path`: whoever had it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def remove(file: int, path: Path) -> None:
    """Close a file that is locked, and remove it."""
    if sys.platform == "win32":
        # It removes nothing that is open; whoever has opened the file meanwhile keeps it.
        os.close(file)
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
    else:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(file)
