"""Video sources frame by frame, and streams, tested with local video files and fake cameras."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from fastsam_core.sources import decode_image, load_sources
from fastsam_core.sources import stream as stream_module
from fastsam_core.sources.stream import stream_items
from image_examples import write_video
from local_server import reply, serve

FRAMES, FPS = 12, 10.0


def make_video(path: Path, frames: int = FRAMES) -> Path:
    """Write a Motion JPEG file whose k-th frame is grey with value 20 k."""
    return write_video(path, [np.full((32, 48, 3), 20 * k, np.uint8) for k in range(frames)], FPS)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("videos") / "clip.avi")


def grey(item: Any) -> int:
    assert item.image is not None
    return round(float(item.image.mean()) / 20)


@pytest.mark.parametrize("stride", [1, 2, 5, 100])
def test_video_frames_and_metadata(video: Path, stride: int) -> None:
    source = load_sources(video, vid_stride=stride)
    assert (source.kind, source.path, source.total) == ("video", str(video), None)
    items = list(source)
    expected = list(range(0, FRAMES, stride))
    assert [i.frame for i in items] == expected == [grey(i) for i in items]
    assert source.estimate_total() == len(expected)
    first = items[0]
    assert (first.kind, first.path, first.index, first.total) == ("video", str(video), 0, 1)
    assert (first.fps, first.frames) == (FPS, FRAMES)
    assert first.image.shape == (32, 48, 3) and first.image.dtype == np.uint8


def test_animated_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (48, 32), (60 * k,) * 3) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    items = list(load_sources(tmp_path / "a.gif"))
    assert [(i.kind, i.frame, grey(i)) for i in items] == [("video", k, 3 * k) for k in range(3)]


@pytest.mark.parametrize("stride", [1, 2])
def test_gif_without_durations_keeps_its_frames(tmp_path: Path, stride: int, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (48, 32), (60 * k,) * 3) for k in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    items = list(load_sources(tmp_path / "a.gif", vid_stride=stride))
    assert [(i.frame, grey(i), i.fps, i.frames) for i in items] == [(k, 3 * k, None, 4) for k in range(0, 4, stride)]
    assert not caplog.records


def test_truncated_gif_gives_its_frames_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), dtype=np.uint8)
    frames, file = [Image.fromarray(one) for one in noise], BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=50)
    data = file.getvalue()
    (tmp_path / "a.gif").write_bytes(data[:-900])
    items = list(load_sources(tmp_path / "a.gif"))
    assert [(i.frame, i.fps) for i in items] == [(0, 20), (1, 20)] and "ended before frame 2" in caplog.text
    (tmp_path / "a.gif").write_bytes(data[:900])
    with pytest.raises(ValueError, match=r"a\.gif: damaged GIF"):
        list(load_sources(tmp_path / "a.gif"))


def test_folder_gives_images_before_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "z.png")
    make_video(tmp_path / "b.avi", 2)
    (tmp_path / "c.mp4").write_bytes(b"no video")
    source = load_sources(tmp_path)
    assert (source.kind, source.total, source.estimate_total()) == ("folder", None, None)
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        items = list(source)
    assert [(Path(i.path).name, i.frame, i.index, i.total) for i in items] == [
        ("z.png", None, 0, 3),
        ("b.avi", 0, 1, 3),
        ("b.avi", 1, 1, 3),
        ("c.mp4", None, 2, 3),
    ]
    assert items[3].image is None and "not a video" in str(items[3].error)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [f"skipped {tmp_path / 'c.mp4'}"]
    (tmp_path / "c.mp4").unlink()
    assert load_sources(tmp_path).estimate_total() == 3


def test_unreadable_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match=r"a\.mp4: not a video"):
        list(load_sources(tmp_path / "a.mp4"))


@pytest.mark.parametrize("kind", ["TIFF", "WebP", "PNG", "GIF"])
def test_first_frame_of_a_multi_frame_image_is_used_and_logged(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (48, 32), color) for color in ("red", "blue")]
    several, single = BytesIO(), BytesIO()
    options = {"lossless": True} if kind == "WebP" else {}
    frames[0].save(several, kind, save_all=True, append_images=frames[1:], **options)
    frames[0].save(single, kind, **options)
    expected = decode_image(single.getvalue())
    assert not caplog.records
    for _ in range(2):
        assert np.array_equal(decode_image(several.getvalue()), expected)
    (record,) = caplog.records
    assert kind in record.getMessage() and "only the first is used" in record.getMessage()


def test_damage_after_the_first_frame_does_not_matter() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3), dtype=np.uint8)
    frames, file, alone = [Image.fromarray(one) for one in noise], BytesIO(), BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(alone, "GIF")
    data, expected = file.getvalue(), decode_image(alone.getvalue())
    for end in range(len(alone.getvalue()) + 40, len(data)):
        assert np.array_equal(decode_image(data[:end]), expected), end


def test_truncated_video_gives_its_frames_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (64, 96, 3), np.uint8)
    path = write_video(tmp_path / "a.avi", [noise] * FRAMES, FPS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        items = list(load_sources(path))
    assert 0 < len(items) < FRAMES // 2 + 1
    assert [i.frame for i in items] == list(range(len(items)))
    [record] = caplog.records
    assert f"{path} ended after {len(items)} of the {FRAMES} frames" in record.getMessage()


def test_damaged_frame_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(make_video(tmp_path / "a.avi").read_bytes())
    start = -1
    for _ in range(6):
        start = data.index(b"\xff\xc0", start + 1)  # start-of-frame marker, followed by the segment's length
    data[start + 2 : start + 4] = b"\xff\xff"
    (tmp_path / "a.avi").write_bytes(data)
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        items = list(load_sources(tmp_path / "a.avi"))
    assert [i.frame for i in items] == [k for k in range(FRAMES) if k != 5] == [grey(i) for i in items]
    [record] = caplog.records
    assert "1 of its frames are damaged" in record.getMessage()


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes only on POSIX")
def test_opencv_reads_and_writes_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    try:
        cv2.haveImageReader(b"a.png")
    except (TypeError, cv2.error):
        pytest.skip("this OpenCV takes text alone")
    make_video(tmp_path / "a.avi").rename(folder / os.fsdecode(b"\xfc.avi"))
    program = (
        "import sys; from pathlib import Path; from fastsam_core.sources import load_sources\n"
        "from fastsam_core.sources.stream import open_capture\n"
        "from fastsam_core.saving import _Video\n"
        "from fastsam_core import Results\n"
        "from fastsam_core.annotate.preview import Preview\n"
        "source = load_sources(sys.argv[1])\n"
        "assert source.estimate_total() == 12 and len(list(source)) == 12\n"
        "assert open_capture(str(next(Path(sys.argv[1]).glob('*.avi')))).isOpened()\n"
        "video = _Video(Path(sys.argv[1]) / 'b.avi', 10.0, (32, 48))\n"
        "image = next(iter(source)).image; video.write(image); video.close()\n"
        "preview = Preview(['a'], 1)\n"
        "path, data = preview.thumbnail('a', Results(image, 'a', {}))\n"
        "(Path(sys.argv[1]) / path).parent.mkdir(); (Path(sys.argv[1]) / path).write_bytes(data)\n"
        "assert preview.contact_sheet(Path(sys.argv[1]))\n"
    )
    # In a subprocess, because OpenCV aborts the process on a name that it can't read.
    subprocess.run([sys.executable, "-c", program, folder], check=True)
    assert (folder / "b.avi").stat().st_size


def test_pixel_limit_applies_to_videos(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "1000")
    gif = video.with_suffix(".gif")
    Image.new("RGB", (48, 32)).save(gif)
    for file in (video, gif):
        with pytest.raises(ValueError, match="48 x 32 = 1,536 pixels"):
            list(load_sources(file))


class Recorder:
    """Wraps a capture and counts calls of release. (Subclassing OpenCV's types corrupts memory.)"""

    released = 0

    def __init__(self, capture: Any) -> None:
        self._capture = capture

    def __getattr__(self, name: str) -> Any:
        return getattr(self._capture, name)

    def release(self) -> None:
        Recorder.released += 1
        self._capture.release()


def test_leaving_early_closes_the_file(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cv2.VideoCapture
    monkeypatch.setattr(Recorder, "released", 0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: Recorder(real(*args)))
    with load_sources(video) as source:
        items = iter(source)
        next(items)
        assert Recorder.released == 0
    assert Recorder.released == 1


def test_video_from_an_address(video: Path) -> None:
    data = video.read_bytes()
    with serve(lambda handler: reply(handler, data, headers={"Content-Type": "video/x-msvideo"})) as address:
        url = f"{address}/clip.avi?size=3#x"
        source = load_sources(url, vid_stride=3)
        items = list(source)
        assert (source.kind, source.estimate_total()) == ("video", None)
    assert [(i.path, i.frame) for i in items] == [(url, k) for k in (0, 3, 6, 9)]


# --- streams


def test_buffered_stream_gives_every_frame(video: Path) -> None:
    items = list(stream_items([str(video)], stream_buffer=True))
    assert [(i.frame, grey(i)) for i in items] == [(k, k) for k in range(FRAMES)]
    assert {(i.kind, i.path, i.index, i.total, i.fps) for i in items} == {("stream", str(video), 0, 1, FPS)}


def test_buffered_stream_waits_for_a_slow_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BUFFER", 3)
    items = []
    for item in stream_items([str(make_video(tmp_path / "a.avi"))], stream_buffer=True):
        time.sleep(0.005)
        items.append(item.frame)
    assert items == list(range(FRAMES))


def test_unbuffered_stream_keeps_only_the_latest_frame(video: Path) -> None:
    items: Iterator[Any] = stream_items([str(video)])
    frames = [next(items).frame]
    while any("fastsam stream" in thread.name for thread in threading.enumerate()):
        time.sleep(0.01)  # wait until the reader has reached the end
    frames += [item.frame for item in items]
    assert len(frames) == len(set(frames)) <= 2
    assert frames == sorted(frames) and frames[-1] == FRAMES - 1


@pytest.mark.parametrize("buffered", [True, False])
def test_stream_stride(video: Path, buffered: bool) -> None:
    frames = [i.frame for i in stream_items([str(video)], vid_stride=5, stream_buffer=buffered)]
    assert frames == [0, 5, 10] if buffered else frames[-1] == 10


def test_streams_file(video: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "other.avi", 4)
    (tmp_path / "all.streams").write_text(f"# cameras\n{video}\n\nother.avi\n")
    source = load_sources(tmp_path / "all.streams", stream_buffer=True)
    assert (source.kind, source.total) == ("stream", None)
    items = list(source)
    assert [i.frame for i in items if i.index == 0] == list(range(FRAMES))
    assert [i.frame for i in items if i.index == 1] == list(range(4))
    assert {i.total for i in items} == {2}
    assert {i.path for i in items} == {str(video), str(tmp_path / "other.avi")}


def test_streams_file_of_addresses_and_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.streams").write_text("rtsp://camera/1\n 2 \n")
    opened: list[Any] = []
    monkeypatch.setattr(
        "fastsam_core.sources.load.stream_items", lambda addresses, **_: iter(opened.extend(addresses) or ())
    )
    source = load_sources(tmp_path / "a.streams")
    assert list(source) == [] and opened == ["rtsp://camera/1", 2] and source.path == str(tmp_path / "a.streams")


def test_failed_stream_does_not_stop_the_others(video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        items = list(stream_items([str(broken), str(video)], stream_buffer=True))
    assert [i.frame for i in items] == list(range(FRAMES))
    assert [r.getMessage() for r in caplog.records] == [f"stream {broken}: can't be opened"]
    with pytest.raises(ConnectionError, match="can't be opened"):
        list(stream_items([str(broken)]))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ValueError, "names no stream"),
        (b"\xff\xfe", ValueError, "UTF-8"),
        (b"gone.avi", FileNotFoundError, r"gone\.avi"),
        (b"99999", ValueError, "camera number"),
        (b"a.streams", ValueError, "neither an address"),
    ],
)
def test_bad_streams_files_are_refused(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "a.streams").write_bytes(content)
    with pytest.raises(error, match=message):
        load_sources(tmp_path / "a.streams")


