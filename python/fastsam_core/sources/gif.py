"""Animated GIFs, frame by frame, by Pillow: of frames without a duration, OpenCV gives the first alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .._log import logger
from .arrays import from_pil
from .decode import check_size, opened
from .item import Item


def is_gif(file: str | os.PathLike[str]) -> bool:
    """Whether it begins as one, whatever its name."""
    with open(file, "rb") as handle:
        return handle.read(6) in (b"GIF87a", b"GIF89a")


def gif_items(file: str | os.PathLike[str], path: str, vid_stride: int) -> Iterator[Item]:
    """Frames 0, vid_stride, 2 * vid_stride... as `Item`s named `path`, up to the first damaged one, of which a warning.

    ValueError where the first can't be decoded.
    """
    with open(file, "rb") as handle:
        _, picture = opened(handle)
        check_size(picture.width, picture.height)
        number, frames = 0, None
        while True:
            try:
                frames = frames or int(picture.n_frames)
                if number >= frames:
                    return
                picture.seek(number)
                pixels = from_pil(picture)
            except Exception as error:  # decoders raise whatever they stumble over
                if number == 0:
                    raise ValueError(f"damaged GIF file: {error}") from error
                logger.warning("%s ended before frame %d of %d: %s", path, number, frames, error)
                return
            duration = picture.info.get("duration")  # milliseconds
            yield Item(
                pixels, path, frame=number, kind="video", fps=1000 / duration if duration else None, frames=frames
            )
            number += vid_stride
