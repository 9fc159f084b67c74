"""Downloads that are either complete and verified or absent; interrupted ones resume where they stopped."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import _locks
from .._files import check_writable
from .._log import logger
from .._progress import progress_bar

TIMEOUT = 30.0  # seconds for the connection and between two packets
RETRIES = 4  # further attempts after the first one, counted since the last progress
_CHUNK_BYTES = 1 << 20
_PROGRESS_BYTES = 1 << 20  # an attempt that receives this many bytes resets the count of failures


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    timeout: float = TIMEOUT,
    retries: int = RETRIES,
    backoff: float = 1.0,
    progress: bool = True,
) -> Path:
    """Download `url` to the file `target` and return its path.

    sha256: expected digest in hexadecimal, or its first digits. size: expected number of bytes. timeout: seconds for
    the connection and between two packets. progress: whether to show a progress bar if stderr is a terminal.

    Data is written to `<target>.part`, which a later call continues if the server still has the same file. Once it is
    complete, verified and flushed to disk, it is renamed to `target`. If two processes download the same file, one
    waits for the other. An existing `target` is returned unchecked.

    Raises ValueError if the content is not the expected one (the file is removed). Raises ConnectionError, which names
    the address and the path for a manual download, if `retries` further attempts fail; they are `backoff` seconds
    apart, and the delay doubles each time. Raises OSError if the folder can't be made or written to, or the disk is
    full.
    """
    if not url.lower().startswith(("https://", "http://")):
        raise ValueError(f"{url!r} is not an http(s) address")
    target = Path(target)
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_writable(target.parent)
    except OSError as error:
        reason = f"{error.strerror}: can't write to the download folder; FASTSAM_HOME can name another one"
        raise OSError(error.errno, reason, str(target.parent)) from None
    with _lock(target.with_name(f".{target.name}.lock")):
        if target.exists():  # another process was faster
            return target
        part = _PartialDownload(target)
        logger.info("downloading %s to %s", url, target)
        resumed = part.offset > 0
        _download_with_retries(url, part, sha256, size, timeout, retries, backoff, progress)
        mismatch = _mismatch(part.path, sha256, size)
        if mismatch and resumed:
            # The resumed part may have come from another file; only a fresh download can tell whether the server's file
            # is right.
            part.discard()
            _download_with_retries(url, part, sha256, size, timeout, retries, backoff, progress)
            mismatch = _mismatch(part.path, sha256, size)
        if mismatch:
            part.discard()
            raise ValueError(f"{url} is not the expected file and was removed: {mismatch}")
        part.finish(target)
    return target


class _PartialDownload:
    """The unfinished file, and one beside it that identifies the version on the server it was downloaded from."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self.validator_file = target.with_name(target.name + ".part.etag")

    @property
    def offset(self) -> int:
        """Number of bytes already downloaded."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def validator(self) -> str:
        """The stored ETag or modification date; empty if there is none."""
        try:
            return self.validator_file.read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.validator_file.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Flush the file to disk and rename it to `target`."""
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        self.validator_file.unlink(missing_ok=True)
        if os.name == "posix":  # so that the rename survives a power failure too
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _download_with_retries(
    url: str,
    part: _PartialDownload,
    sha256: str | None,
    size: int | None,
    timeout: float,
    retries: int,
    backoff: float,
    progress: bool,
) -> None:
    """Download until the part is complete, retrying after errors that may be temporary."""
    failures = 0
    while True:
        before = part.offset
        try:
            _attempt(url, part, sha256 is not None, size, timeout, progress)
            return
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            is_permanent = error.code < 500 and error.code not in (408, 429)
            error.close()
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
            reason, is_permanent = str(getattr(error, "reason", "") or error) or type(error).__name__, False
        failures = 1 if part.offset - before >= _PROGRESS_BYTES else failures + 1
        if is_permanent or failures > retries:
            raise ConnectionError(
                f"could not download {url}: {reason}. If you can get the file another way, save it as "
                f"{part.path.with_suffix('')}, or pass its path; FASTSAM_HOME names the folder for downloads"
            )
        logger.warning("download of %s interrupted (%s); trying again", url, reason)
        time.sleep(backoff * 2.0 ** (failures - 1))