class FakeCapture:
    """A camera that gives `frames` frames and then fails, or first waits for `block` to be set."""

    def __init__(self, frames: int, block: threading.Event | None = None) -> None:
        self.left, self.block = frames, block

    def isOpened(self) -> bool:
        return self.left >= 0

    def grab(self) -> bool:
        if self.left == 0 and self.block is not None:
            self.block.wait(10)
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((4, 4, 3), np.uint8)

    def get(self, what: int) -> float:
        return float("nan") if what == cv2.CAP_PROP_FPS else -1.0

    def release(self) -> None:
        pass


@pytest.mark.parametrize("address", [0, "0", 7, "rtsp://camera/1", "TCP://1.2.3.4:5", "rtmp://x"])
def test_cameras_and_stream_addresses_are_opened(address: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_capture(where: Any) -> FakeCapture:
        opened.append(where)
        return FakeCapture(3 if len(opened) == 1 else -1)

    monkeypatch.setattr(stream_module, "open_capture", open_capture)
    monkeypatch.setattr(stream_module, "_RETRIES", 0)
    source = load_sources(address, stream_buffer=True)
    assert source.kind == "stream"
    items = list(source)
    assert [i.frame for i in items] == [0, 1, 2]
    assert items[0].fps is None and items[0].path == str(address)
    assert opened[0] == (int(address) if str(address).isdigit() else address)


def test_failed_address_is_reopened_with_increasing_delays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    captures = iter([FakeCapture(2), FakeCapture(-1), FakeCapture(3), *[FakeCapture(-1)] * 9])
    waits: list[float] = []
    monkeypatch.setattr(stream_module, "open_capture", lambda where: next(captures))
    monkeypatch.setattr(stream_module.threading.Event, "wait", lambda self, seconds=None: waits.append(seconds))
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        items = list(stream_items(["rtsp://camera"], stream_buffer=True))
    assert [i.frame for i in items] == [0, 1, 2, 3, 4]
    assert [w for w in waits if w is not None] == [1.0, 2.0, 1.0, 2.0, 4.0]
    assert [r.getMessage() for r in caplog.records] == ["stream rtsp://camera: can't be opened"]


def test_silent_stream_ends_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    block, request_stop = threading.Event(), stream_module.StreamReader.request_stop
    monkeypatch.setattr(stream_module, "open_capture", lambda where: FakeCapture(2, block))
    monkeypatch.setattr(stream_module.StreamReader, "request_stop", lambda reader: (block.set(), request_stop(reader)))
    started = threading.active_count()
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        assert [item.frame for item in stream_items([0], stream_buffer=True, timeout=0.5)] == [0, 1]
    assert [r.getMessage() for r in caplog.records] == ["stream 0: no frame for 0.5 seconds"]
    assert threading.active_count() <= started


def test_frames_skipped_by_the_stride_keep_the_stream_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(stream_module, "open_capture", lambda where: FakeCapture(5))
    reader = stream_module.StreamReader(0, threading.Condition(), buffered=False, vid_stride=100)
    made = reader.last_frame
    reader.run()
    assert reader.ended and reader.last_frame >= made + 40


def test_closing_a_stream_stops_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "open_capture", lambda where: FakeCapture(10**9))
    with load_sources(0) as source:
        for item in source:
            assert item.image is not None
            break
    assert not any("fastsam stream" in thread.name for thread in threading.enumerate())
