"""Live streams, each read by a thread of its own, so that a slow model doesn't fall behind the camera."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import opencv_path
from .._log import hide_passwords, logger
from .arrays import from_array
from .item import Item
from .video import ended_early, frame_count_and_fps

BUFFER = 30  # frames that a buffered stream holds before its reader blocks
TIMEOUT = 30.0  # seconds without a frame after which a stream counts as dead
_OPEN_TIMEOUT_MS = 15_000
_RETRIES = 3


class StreamReader(threading.Thread):
    """Reads one stream in the background.

    address: a camera number, a URL or the path of a video. condition: condition that guards the frames and is notified
    when one is added or taken and when the reader ends. buffered: if true, hold up to `BUFFER` frames and block the
    reader when full; else hold only the latest frame and drop frames that weren't taken in time. vid_stride: keep every
    `vid_stride`-th frame.

    A URL whose stream stops is reopened, up to three times without a new frame, but not after all frames that it has
    announced. `error` says why the reader ended; it is None at the end of a video.
    """

    def __init__(self, address: int | str, condition: threading.Condition, *, buffered: bool, vid_stride: int) -> None:
        super().__init__(name=f"fastsam stream {hide_passwords(str(address))}", daemon=True)
        self.address = address
        self.fps: float | None = None
        self.error: str | None = None
        self.ended = False
        self.last_frame = time.monotonic()
        self._condition = condition
        self._frames: deque[tuple[int, NDArray[np.uint8]]] = deque(maxlen=BUFFER if buffered else 1)
        self._buffered = buffered
        self._stride = vid_stride
        self._stop_requested = threading.Event()
        self._is_url = isinstance(address, str) and "://" in address
        self._is_file = isinstance(address, str) and not self._is_url

    def take(self) -> tuple[int, NDArray[np.uint8]] | None:
        """Return the next (buffered) or latest frame with its number, or None. The caller must hold `condition`."""
        if not self._frames:
            return None
        if len(self._frames) == BUFFER:
            self.last_frame = time.monotonic()  # the reader was blocked; that doesn't count as silence
        frame = self._frames.popleft()
        self._condition.notify_all()
        return frame

    def request_stop(self) -> None:
        self._stop_requested.set()
        with self._condition:
            self._condition.notify_all()

    def run(self) -> None:
        try:
            self._read()
        except Exception as error:  # an exception in a thread would be lost otherwise
            self.error = f"{type(error).__name__}: {error}"
        finally:
            with self._condition:
                self.ended = True
                self._condition.notify_all()

    def _read(self) -> None:
        frame_number, failures = 0, 0
        while not self._stop_requested.is_set():
            capture = open_capture(self.address)
            try:
                if capture.isOpened():
                    self.error = None  # of the previous attempt; a stream that falls silent now hasn't stopped
                    announced, self.fps = frame_count_and_fps(capture)
                    first_number = frame_number
                    frame_number = self._read_frames(capture, frame_number)
                    num_read = frame_number - first_number
                    is_whole = self._is_file or (announced is not None and not ended_early(num_read, announced))
                    if num_read and is_whole:
                        return
                    failures = 0 if num_read else failures
                    self.error = "the stream stopped" if num_read or self._is_url else "no frame can be decoded"
                else:
                    self.error = "can't be opened"
            finally:
                capture.release()
            failures += 1
            if not self._is_url or failures > _RETRIES:
                return
            self._stop_requested.wait(2.0 ** (failures - 1))

    def _read_frames(self, capture: Any, frame_number: int) -> int:
        while not self._stop_requested.is_set() and capture.grab():
            self.last_frame = time.monotonic()  # for skipped frames too, since they show that the stream is alive
            if frame_number % self._stride == 0:
                success, image = capture.retrieve()
                if not success:
                    break
                self._put(frame_number, from_array(image))
            frame_number += 1
        return frame_number

    def _put(self, frame_number: int, image: NDArray[np.uint8]) -> None:
        with self._condition:
            while self._buffered and len(self._frames) == BUFFER and not self._stop_requested.is_set():
                self._condition.wait(1.0)
            self._frames.append((frame_number, image))
            self._condition.notify_all()


def open_capture(address: int | str) -> Any:
    """Return an OpenCV capture for a camera number, URL or file. URLs are opened by FFmpeg with time limits."""
    import cv2

    if isinstance(address, str) and "://" in address:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS]
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(opencv_path(address) if isinstance(address, str) else address)


def stream_items(
    addresses: Sequence[int | str], *, vid_stride: int = 1, stream_buffer: bool = False, timeout: float = TIMEOUT
) -> Iterator[Item]:
    """Yield the frames of one or more streams as they arrive, until all streams have ended.

    An item's `index` is the stream's position in `addresses`; `frame` is the frame number, which skips dropped frames.
    A stream that can't be opened, stops, or delivers no frame for `timeout` seconds is logged and dropped while the
    others continue. Raises ConnectionError at the end if no stream delivered a frame.
    """
    condition = threading.Condition()
    readers = [StreamReader(address, condition, buffered=stream_buffer, vid_stride=vid_stride) for address in addresses]
    active = dict(enumerate(readers))
    reasons: dict[int, str] = {}
    num_frames = 0
    try:
        for reader in readers:
            reader.start()
        while active:
            with condition:
                taken = [(i, reader, reader.take()) for i, reader in active.items()]
                for i, reader, frame in taken:
                    timed_out = time.monotonic() - reader.last_frame > timeout
                    if frame is None and (reader.ended or timed_out):
                        reason = reader.error or (None if reader.ended else f"no frame for {timeout:g} seconds")
                        if reason:
                            reasons[i] = reason
                            logger.warning("stream %s: %s", reader.address, reason)
                        del active[i]
                if active and not any(frame for _, _, frame in taken):
                    condition.wait(min(1.0, timeout))
            for i, reader, frame in taken:
                if frame is not None:
                    num_frames += 1
                    yield Item(
                        frame[1], str(reader.address), None, frame[0], i, len(readers), kind="stream", fps=reader.fps
                    )
    finally:
        for reader in readers:
            reader.request_stop()
        for reader in readers:
            if reader.ident is not None:
                reader.join(timeout=2.0)  # a reader stuck in a driver is abandoned; it is a daemon thread
    if not num_frames:
        first = next(iter(reasons.items()), (0, "it gave no frame"))
        raise ConnectionError(f"stream {hide_passwords(str(addresses[first[0]]))}: {first[1]}")
