"""Images from web addresses: server responses, and limits of size and time."""

from __future__ import annotations

import base64
import socket
import struct
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest

from fastsam_core.sources import load_sources, web
from image_examples import BGR, RGB, encode, image_folder, only, write
from local_server import reply, serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "pics")


def test_server_responses(folder: Path) -> None:
    data = encode(RGB, "PNG")

    def answer(handler: Any) -> None:
        if handler.path.startswith("/missing"):
            reply(handler, b"no", 404)
        elif handler.path.startswith("/page"):
            reply(handler, b"<html>", headers={"Content-Type": "text/html"})
        elif handler.path.startswith("/live"):
            reply(handler, b"--x", headers={"Content-Type": handler.path[6:].rpartition("/")[0] + "; boundary=x"})
        elif handler.path.startswith("/moved"):
            reply(handler, b"", 302, headers={"Location": "/a.png"})
        elif handler.path.startswith("/short"):
            reply(handler, data[:50], announce=len(data))
        else:
            reply(handler, data, headers={"Content-Type": "image/png"})

    with serve(answer) as address:
        for url in (f"{address}/a.png", f"{address}/a.png?size=3#x", f"{address}/moved.png", f"{address}/photo"):
            item = only(url)
            assert item.path == url and np.array_equal(item.image, BGR)
        with pytest.raises(ConnectionError, match="answers 404") as raised:
            list(load_sources(f"{address}/missing.png"))
        assert isinstance(raised.value.__cause__, HTTPError) and raised.value.__cause__.closed
        with pytest.raises(ValueError, match="web page"):
            list(load_sources(f"{address}/page.png"))
        with pytest.raises(ValueError, match="web page"):
            load_sources(f"{address}/page")
        for name, media in (
            ("video.cgi", "multipart/x-mixed-replace"),
            ("film", "video/mp4"),
            ("live.m3u8", "application/vnd.apple.mpegurl"),
            ("live", "application/x-mpegURL"),
        ):
            source = load_sources(f"{address}/live/{media}/{name}")
            assert (source.kind, source.path) == ("stream", f"{address}/live/{media}/{name}")
        with pytest.raises(ConnectionError, match="broke off after 50"):
            list(load_sources(f"{address}/short.png"))
        items = list(load_sources([f"{address}/missing.png", f"{address}/a.png"]))
        assert [i.error is None for i in items] == [False, True]
        (folder / "list.txt").write_text(f"{address}/a.png\nimg2.png\n")
        assert all(i.error is None for i in load_sources(folder / "list.txt"))
    with pytest.raises(ConnectionError, match="can't be reached"):
        list(load_sources(f"{address}/a.png"))


def test_user_name_and_password_of_an_address_are_sent_to_its_server_alone() -> None:
    asked: list[tuple[str, str | None]] = []

    def answer(handler: Any) -> None:
        asked.append((handler.path, handler.headers.get("Authorization")))
        if handler.path == "/moved.png":
            reply(handler, b"", 302, headers={"Location": "/a.png"})
        elif handler.path == "/missing.png":
            reply(handler, b"no", 404)
        else:
            reply(handler, b"text" if handler.path == "/text.png" else encode(RGB, "PNG"))

    with serve(answer) as address:
        login = address.replace("://", "://me:p%40ss:w@")
        for name in ("a.png", "moved.png"):
            assert np.array_equal(only(f"{login}/{name}").image, BGR)
        with pytest.raises(ConnectionError, match=r"http://me:\*\*\*@127.0.0.1:\d+/missing.png answers 404"):
            list(load_sources(f"{login}/missing.png"))
        with pytest.raises(ValueError, match=r"http://me:\*\*\*@127.0.0.1:\d+/text.png: not an image"):
            list(load_sources(f"{login}/text.png"))
    header = "Basic " + base64.b64encode(b"me:p@ss:w").decode()
    names = ("a", "moved", "a", "missing", "text")
    assert asked == [(f"/{name}.png", header) for name in names]


@pytest.mark.parametrize(
    ("url", "new_url", "kept"),
    [
        ("http://cam/a", "http://cam:80/b", True),
        ("http://cam:8080/a", "http://CAM:8080/b", True),
        ("http://cam/a", "https://cam/a", True),
        ("https://cam/a", "http://cam/a", False),
        ("http://cam/a", "http://cam:8080/a", False),
        ("http://cam/a", "http://cam.net/a", False),
        ("http://cam/a", "http://x@cam/a", False),
        ("http://cam/a", "ftp://cam/a", False),
    ],
)
def test_redirects_keep_user_name_and_password_for_the_same_server_alone(url: str, new_url: str, kept: bool) -> None:
    request = web._request(url.replace("://", "://me:word@"))
    redirected = web._RedirectHandler().redirect_request(request, None, 302, "Found", {}, new_url)
    assert redirected is not None and redirected.has_header("Authorization") is kept


