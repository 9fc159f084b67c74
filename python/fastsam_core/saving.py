"""What a run writes to disk: annotated pictures and videos, label files and crops, all in one folder."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ._files import atomic_path, for_opencv
from ._log import logger
from .config import Config
from .results import Results
from .sources import Item

# Where no frame rate is announced, which live streams often don't.
_DEFAULT_FPS = 30.0
# Pixels. Of tall videos that are 2, 3, 6 or 7 wide, OpenCV 5.0 writes past the end of its memory.
_NARROWEST = 8


def wants_folder(config: Config) -> bool:
    """Whether a run with these options writes anything."""
    return config.save or config.save_txt or config.save_crop or config.save_frames


def run_folder(config: Config) -> Path:
    """Make and return this run's folder: runs/<task>/<project>/<name>, then <name>-2 and so on unless `exist_ok`.

    An absolute `project` stands alone; `name` is `predict` by default.
    """
    base = Path("runs", config.task, os.path.expanduser(config.project or "")).absolute()
    name = config.name or config.mode
    number = 1
    while True:
        folder = base / (name if number == 1 else f"{name}-{number}")
        try:
            # Making it is the test, so that two processes never share a folder.
            folder.mkdir(parents=True, exist_ok=config.exist_ok)
        except FileExistsError:
            if config.exist_ok:
                raise
            number += 1
        except OSError as error:
            hint = "project names another place, and with save=False nothing is written"
            raise type(error)(error.errno, f"{error.strerror} ({hint})", error.filename) from error
        else:
            return folder


class ResultWriter:
    """Writes the results of one call into `folder`.

    Within a call no file is written twice: a second picture of the same stem gets `<stem>-2`. What an earlier call
    left under the same name is replaced. Close it, so that videos are finished.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.labels = 0
        self._config = config
        self._used: set[str] = set()
        self._used_by_frames: set[str] = set()
        self._videos: dict[int, _Video | None] = {}
        self._stems: dict[int, str] = {}

    def write(self, item: Item, result: Results) -> None:
        """Whatever the options ask for, for one picture or frame."""
        config = self._config
        result.save_dir = str(self.folder)
        stem = self._stem(item)
        frame_stem = stem if item.frame is None else f"{stem}_{item.frame}"
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

    def close(self) -> None:
        """Finish the videos. One that was left early holds the frames so far."""
        with ExitStack() as stack:  # all of them, also when one can't be finished
            for video in self._videos.values():
                if video is not None:
                    stack.callback(video.close)
            self._videos.clear()

    def _stem(self, item: Item) -> str:
        """A file stem of the item's own; all frames of one video share it."""
        if item.index not in self._stems or item.frame is None:
            wanted = Path(item.path).stem or "image"
            stem, number = wanted, 1
            while self._is_taken(stem.casefold(), item):
                number += 1
                stem = f"{wanted}-{number}"
            self._used.add(stem.casefold())
            if item.frame is not None:
                self._used_by_frames.add(stem.casefold())
            self._stems[item.index] = stem
        return self._stems[item.index]

    def _is_taken(self, stem: str, item: Item) -> bool:
        """Frames of `clip` have their labels in `clip_1.txt` and so on, and so have pictures of that name."""
        if item.frame is not None:
            frame = re.compile(re.escape(stem) + r"_\d+")
            return stem in self._used or any(frame.fullmatch(used) for used in self._used)
        before, _, number = stem.rpartition("_")
        return stem in self._used or (before in self._used_by_frames and number.isdecimal())

    def _write_drawn(self, item: Item, drawn: np.ndarray, stem: str, frame_stem: str) -> None:
        from .plotting import show_image, usual_suffix, write_image

        if self._config.show:
            show_image(drawn, item.path)
        if item.frame is None:
            if self._config.save:
                write_image(self.folder / f"{stem}{usual_suffix(drawn)}", drawn)
            return
        in_video = self._config.save and self._write_frame(item, drawn, stem)
        if self._config.save_frames or (self._config.save and not in_video):
            write_image(self.folder / f"{stem}_frames" / f"{frame_stem}{usual_suffix(drawn)}", drawn)

    def _write_frame(self, item: Item, drawn: np.ndarray, stem: str) -> bool:
        """Append to the item's video; False where no video can be written here."""
        if item.index not in self._videos:
            if item.kind == "video":
                self.close()  # files come one after the other, streams side by side
            fps = (item.fps or _DEFAULT_FPS) / self._config.vid_stride
            try:
                self._videos[item.index] = _Video(self.folder / f"{stem}.avi", fps, drawn.shape[:2])
            except OSError as error:
                logger.warning("%s: %s; its frames are written as pictures", item.path, error)
                self._videos[item.index] = None
        video = self._videos[item.index]
        if video is not None:
            video.write(drawn)
        return video is not None

    def _write_labels(self, result: Results, target: Path) -> None:
        with atomic_path(target) as temporary:
            result.save_txt(temporary, save_conf=self._config.save_conf)
        if target.stat().st_size:
            self.labels += 1
        else:
            target.unlink()  # no objects, no file


class _Video:
    """A Motion JPEG file, which every OpenCV can write; whole only once it is closed."""

    def __init__(self, target: Path, fps: float, size: tuple[int, int]) -> None:
        import cv2

        self._height, self._width = size
        self._target = target
        if self._width < _NARROWEST:
            raise OSError(f"a video can't be written with {self._width} pixels across, only with {_NARROWEST} or more")
        with ExitStack() as stack:
            temporary = self._temporary = stack.enter_context(atomic_path(target))
            fourcc: Any = cv2.VideoWriter.fourcc(*"MJPG")
            self._writer = cv2.VideoWriter(for_opencv(temporary), fourcc, fps, (self._width, self._height))
            if not self._writer.isOpened():
                raise OSError(f"OpenCV can't write a video of {self._width} x {self._height} pixels to {target}")
            self._stack = stack.pop_all()

    def write(self, frame: np.ndarray) -> None:
        import cv2

        if frame.shape[:2] != (self._height, self._width):  # a stream may change its size; a file can't
            frame = cv2.resize(frame, (self._width, self._height))
        self._writer.write(frame)

    def close(self) -> None:
        """OSError, and no file, where not all of it was written: OpenCV says nothing of a disk that is full."""
        with self._stack:
            self._writer.release()
            if not _is_whole_avi(self._temporary):
                raise OSError(f"the video {self._target} can't be written whole; is the disk full?")


def _is_whole_avi(path: Path) -> bool:
    """Whether the file is as long as its parts say, of which a large one has several."""
    length, end = path.stat().st_size, 0
    with open(path, "rb") as file:
        while end < length:
            file.seek(end)
            kind, size = file.read(4), file.read(4)
            if kind != b"RIFF" or len(size) < 4:
                return False
            end += 8 + int.from_bytes(size, "little")
    return end == length > 0
