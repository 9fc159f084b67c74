"""Readers of live streams, with fake captures: frames, errors, notifications, and what is cleaned up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from fastsam_core.sources import load_sources
from fastsam_core.sources import stream as stream_module
from fastsam_core.sources.stream import StreamReader, open_capture, stream_items


class Capture:
    """A capture that gives these frames and then ends; None stands for a frame that can't be decoded."""

    def __init__(self, frames: Iterable[np.ndarray | None] = (), opened: bool = True) -> None:
        self.frames, self.opened, self.released = iter(frames), opened, 0
        self.frame: np.ndarray | None = None

    def isOpened(self) -> bool:
        return self.opened

    def grab(self) -> bool:
        self.frame = next(self.frames, ended)
        return self.frame is not ended

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return self.frame is not None, self.frame

    def get(self, what: int) -> float:
        return 25.0 if what == cv2.CAP_PROP_FPS else 100.0

    def release(self) -> None:
        self.released += 1


ended = np.empty(0)


def image(value: int = 0) -> np.ndarray:
    return np.full((4, 5, 3), value, np.uint8)


class Condition(threading.Condition):
    """A condition that counts notifications and calls `on_wait` instead of waiting."""

    notified = 0
    on_wait: Callable[[], Any]

    def notify_all(self) -> None:
        super().notify_all()
        self.notified += 1

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is None or timeout > 0
        self.on_wait()
        return True


def open_with(monkeypatch: pytest.MonkeyPatch, *captures: Any) -> list[Any]:
    """Open these captures one after the other, or raise those that are exceptions; return the addresses asked for."""
    left, opened = list(captures), []

    def open_next(address: Any) -> Capture:
        opened.append(address)
        capture = left.pop(0)
        if isinstance(capture, Exception):
            raise capture
        return capture

    monkeypatch.setattr(stream_module, "open_capture", open_next)
    return opened


def reader_of(address: int | str, condition: threading.Condition | None = None, **options: Any) -> StreamReader:
    options = {"buffered": True, "vid_stride": 1, **options}
    return StreamReader(address, condition or threading.Condition(), **options)


def taken(reader: StreamReader) -> list[tuple[int, int]]:
    """Return the numbers and values of all frames that the reader holds."""
    with reader._condition:
        return [(frame[0], int(frame[1].max())) for frame in iter(reader.take, None)]


def test_reader_of_a_file_gives_its_frames_and_ends_without_error(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(image(value) for value in range(7))
    opened = open_with(monkeypatch, capture)
    reader = reader_of("clip.avi", vid_stride=3)
    assert reader.daemon and reader.name == "fastsam stream clip.avi"
    reader.run()
    assert reader.ended and reader.error is None and reader.fps == 25
    assert taken(reader) == [(0, 0), (3, 3), (6, 6)]
    assert opened == ["clip.avi"] and capture.released == 1


def test_unbuffered_reader_holds_only_the_latest_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    open_with(monkeypatch, Capture(image(value) for value in range(50)))
    reader = reader_of(0, buffered=False)
    reader.run()
    assert taken(reader) == [(49, 49)]


def test_grey_frames_are_converted_to_bgr(monkeypatch: pytest.MonkeyPatch) -> None:
    open_with(monkeypatch, Capture([np.full((4, 5), 9, np.uint8)]))
    (item,) = stream_items([0], stream_buffer=True)
    assert item.image is not None and item.image.tolist() == image(9).tolist()


@pytest.mark.parametrize(
    ("capture", "error"),
    [
        (Capture(opened=False), "can't be opened"),
        (Capture(), "no frame can be decoded"),
        (Capture([None, image()]), "no frame can be decoded"),
        (RuntimeError("driver gone"), "RuntimeError: driver gone"),
        (Capture([np.zeros((4, 5, 7), np.uint8)]), "ValueError: an image array has 1, 3 or 4 channels"),
    ],
    ids=["closed", "empty", "undecodable", "exception", "channels"],
)
def test_reason_of_a_failed_file_is_reported_and_it_is_not_reopened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capture: Any, error: str
) -> None:
    opened = open_with(monkeypatch, capture)
    with pytest.raises(ConnectionError, match=f"^stream clip.avi: {error}"), caplog.at_level(logging.WARNING):
        list(stream_items(["clip.avi"]))
    assert opened == ["clip.avi"]
    assert [record.getMessage()[: len(error) + 17] for record in caplog.records] == [f"stream clip.avi: {error}"]
    assert not isinstance(capture, Capture) or capture.released == 1


