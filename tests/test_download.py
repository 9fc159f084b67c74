"""Tests of downloads: complete, resumed, refused; only a verified file ever gets the target's name."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from fastsam_core.models import download as module
from fastsam_core.models.download import download
from local_server import FileServer, reply, serve

BODY = bytes(range(256)) * 1200
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "weights.pt"


def leftovers(target: Path) -> list[str]:
    return sorted(name for name in os.listdir(target.parent) if name != target.name)


@pytest.mark.parametrize("sha256", [SHA, SHA.upper(), SHA[:8], None])
def test_downloads_and_verifies_a_file(target: Path, sha256: str | None) -> None:
    with serve(FileServer(BODY)) as address:
        assert download(f"{address}/w.pt", target, sha256=sha256, size=len(BODY)) == target
    assert target.read_bytes() == BODY
    assert leftovers(target) == []


def test_existing_target_is_never_touched(target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"the user's own")
    assert download("http://127.0.0.1:9/none", target, sha256=SHA) == target
    assert target.read_bytes() == b"the user's own"


@pytest.mark.parametrize("sha256", [SHA, None])
def test_broken_transfers_resume_where_they_stopped(target: Path, sha256: str | None) -> None:
    server = FileServer(BODY, broken=2)
    with serve(server) as address:
        download(f"{address}/w.pt", target, sha256=sha256, backoff=0)
    half = len(BODY) // 2
    assert server.requests == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert target.read_bytes() == BODY


def test_later_call_resumes_an_interrupted_download(target: Path) -> None:
    server = FileServer(BODY, broken=1)
    with serve(server) as address:
        with pytest.raises(ConnectionError, match=r"(?s)could not download .*the connection ended.*weights\.pt"):
            download(f"{address}/w.pt", target, retries=0)
        assert not target.exists()
        assert leftovers(target) == ["weights.pt.part", "weights.pt.part.etag"]
        download(f"{address}/w.pt", target)
    assert server.requests == [None, f"bytes={len(BODY) // 2}-"]
    assert target.read_bytes() == BODY
    assert leftovers(target) == []


def test_part_file_with_a_weak_etag_is_resumed_by_its_date(target: Path) -> None:
    """`If-Range` may not be sent with a weak ETag."""
    half, date, asked = len(BODY) // 2, "Wed, 21 Oct 2015 07:28:00 GMT", []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        headers = {"ETag": 'W/"one"', "Last-Modified": date}
        asked.append((handler.headers.get("Range"), handler.headers.get("If-Range")))
        if len(asked) == 1:
            reply(handler, BODY[:half], announce=len(BODY), headers=headers)
        else:
            headers["Content-Range"] = f"bytes {half}-{len(BODY) - 1}/{len(BODY)}"
            reply(handler, BODY[half:], 206, headers=headers)

    with serve(answer) as address:
        download(f"{address}/w.pt", target, backoff=0)
    assert asked == [(None, None), (f"bytes={half}-", date)]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("with_etag", [False, True])
def test_complete_part_file_is_verified_and_renamed(target: Path, with_etag: bool) -> None:
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(BODY)
    if with_etag:
        Path(f"{target}.part.etag").write_text('"one"')
    server = FileServer(BODY)
    with serve(server) as address:
        download(f"{address}/w.pt", target, sha256=SHA)
    assert server.requests == [f"bytes={len(BODY)}-"]
    assert target.read_bytes() == BODY


def test_file_changed_on_the_server_is_fetched_anew(target: Path) -> None:
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(b"old" * 100)
    Path(f"{target}.part.etag").write_text('"zero"')
    with serve(FileServer(BODY)) as address:
        download(f"{address}/w.pt", target)
    assert target.read_bytes() == BODY


def test_part_file_without_etag_or_hash_is_not_resumed(target: Path) -> None:
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(b"old" * 100)
    server = FileServer(BODY, etag="")
    with serve(server) as address:
        download(f"{address}/w.pt", target)
    assert server.requests == [None]
    assert target.read_bytes() == BODY


def test_part_file_with_wrong_content_is_found_by_hash_and_fetched_anew(target: Path) -> None:
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(b"old" * 100)
    server = FileServer(BODY, etag="")
    with serve(server) as address:
        download(f"{address}/w.pt", target, sha256=SHA)
    assert server.requests == ["bytes=300-", None]
    assert target.read_bytes() == BODY


def test_server_that_ignores_ranges_is_read_from_the_start(target: Path) -> None:
    server = FileServer(BODY, with_ranges=False, broken=1)
    with serve(server) as address:
        download(f"{address}/w.pt", target, sha256=SHA, backoff=0)
    assert len(server.requests) == 2
    assert target.read_bytes() == BODY


def test_response_with_a_wrong_content_range_is_not_used(target: Path) -> None:
    half = len(BODY) // 2
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(BODY[:half])
    Path(f"{target}.part.etag").write_text('"one"')

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range"):  # the right length, but from another offset
            reply(handler, BODY[1 : half + 1], 206, headers={"Content-Range": f"bytes 1-{half}/{len(BODY)}"})
        else:
            reply(handler, BODY)

    with serve(answer) as address:
        download(f"{address}/w.pt", target, backoff=0)
    assert target.read_bytes() == BODY


def test_part_file_longer_than_the_file_is_fetched_anew(target: Path) -> None:
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(BODY + b"more")
    with serve(FileServer(BODY)) as address:
        download(f"{address}/w.pt", target, sha256=SHA, backoff=0)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sha256": "0" * 64}, rf"its sha256 is {SHA}, expected {'0' * 64}"),
        ({"sha256": "00ff"}, rf"its sha256 is {SHA}, expected 00ff"),
        ({"size": 5}, r"holds 307,200 bytes, expected 5"),
    ],
)
def test_wrong_content_is_removed(target: Path, options: dict[str, Any], message: str) -> None:
    server = FileServer(BODY)
    with serve(server) as address, pytest.raises(ValueError, match=message):
        download(f"{address}/w.pt", target, **options)
    assert os.listdir(target.parent) == [] and len(server.requests) == 1


def test_wrong_size_is_refused_without_content_length(target: Path) -> None:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)

    with serve(answer) as address, pytest.raises(ValueError, match="expected 307,199"):
        download(f"{address}/w.pt", target, size=len(BODY) - 1)
    assert os.listdir(target.parent) == []


def test_web_page_instead_of_the_file_is_refused(target: Path) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    with (
        serve(lambda handler: reply(handler, b"<html>log in</html>", headers=page)) as address,
        pytest.raises(ValueError, match="web page"),
    ):
        download(f"{address}/w.pt", target)
    assert not target.exists()


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 3), (429, 3)])
def test_only_temporary_errors_are_retried(target: Path, status: int, attempts: int) -> None:
    asked = []

    def answer(handler: Any) -> None:
        asked.append(handler.path)
        reply(handler, b"no", status)

    with (
        serve(answer) as address,
        pytest.raises(ConnectionError, match=rf"answers {status} .*save it as .*weights\.pt"),
    ):
        download(f"{address}/w.pt", target, retries=2, backoff=0)
    assert len(asked) == attempts
    assert not target.exists()


def test_delay_doubles_after_each_failure(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    monkeypatch.setattr(module.time, "sleep", delays.append)
    with serve(lambda handler: reply(handler, b"", 503)) as address, pytest.raises(ConnectionError):
        download(f"{address}/w.pt", target, retries=3, backoff=0.5)
    assert delays == [0.5, 1, 2]


def test_failures_are_counted_since_the_last_progress(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROGRESS_BYTES", 1000)
    server = FileServer(BODY, broken=4)
    with serve(server) as address:
        download(f"{address}/w.pt", target, retries=1, backoff=0)
    assert target.read_bytes() == BODY and len(server.requests) == 5


def test_earlier_part_is_not_progress(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROGRESS_BYTES", 1000)
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(BODY[:2000])
    Path(f"{target}.part.etag").write_text('"one"')
    asked = []

    def answer(handler: Any) -> None:
        asked.append(handler.headers.get("Range"))
        reply(handler, b"", 503 if len(asked) < 9 else 404)

    with serve(answer) as address, pytest.raises(ConnectionError):
        download(f"{address}/w.pt", target, retries=1, backoff=0)
    assert asked == ["bytes=2000-"] * 2


def test_unreachable_server_is_a_connection_error(target: Path) -> None:
    with serve(FileServer(BODY)) as address:
        pass
    with pytest.raises(ConnectionError, match="could not download"):
        download(f"{address}/w.pt", target, retries=0)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://x/y", "w.pt", ""])
def test_only_http_addresses_are_accepted(target: Path, url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        download(url, target)


def test_full_disk_is_found_before_the_transfer(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with serve(FileServer(BODY)) as address, pytest.raises(OSError, match="10 are free"):
        download(f"{address}/w.pt", target)
    assert not target.exists()


def test_error_for_a_read_only_folder_names_fastsam_home(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.parent.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != target.parent)  # chmod doesn't bind root
    with pytest.raises(PermissionError, match=r"FASTSAM_HOME can name another one.*new folder"):
        download("http://127.0.0.1:9/w.pt", target)
    assert os.listdir(target.parent) == []


def test_concurrent_downloads_fetch_the_file_once(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    requests = []

    def answer(handler: Any) -> None:
        requests.append(1)
        arrived.set()
        go_on.wait(10)
        reply(handler, BODY)

    caplog.set_level(logging.INFO, "fastsam_core")
    with serve(answer) as address:
        threads = [
            threading.Thread(target=download, args=(f"{address}/w.pt", target), kwargs={"sha256": SHA}) for _ in "ab"
        ]
        for thread in threads:
            thread.start()
        assert arrived.wait(10)
        while not any("waiting for it" in record.message for record in caplog.records):
            assert threads[0].is_alive() and threads[1].is_alive()
        go_on.set()
        for thread in threads:
            thread.join(10)
    assert target.read_bytes() == BODY
    assert len(requests) == 1
    assert leftovers(target) == []


@pytest.mark.parametrize(
    ("content_range", "total"), [("bytes 0-4/5", 5), ("bytes */5", 5), ("bytes 0-4/*", None), ("", None), (None, None)]
)
def test_total_size_is_read_if_the_server_says_it(content_range: str | None, total: int | None) -> None:
    assert module._total_size(content_range) == total


@pytest.mark.parametrize(("options", "show"), [({}, None), ({"progress": True}, None), ({"progress": False}, False)])
def test_progress_is_shown_in_terminals_unless_it_is_switched_off(
    target: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], show: bool | None
) -> None:
    bars: list[dict[str, Any]] = []
    progress_bar = module.progress_bar
    monkeypatch.setattr(module, "progress_bar", lambda **given: bars.append(given) or progress_bar(**given))
    with serve(FileServer(BODY)) as address:
        download(f"{address}/w.pt", target, **options)
    (bar,) = bars
    assert (bar["show"], bar["total"], bar["initial"], bar["desc"]) == (show, len(BODY), 0, "weights.pt")
