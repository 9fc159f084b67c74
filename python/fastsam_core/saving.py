"""Output files of a run: annotated images and videos, label files and crops, all in one folder."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ._files import atomic_path, opencv_path
from ._log import logger
from .config import Config
from .results import Results
from .sources import Item
from .sources.paths import last_part

# Frame rate for sources that don't announce one, as many live streams.
_DEFAULT_FPS = 30.0
# Minimum video width in pixels. For tall videos 2, 3, 6 or 7 pixels wide, OpenCV 5.0 writes past the end of its buffer.
_MIN_VIDEO_WIDTH = 8
_MAX_ADDRESS_STEM = 60  # characters of an address that become the stem of a file


def writes_files(config: Config) -> bool:
    """Return whether a run with these options writes any file."""
    return config.save or config.save_txt or config.save_crop or config.save_frames


def create_run_folder(config: Config) -> Path:
    """Create and return the folder of a run: runs/<task>/<project>/<name>.

    If it exists and `exist_ok` is False, <name>-2, <name>-3 and so on is used. An absolute `project` replaces
    runs/<task>. `name` is `predict` by default.
    """
    base = Path("runs", config.task, os.path.expanduser(config.project or "")).absolute()
    name = config.name or config.mode
    try:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = base / (name if number == 1 else f"{name}-{number}")
            try:
                # Creating it is also the check whether it exists, so that two processes never get the same folder.
                folder.mkdir(exist_ok=config.exist_ok)
                break
            except FileExistsError:
                if config.exist_ok:
                    raise
    except OSError as error:
        hint = "give project= to choose another folder, or save=False to write nothing"
        raise type(error)(error.errno, f"{error.strerror} ({hint})", error.filename) from error
    return folder


class ResultWriter:
    """Writer of the results of one call into `folder`. It must be closed, to finish videos.

    Within a call no file is overwritten: a second image of the same stem gets `<stem>-2`. Files of the same name that
    an earlier call wrote are replaced. `num_label_files` is the number of label files written.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.num_label_files = 0
        self._config = config
        self._used_stems: set[str] = set()
        self._video_stems: set[str] = set()
        self._videos: dict[int, _Video | None] = {}
        self._stems: dict[int, str] = {}
        self._numbers: dict[tuple[str, bool], int] = {}  # where to go on looking for a free `<stem>-<number>`

    def write(self, item: Item, result: Results) -> np.ndarray | None:
        """Write and show what the options ask for, for one image or frame; return what was drawn, if anything."""
        config = self._config
        result.save_dir = str(self.folder)
        stem = self._stem(item)
        frame_stem = stem if item.frame is None else f"{stem}_{item.frame}"
        drawn: np.ndarray | None = None
        if config.save or config.show or (config.save_frames and item.frame is not None):
            drawn = result.plot(
                conf=config.show_conf,
                line_width=config.line_width,
                labels=config.show_labels,
                boxes=config.show_boxes,
            )
            self._write_drawn(item, drawn, stem, frame_stem)
        if config.save_txt:
            self._write_labels(result, self.folder / "labels" / f"{frame_stem}.txt")
        if config.save_crop:
            result.save_crop(self.folder / "crops", f"{frame_stem}.jpg")
        return drawn

    def close(self) -> None:
        """Finish the videos. A video that was interrupted contains the frames so far."""
        with ExitStack() as stack:  # closes all of them, even if one raises
            for video in self._videos.values():
                if video is not None:
                    stack.callback(video.close)
            self._videos.clear()

    def _stem(self, item: Item) -> str:
        """Return a file stem that no other item has; all frames of one video share it."""
        if item.index not in self._stems or item.frame is None:
            base = Path(last_part(item.path)).stem or "image"
            if "://" in item.path:
                base = base[:_MAX_ADDRESS_STEM]
            key = base.casefold(), item.frame is None
            number = self._numbers.get(key, 1)
            stem = base if number == 1 else f"{base}-{number}"
            while self._is_taken(stem.casefold(), item):
                number += 1
                stem = f"{base}-{number}"
            if number > 1:
                self._numbers[key] = number
            self._used_stems.add(stem.casefold())
            if item.frame is not None:
                self._video_stems.add(stem.casefold())
            self._stems[item.index] = stem
        return self._stems[item.index]

    def _is_taken(self, stem: str, item: Item) -> bool:
        """Return whether files of this stem could collide with those of another item.

        The labels of a video `clip` are in `clip_1.txt` and so on, like those of an image `clip_1`.
        """
        if item.frame is not None:
            frame = re.compile(re.escape(stem) + r"_\d+")
            return stem in self._used_stems or any(frame.fullmatch(used) for used in self._used_stems)
        prefix, _, number = stem.rpartition("_")
        return stem in self._used_stems or (prefix in self._video_stems and number.isdecimal())

    def _write_drawn(self, item: Item, drawn: np.ndarray, stem: str, frame_stem: str) -> None:
        from .plotting import default_suffix, show_image, write_image

        if self._config.show:
            show_image(drawn, item.path)
        if item.frame is None:
            if self._config.save:
                write_image(self.folder / f"{stem}{default_suffix(drawn)}", drawn)
            return
        in_video = self._config.save and self._write_frame(item, drawn, stem)
        if self._config.save_frames or (self._config.save and not in_video):
            write_image(self.folder / f"{stem}_frames" / f"{frame_stem}{default_suffix(drawn)}", drawn)

    def _write_frame(self, item: Item, drawn: np.ndarray, stem: str) -> bool:
        """Append a frame to the item's video. Return False if OpenCV can't write the video."""
        if item.index not in self._videos:
            if item.kind == "video":
                self.close()  # video files come one after the other; streams are interleaved
            fps = (item.fps or _DEFAULT_FPS) / self._config.vid_stride
            try:
                self._videos[item.index] = _Video(self.folder / f"{stem}.avi", fps, drawn.shape[:2])
            except OSError as error:
                logger.warning("%s: %s; its frames are written as images", item.path, error)
                self._videos[item.index] = None
        video = self._videos[item.index]
        if video is not None:
            video.write(drawn)
        return video is not None

    def _write_labels(self, result: Results, target: Path) -> None:
        with atomic_path(target) as temporary:
            result.save_txt(temporary, save_conf=self._config.save_conf)
        if target.stat().st_size:
            self.num_label_files += 1
        else:
            target.unlink()  # without objects there is no label file