def test_address_is_reopened_after_a_frame_that_can_not_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = [Capture([image(1), image(2), None, image(3)]), Capture([image(4)]), *(Capture() for _ in range(3))]
    opened = open_with(monkeypatch, *captures)
    delays: list[float] = []
    reader = reader_of("rtsp://camera")
    monkeypatch.setattr(reader._stop_requested, "wait", delays.append)
    reader.run()
    assert taken(reader) == [(0, 1), (1, 2), (2, 4)]
    assert reader.error == "the stream stopped" and delays == [1, 1, 2, 4] and len(opened) == 5
    assert [capture.released for capture in captures] == [1] * 5


def test_error_of_an_attempt_ends_when_the_address_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def frames() -> Any:
        yield image()
        seen.append(reader.error)

    open_with(monkeypatch, Capture(frames()), Capture(frames()), *(Capture(opened=False) for _ in range(3)))
    reader = reader_of("rtsp://camera")
    monkeypatch.setattr(reader._stop_requested, "wait", lambda _: seen.append(reader.error))
    reader.run()
    stopped, closed = "the stream stopped", "can't be opened"
    assert seen == [None, stopped, None, stopped, closed, closed] and reader.error == closed


def test_stopped_reader_opens_and_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_with(monkeypatch)
    reader = reader_of("rtsp://camera")
    reader.request_stop()
    reader.run()
    assert reader.ended and reader.error is None and opened == []


def test_stop_between_two_frames_ends_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of("rtsp://camera")

    def frames() -> Any:
        yield image(1)
        reader.request_stop()
        yield image(2)
        raise AssertionError("read after the stop")

    opened = open_with(monkeypatch, Capture(frames()))
    reader.run()
    assert taken(reader) == [(0, 1), (1, 2)] and reader.error == "the stream stopped" and len(opened) == 1


def test_full_buffer_blocks_the_reader_until_a_frame_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BUFFER", 2)
    open_with(monkeypatch, Capture(image(value) for value in range(5)))
    condition, frames = Condition(), list[Any]()
    reader = reader_of(0, condition)
    condition.on_wait = lambda: frames.append(reader.take())
    reader.run()
    assert [frame[0] for frame in frames] == [0, 1, 2] and taken(reader) == [(3, 3), (4, 4)]


def test_time_for_which_a_full_buffer_blocks_the_reader_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BUFFER", 2)
    open_with(monkeypatch, Capture(image() for _ in range(3)))
    condition, times = Condition(), iter(range(100))
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(monotonic=lambda: float(next(times))))
    reader, since = reader_of(0, condition), list[float]()

    def take() -> None:
        since.append(reader.last_frame)
        reader.take()
        since.append(reader.last_frame)

    condition.on_wait = take
    reader.run()
    assert since == [3, 4]  # grabbed, taken
    taken(reader)
    assert reader.last_frame == 5  # of two frames, only the one that unblocks a reader counts


def test_stop_wakes_a_reader_with_a_full_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BUFFER", 1)
    open_with(monkeypatch, Capture(image() for _ in range(5)))
    condition, waits = Condition(), list[int]()
    reader = reader_of("clip.avi", condition)

    def stop() -> None:
        waits.append(1)
        assert len(waits) == 1, "still blocked"
        reader.request_stop()

    condition.on_wait = stop
    reader.run()
    assert reader.ended and reader.error is None and waits == [1]


def test_condition_is_notified_of_frames_stop_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    open_with(monkeypatch, Capture([image(), image()]))
    condition = Condition()
    reader = reader_of(0, condition)
    reader.run()
    assert condition.notified == 3  # two frames, and the end
    with condition:
        reader.take()
        assert condition.notified == 4
        reader.take()
        assert reader.take() is None and condition.notified == 5
    reader.request_stop()
    assert condition.notified == 6


def test_streams_keep_index_and_total_when_another_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = threading.Event()
    warnings: list[str] = []

    def warning(message: str, *values: Any) -> None:
        warnings.append(message % values)
        dropped.set()

    def frames() -> Any:
        assert dropped.wait(30)
        yield image(5)

    monkeypatch.setattr(stream_module, "logger", SimpleNamespace(warning=warning))
    captures = {7: Capture(opened=False), "clip.avi": Capture(frames())}
    monkeypatch.setattr(stream_module, "open_capture", captures.get)
    (item,) = stream_items([7, "clip.avi"])
    assert (item.path, item.index, item.total, item.frame, item.kind, item.fps) == ("clip.avi", 1, 2, 0, "stream", 25)
    assert warnings == ["stream 7: can't be opened"]


