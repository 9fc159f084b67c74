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
        _, picture = open_image(handle)
        check_size(picture.width, picture.height)
        number, frames = 0, None
        while True:
            try:
                frames = frames or int(picture.n_frames)
                if number >= frames:
                    return
                picture.seek(number)
                pixels = from_pil(picture)
            except Exception as error:  # decoders raise exceptions of many types
                if number == 0:
                    raise ValueError(f"damaged GIF file: {error}") from error
                logger.warning("%s ended before frame %d of %d: %s", path, number, frames, error)
                return
            duration = picture.info.get("duration")  # milliseconds
            yield Item(
                pixels, path, frame=number, kind="video", fps=1000 / duration if duration else None, frames=frames
            )
            number += vid_stride
