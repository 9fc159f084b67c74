"""Download images and videos from http(s) URLs, with limits on size and time."""

from __future__ import annotations

import base64
import http.client
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from .._log import hide_passwords

MAX_IMAGE_BYTES = 2**28  # 268 MB: far above the encoded size of usual images within the pixel limit
MAX_VIDEO_BYTES = 2**32
TIMEOUT = 20.0  # seconds to connect, and between two packets
DEADLINE = 600.0  # seconds for the whole transfer, against servers that send a few bytes at a time
_CHUNK = 1 << 18


def fetch(url: str, limit: int = MAX_IMAGE_BYTES, *, timeout: float = TIMEOUT, deadline: float = DEADLINE) -> bytes:
    """Return the body of an http(s) response.

    Raises ConnectionError with the reason if the transfer fails or takes too long, ValueError above `limit` bytes.
    """
    from io import BytesIO

    buffer = BytesIO()
    fetch_into(url, buffer, limit, timeout=timeout, deadline=deadline)
    return buffer.getvalue()


def fetch_into(url: str, file: BinaryIO, limit: int, *, timeout: float = TIMEOUT, deadline: float = DEADLINE) -> None:
    """Write the body of an http(s) response to an open binary file as it arrives. Errors are those of `fetch`."""
    end_time, name = time.monotonic() + deadline, hide_passwords(url)
    with _open(url, timeout) as response:
        content_length = response.headers.get("Content-Length", "")
        if content_length.isdecimal() and int(content_length) > limit:
            raise ValueError(f"{name} holds {int(content_length):,} bytes, more than the limit of {limit:,}")
        received = 0
        # `read1` returns what has arrived; `read` would block until the chunk is full and miss the deadline.
        while chunk := response.read1(_CHUNK):
            received += len(chunk)
            if received > limit:
                raise ValueError(f"{name} holds more than the limit of {limit:,} bytes")
            if time.monotonic() > end_time:
                raise ConnectionError(f"{name}: only {received:,} bytes within {deadline:g} seconds")
            file.write(chunk)
        if content_length.isdecimal() and received != int(content_length):
            raise ConnectionError(f"{name}: the answer broke off after {received:,} of {int(content_length):,} bytes")


def content_type(url: str, *, timeout: float = TIMEOUT) -> str:
    """Return the media type of a URL in lower case, without parameters. Only the response headers are read."""
    with _open(url, timeout) as response:
        return str(response.headers.get_content_type()).lower()


@contextmanager
def _open(url: str, timeout: float) -> Iterator[http.client.HTTPResponse]:
    name = hide_passwords(url)
    # urllib follows redirects to http, https and ftp only, so a server can't redirect to a local file.
    try:
        with _opener().open(_request(url), timeout=timeout) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()  # else the connection stays open as long as the error is kept
        raise ConnectionError(f"{name} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise ConnectionError(f"{name} can't be reached: {error.reason}") from error
    except (
        TimeoutError,
        ConnectionResetError,
        ConnectionAbortedError,
        ssl.SSLError,
        http.client.HTTPException,
    ) as error:  # while the answer is read
        raise ConnectionError(f"{name}: {type(error).__name__} {error}") from error


def _request(url: str) -> urllib.request.Request:
    """Return a request for a URL, whose user name and password, as of many cameras, go into a header.

    Path and query are percent-encoded: browsers show and accept letters and spaces that HTTP doesn't allow.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConnectionError(f"{hide_passwords(url)} is not a valid URL: {error}") from None
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    credentials, _, host = parts.netloc.rpartition("@")
    address = urlunsplit(parts._replace(netloc=host, path=path, query=query))
    request = urllib.request.Request(address, headers={"User-Agent": "fastsam_core", "Accept-Encoding": "identity"})
    if credentials:
        token = base64.b64encode(unquote(credentials).encode()).decode("ascii")
        request.add_unredirected_header("Authorization", f"Basic {token}")  # not for another server
    return request


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects as urllib does, but keeps user name and password if they lead to the same server."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        request, login = super().redirect_request(req, *args), req.get_header("Authorization")
        if request is not None and login is not None:
            (scheme, server), (new_scheme, new_server) = _server(req.full_url), _server(request.full_url)
            if server == new_server and new_scheme in (scheme, "https"):
                request.add_unredirected_header("Authorization", login)
        return request


def _server(url: str) -> tuple[str, str]:
    """Return the scheme of a URL, and its host with the port unless that is the scheme's own."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower().removesuffix({"http": ":80", "https": ":443"}.get(parts.scheme, ""))


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_RedirectHandler)