def _attempt(
    url: str, part: _PartialDownload, has_hash: bool, size: int | None, timeout: float, progress: bool
) -> None:
    """Make one request, resuming the part if possible. Raises unless the part is complete afterwards."""
    headers = {"User-Agent": "fastsam_core", "Accept-Encoding": "identity"}
    offset, validator = part.offset, part.validator
    # Without a validator, only a hash can show that both pieces belong to the same file.
    if offset and (validator or has_hash):
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    else:
        part.discard()
        offset = 0
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not offset:
            raise
        error.close()
        if _total_size(error.headers.get("Content-Range")) == offset:
            return  # the part was already complete
        part.discard()
        raise ConnectionResetError("the file on the server has changed") from error
    with response:
        _receive(response, url, part, offset, size, progress)


def _receive(response: Any, url: str, part: _PartialDownload, offset: int, size: int | None, progress: bool) -> None:
    """Check the response's headers, then append its body to the part."""
    header = response.headers
    if response.status == 206:
        begin = str(header.get("Content-Range", "")).removeprefix("bytes ").split("-")[0]
        if begin != str(offset):
            part.discard()
            raise ConnectionResetError(f"asked for the rest from byte {offset}, the server sent it from {begin!r}")
        total = _total_size(header.get("Content-Range"))
    else:
        offset = 0
        length = header.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
    if header.get_content_type() == "text/html":
        raise ValueError(f"{url} answers with a web page instead of the file; is there a login page in between?")
    if size is not None and total is not None and total != size:
        part.discard()
        raise ValueError(f"{url} holds {total:,} bytes, expected {size:,}; nothing was downloaded")
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - offset > free:
        raise OSError(errno.ENOSPC, f"{total - offset:,} bytes are needed, {free:,} are free", str(part.path.parent))
    if not offset:
        part.validator_file.write_text(_validator(header), encoding="ascii")
    with (
        open(part.path, "ab" if offset else "wb") as file,
        progress_bar(
            desc=part.path.stem,
            total=total,
            initial=offset,
            unit="B",
            unit_scale=True,
            show=None if progress else False,
        ) as bar,
    ):
        while chunk := response.read(_CHUNK_BYTES):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:  # for a full disk the system names no file
                error.filename = error.filename or os.fspath(part.path)
                raise
            bar.update(len(chunk))
            if size is not None and file.tell() > size:
                break  # the caller's size check reports both numbers
    if total is not None and part.offset < total:
        raise ConnectionResetError(f"the connection ended after {part.offset:,} of {total:,} bytes")


def _validator(header: Any) -> str:
    """Return what `If-Range` may be sent with (RFC 9110, 13.1.5): a strong ETag, else the modification date."""
    etag = str(header.get("ETag", ""))
    value = etag if etag.startswith('"') else str(header.get("Last-Modified", ""))
    return value if value.isascii() and "\n" not in value else ""


def _total_size(content_range: str | None) -> int | None:
    """Return the total size from a Content-Range header, or None if it doesn't say."""
    text = (content_range or "").rpartition("/")[2]
    return int(text) if text.isdecimal() else None


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _mismatch(path: Path, sha256: str | None, size: int | None) -> str:
    """Return why the file is not the expected one, or an empty string."""
    actual_size = path.stat().st_size
    if size is not None and actual_size != size:
        return f"it has {actual_size:,} bytes, expected {size:,}"
    if not sha256:
        return ""
    actual = sha256_of(path)
    return "" if actual.startswith(sha256.lower()) else f"its sha256 is {actual}, expected {sha256.lower()}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file. The operating system releases the lock when the process ends, however it ends."""
    is_waiting = False
    while True:
        file = _locks.open_file(path, os.O_CREAT)
        try:
            # The previous holder removes the file, so another process may already have locked a new one.
            if _locks.try_lock(file, path) and _locks.is_same_file(file, path):
                break
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        if not is_waiting:
            logger.info("another process holds %s; waiting for it", path)
            is_waiting = True
        time.sleep(0.1)
    try:
        yield
    finally:
        _locks.close_and_remove(file, path)