def test_error_names_the_stream_that_failed_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped, request_stop = threading.Event(), StreamReader.request_stop
    monkeypatch.setattr(StreamReader, "request_stop", lambda reader: (stopped.set(), request_stop(reader)))

    def silent() -> Any:
        stopped.wait(30)
        yield from ()

    captures = {7: Capture(silent()), 3: Capture(opened=False)}
    monkeypatch.setattr(stream_module, "open_capture", captures.get)
    with pytest.raises(ConnectionError, match=r"^stream 3: can't be opened$"), caplog.at_level(logging.WARNING):
        list(stream_items([7, 3], timeout=2))
    assert [record.getMessage() for record in caplog.records] == [
        "stream 3: can't be opened",
        "stream 7: no frame for 2 seconds",
    ]


def test_end_of_a_file_is_not_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    open_with(monkeypatch, Capture([image()]))
    with caplog.at_level(logging.WARNING):
        assert len(list(stream_items(["clip.avi"]))) == 1
    assert not caplog.records


def test_camera_that_stops_is_logged_and_not_reopened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_with(monkeypatch, Capture([image()]))
    with caplog.at_level(logging.WARNING):
        assert len(list(stream_items([0]))) == 1
    assert [record.getMessage() for record in caplog.records] == ["stream 0: the stream stopped"] and opened == [0]


@pytest.mark.parametrize(("frames", "times"), [(100, 1), (88, 1), (87, 2)])
def test_address_is_not_reopened_after_the_announced_frames(
    monkeypatch: pytest.MonkeyPatch, frames: int, times: int
) -> None:
    opened = open_with(monkeypatch, *(Capture(image() for _ in range(count)) for count in (frames, 100)))
    reader = reader_of("http://server/video?id=5", buffered=False)
    monkeypatch.setattr(reader._stop_requested, "wait", lambda seconds: None)
    reader.run()
    assert reader.error is None and len(opened) == times


def test_failed_and_silent_streams_are_dropped_while_another_delivers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Reader:
        fps = ident = None

        def __init__(self, address: int, *arguments: Any, **options: Any) -> None:
            self.address, self.ended = address, address == 1
            self.error = "can't be opened" if self.ended else None
            self.last_frame = float("-inf") if address == 2 else float("inf")

        def take(self) -> tuple[int, np.ndarray] | None:
            return (0, image()) if self.address == 3 else None

        start = request_stop = lambda self: None

    monkeypatch.setattr(stream_module, "StreamReader", Reader)
    monkeypatch.setattr(stream_module, "threading", SimpleNamespace(Condition=Condition))  # its `wait` would raise
    items = stream_items([1, 2, 3, 4], timeout=9)
    with caplog.at_level(logging.WARNING):
        assert [next(items).path for _ in range(3)] == ["3", "3", "3"]
    assert [record.getMessage() for record in caplog.records] == [
        "stream 1: can't be opened",
        "stream 2: no frame for 9 seconds",
    ]


def test_readers_are_stopped_if_a_thread_can_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[StreamReader] = []
    start, join, joined = StreamReader.start, StreamReader.join, list[Any]()

    def start_one(reader: StreamReader) -> None:
        if readers:
            raise RuntimeError("can't start new thread")
        readers.append(reader)
        start(reader)

    def record_join(reader: StreamReader, timeout: float | None = None) -> None:
        joined.append((reader, timeout))
        join(reader, timeout)

    monkeypatch.setattr(StreamReader, "start", start_one)
    monkeypatch.setattr(StreamReader, "join", record_join)
    monkeypatch.setattr(stream_module, "open_capture", lambda address: Capture(iter(image, None)))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(stream_items([0, 1]))
    ((reader, timeout),) = joined
    assert reader is readers[0] and not reader.is_alive()
    assert timeout is not None  # a reader stuck in a driver is not waited for


@pytest.mark.parametrize("address", ["rtsp://camera/1", "clip.avi", 3])
def test_only_addresses_are_opened_by_ffmpeg_with_time_limits(
    monkeypatch: pytest.MonkeyPatch, address: int | str
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: calls.append(arguments))
    open_capture(address)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 15_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 15_000]
    assert calls == [(address, cv2.CAP_FFMPEG, limits) if address == "rtsp://camera/1" else (address,)]


def test_streams_are_unbuffered_without_stride_and_time_out_after_30_seconds_by_default() -> None:
    assert stream_items.__kwdefaults__ == {"vid_stride": 1, "stream_buffer": False, "timeout": 30.0}
    assert load_sources.__kwdefaults__ == {"vid_stride": 1, "stream_buffer": False}
