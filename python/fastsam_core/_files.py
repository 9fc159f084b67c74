"""Files: where downloads and caches live, and writes that are whole or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def home() -> Path:
    """The folder for downloaded checkpoints: `FASTSAM_HOME`, or the platform's cache folder for fastsam_core."""
    chosen = os.environ.get("FASTSAM_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return Path(user_cache_path("fastsam_core", appauthor=False))


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
    temporary = folder / f".{target.stem[:64]}.{secrets.token_hex(8)}{target.suffix}"
    # Made here, so that it has the permissions that users' files have, and never takes another file's place.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
