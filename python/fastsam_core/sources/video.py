"""Video files, frame by frame."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from .._files import opencv_path
from .._log import logger
from .arrays import from_array
from .decode import check_size
from .gif import gif_items, is_gif
from .item import Item

_MAX_CONSECUTIVE_DAMAGED = 100  # consecutive damaged frames after which the rest of the video is given up


def video_items(file: str, path: str, *, vid_stride: int = 1) -> Iterator[Item]:
    """Yield frames 0, vid_stride, 2 * vid_stride... of a video file as `Item`s named `path`.

    Frames are rotated by the video's rotation tag. Damaged frames within the length that the header announces are
    skipped. A warning reports skipped frames, and a video that ends well before its announced length. Raises
    FileNotFoundError without a file, ValueError if no frame can be decoded or a frame exceeds the pixel limit.
    """
    import cv2

    if not os.path.isfile(file):
        if os.path.exists(file):
            raise ValueError("not a regular file")
        raise FileNotFoundError(f"no such file: {file}")
    if is_gif(file):
        yield from gif_items(file, path, vid_stride)
        return
    capture = cv2.VideoCapture(opencv_path(file))
    try:
        if not capture.isOpened():
            raise ValueError("not a video that OpenCV can read: damaged, empty, or of an unknown codec")
        frames, fps = frame_count_and_fps(capture)
        check_size(int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        frame_number = end = decoded = 0  # end: one past the last frame that could be decoded
        while frame_number == end or (frame_number < (frames or 0) and frame_number - end < _MAX_CONSECUTIVE_DAMAGED):
            success, image = capture.grab(), None
            if success and frame_number % vid_stride == 0:
                success, image = capture.retrieve()
            frame_number += 1
            if success:
                end, decoded = frame_number, decoded + 1
            if success and image is not None:
                yield Item(from_array(image), path, frame=frame_number - 1, kind="video", fps=fps, frames=frames)
    finally:
        capture.release()
    if not decoded:
        raise ValueError("no frame of the video can be decoded")
    if decoded < end:
        logger.warning("%s: %d of its frames are damaged and skipped", path, end - decoded)
    if frames is not None and ended_early(end, frames):
        logger.warning("%s ended after %d of the %d frames that its header declares", path, end, frames)


def frame_count_and_fps(capture: Any) -> tuple[int | None, float | None]:
    """Return (number of frames, frames per second) from the header of a capture; None for a missing value."""
    import cv2

    num_frames, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return (
        int(num_frames) if math.isfinite(num_frames) and 0 < num_frames < 1e9 else None,
        float(fps) if math.isfinite(fps) and 0 < fps < 1e6 else None,
    )


def ended_early(num_frames: int, announced: int) -> bool:
    """Return whether a video of `num_frames` lacks a part of the announced ones. Headers are often off by a few."""
    return num_frames < 0.9 * announced - 2


def expected_frame_count(file: str, vid_stride: int) -> int | None:
    """Return how many items `video_items` will yield according to the video's header, or None if it doesn't say."""
    import cv2

    if not os.path.isfile(file):
        return None
    capture = cv2.VideoCapture(opencv_path(file))
    try:
        frames = frame_count_and_fps(capture)[0]
    finally:
        capture.release()
    return None if frames is None else math.ceil(frames / vid_stride)
