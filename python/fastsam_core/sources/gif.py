"""Animated GIFs, read by Pillow: if frames have no duration, OpenCV returns only the first."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .._log import logger
from .arrays import from_pil
from .decode import check_size, open_image
from .item import Item


def is_gif(file: str | os.PathLike[str]) -> bool:
    """Return whether a file starts with a GIF signature, whatever its name."""
    with open(file, "rb") as handle:
        return handle.read(6) in (b"GIF87a", b"GIF89a")


def gif_items(file: str | os.PathLike[str], path: str, vid_stride: int) -> Iterator[Item]:
    """Yield frames 0, vid_stride, 2 * vid_stride... of a GIF as `Item`s named `path`.

    A damaged frame ends the iteration with a warning. Raises ValueError if the first frame can't be decoded.
    """
    with open(file, "rb") as handle:
        _, image = open_image(handle)
        check_size(image.width, image.height)
        frame_number, frames = 0, None
        while True:
            try:
                frames = frames or int(image.n_frames)
                if frame_number >= frames:
                    return
                image.seek(frame_number)
                pixels = from_pil(image)
            except Exception as error:  # decoders raise exceptions of many types
                if frame_number == 0:
                    raise ValueError(f"damaged GIF file: {error}") from error
                logger.warning("%s ended before frame %d of %d: %s", path, frame_number, frames, error)
                return
            duration = image.info.get("duration")  # milliseconds
            yield Item(
                pixels, path, frame=frame_number, kind="video", fps=1000 / duration if duration else None, frames=frames
            )
            frame_number += vid_stride
