"""What is logged, and that passwords in addresses never are."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fastsam_core._log import hide_passwords, log_or_print, logger
from fastsam_core.cli import main
from fastsam_core.sources import load_sources
from fastsam_core.sources import stream as stream_module


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stream rtsp://me:secret@camera:554/1: stopped", "stream rtsp://me:***@camera:554/1: stopped"),
        ("rtsp://me:s@cr:t@camera/a@b", "rtsp://me:***@camera/a@b"),
        ("http://:secret@host and https://b:c@d", "http://:***@host and https://b:***@d"),
        ("rtsp:/me:secret@camera", "rtsp:/me:***@camera"),  # of a Path
        ("http://me@host:80/a:b@c", "http://me@host:80/a:b@c"),
        ("https://host:80/x@y", "https://host:80/x@y"),
        ("a:b@c", "a:b@c"),
        ("C:/a.png: 100 % of 5", "C:/a.png: 100 % of 5"),
    ],
)
def test_passwords_in_addresses_are_hidden(
    text: str, expected: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hide_passwords(text) == expected
    log_or_print(text)
    assert capsys.readouterr().err == f"{expected}\n"
    with caplog.at_level(logging.INFO):
        logger.info(text)
        logger.warning("%s", text)
        log_or_print(text)
    assert [record.getMessage() for record in caplog.records] == [expected] * 3


def test_failed_streams_are_reported_without_passwords(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stream_module, "_RETRIES", 0)
    address = "rtsp://me:secret@127.0.0.1:1/stream"
    with pytest.raises(ConnectionError), load_sources(address) as source:
        list(source)
    assert "rtsp://me:***@127.0.0.1:1/stream" in caplog.text
    assert main(["predict", f"source={address}", f"project={tmp_path}"]) == 1
    said = capsys.readouterr()
    assert "secret" not in caplog.text + said.out + said.err and "rtsp://me:***@" in said.err