def test_redirects_to_another_server_lose_user_name_and_password() -> None:
    asked: list[str | None] = []

    def answer(handler: Any) -> None:
        asked.append(handler.headers.get("Authorization"))
        reply(handler, encode(RGB, "PNG"))

    with serve(answer) as other:
        headers = {"Location": f"{other}/a.png"}
        with serve(lambda handler: reply(handler, b"", 302, headers=headers)) as address:
            web.fetch(f"{address.replace('://', '://me:word@')}/a.png")
    assert asked == [None]


@pytest.mark.parametrize("answered", [False, True])
def test_connection_that_is_reset_is_reported_with_its_address(answered: bool) -> None:
    def answer(handler: Any) -> None:
        if answered:
            reply(handler, b"half", announce=1000)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.rfile.close()
        handler.connection.close()

    with serve(answer) as address, pytest.raises(ConnectionError, match=rf"^{address}/a.png: "):
        list(load_sources(f"{address}/a.png"))


def test_special_characters_in_addresses_are_escaped() -> None:
    asked: list[str] = []

    def answer(handler: Any) -> None:
        asked.append(handler.path)
        reply(handler, encode(RGB, "PNG"))

    with serve(answer) as address:
        url = f"{address}/größe 1.png?of=a b&c=%C3%BC"
        item = only(url)
    assert item.path == url and np.array_equal(item.image, BGR)
    assert asked == ["/gr%C3%B6%C3%9Fe%201.png?of=a%20b&c=%C3%BC"]


def test_malformed_urls_are_reported_and_the_list_goes_on(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = next(path for path in folder.iterdir() if path.suffix == ".png")
    listed = tmp_path / "list.txt"
    listed.write_text(f"http://[bad/x.jpg\n{image}\n")
    assert [Path(item.path).name for item in load_sources(str(listed)) if item.image is not None] == [image.name]
    assert "http://[bad/x.jpg is not a valid URL" in caplog.text
    with pytest.raises(ConnectionError, match="not a valid URL"):
        web.fetch("http://[bad/x.jpg")


def test_download_size_and_time_limits() -> None:
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    with serve(endless) as address:
        with pytest.raises(ValueError, match="more than the limit of 1,000,000"):
            web.fetch(f"{address}/a.png", 1_000_000)
        with pytest.raises(ConnectionError, match="within 0 seconds"):
            web.fetch(f"{address}/a.png", deadline=0)
    with (
        serve(lambda handler: reply(handler, b"xx", announce=10**12)) as address,
        pytest.raises(ValueError, match=r"holds 1,000,000,000,000 bytes"),
    ):
        web.fetch(f"{address}/a.png")


@pytest.mark.parametrize("announced", [False, True])
def test_limit_is_the_largest_size_that_is_downloaded(announced: bool) -> None:
    def answer(handler: Any) -> None:
        if announced:
            reply(handler, b"12345")
        else:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(b"12345")

    with serve(answer) as address:
        assert web.fetch(f"{address}/a.png", 5) == b"12345"
        with pytest.raises(ValueError, match="more than the limit of 4"):
            web.fetch(f"{address}/a.png", 4)


def test_slow_response_ends_at_the_deadline() -> None:
    import time

    sent = []

    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "300")
        handler.end_headers()
        try:
            while len(sent) < 300:
                handler.wfile.write(b"x")
                sent.append(1)
                time.sleep(0.02)
        except OSError:
            pass

    with serve(trickle) as address:
        with pytest.raises(ConnectionError, match=r"within 0\.2 seconds"):
            web.fetch(f"{address}/a.png", deadline=0.2)
        assert len(sent) < 200, "it waited for the whole answer"


def test_silent_server_times_out() -> None:
    import threading

    done = threading.Event()
    with serve(lambda handler: done.wait(10) and None) as address:
        with pytest.raises(ConnectionError, match="timed out"):
            web.fetch(f"{address}/a.png", timeout=0.1)
        done.set()


def test_redirects_cannot_reach_local_files(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.png")
    with (
        serve(lambda handler: reply(handler, b"", 302, headers={"Location": path.as_uri()})) as address,
        pytest.raises(ConnectionError, match="302"),
    ):
        list(load_sources(f"{address}/a.png"))
