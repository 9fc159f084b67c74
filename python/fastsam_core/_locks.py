"""Files that one process has for itself: the system lets go of a lock when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

# Windows keeps others from reading what is locked, so that it is the last byte that it can lock: no file comes so far.
_FAR = 2**31 - 2
# Without it Windows would write "\r\n" for every "\n".
BINARY = getattr(os, "O_BINARY", 0)


class NoLocksError(OSError):
    """The file system has no locks."""


def open_file(path: str | os.PathLike[str], flags: int = 0) -> int:
    """A file to read and write, as a descriptor that can be locked, with the permissions that users' files have."""
    return os.open(path, os.O_RDWR | BINARY | flags, 0o666)


def lock(file: int) -> bool:
    """Have an open file until it is closed: False where another process has it, NoLocksError where nobody can."""
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
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise NoLocksError(*error.args) from error
        raise
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
        return
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(file)
