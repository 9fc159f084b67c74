"""A web server on this machine's loopback, for tests of downloads and of URL sources."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """Run `answer(handler)` for every GET request; yield the server's address without a trailing slash."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    *,
    announce: int | None = None,
    headers: dict[str, str] | None = None,
) -> None:
    """Send `body`. `announce` replaces its length in the Content-Length header."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if announce is None else announce))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class FileServer:
    """Serves one file. `requests` records the Range header of each request, or None.

    broken: how many answers break off after half of their body. with_ranges: honour Range, and If-Range with `etag`.
    """

    def __init__(self, body: bytes, *, with_ranges: bool = True, broken: int = 0, etag: str = '"one"') -> None:
        self.body = body
        self.with_ranges = with_ranges
        self.broken = broken
        self.etag = etag
        self.requests: list[str | None] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        headers = {"ETag": self.etag} if self.etag else {}
        part, status = self.body, 200
        fresh = handler.headers.get("If-Range") in (None, self.etag)
        if asked and self.with_ranges and fresh:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(self.body):
                reply(handler, b"", 416, headers={"Content-Range": f"bytes */{len(self.body)}"})
                return
            part, status = self.body[begin:], 206
            headers["Content-Range"] = f"bytes {begin}-{len(self.body) - 1}/{len(self.body)}"
        sent = part
        if self.broken:
            self.broken -= 1
            sent = part[: len(part) // 2]
        reply(handler, sent, status, announce=len(part), headers=headers)