class _Video:
    """Writer of a Motion JPEG video, which every OpenCV build supports. The file appears when it is closed."""

    def __init__(self, target: Path, fps: float, size: tuple[int, int]) -> None:
        import cv2

        self._height, self._width = size
        self._target = target
        if self._width < _MIN_VIDEO_WIDTH:
            raise OSError(f"a video must be at least {_MIN_VIDEO_WIDTH} pixels wide; got {self._width}")
        with ExitStack() as stack:
            temporary = self._temporary = stack.enter_context(atomic_path(target))
            fourcc: Any = cv2.VideoWriter.fourcc(*"MJPG")
            self._writer = cv2.VideoWriter(opencv_path(temporary), fourcc, fps, (self._width, self._height))
            if not self._writer.isOpened():
                what = f"{self._width} x {self._height} pixels at {fps:g} frames per second"
                raise OSError(f"OpenCV can't write a video of {what} to {target}")
            self._stack = stack.pop_all()

    def write(self, frame: np.ndarray) -> None:
        import cv2

        # A stream may change its frame size; a video file can't.
        self._writer.write(cv2.resize(frame, (self._width, self._height)))

    def close(self) -> None:
        """Finish the file. Raises OSError and leaves no file if it is incomplete: OpenCV doesn't report a full disk."""
        with self._stack:
            self._writer.release()
            if not _is_complete_avi(self._temporary):
                raise OSError(f"the video {self._target} can't be written whole; is the disk full?")


def _is_complete_avi(path: Path) -> bool:
    """Return whether the file's length matches its RIFF chunks, of which a large AVI has several."""
    length, end = path.stat().st_size, 0
    with open(path, "rb") as file:
        while end < length:
            file.seek(end)
            kind, size = file.read(4), file.read(4)
            if kind != b"RIFF" or len(size) < 4:
                return False
            end += 8 + int.from_bytes(size, "little")
    return end == length > 0
