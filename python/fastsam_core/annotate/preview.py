"""The contact sheet: thumbnails of a few images with their masks, to judge the labels at a glance."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..plotting import text
from ..plotting.output import encode_image
from ..results import Results
from .shards import stable_hash

PREVIEW_FILE = "preview.jpg"
MAX_COUNT = 10_000  # images on the sheet, which then takes 2.3 GB; a JPEG has at most 65,500 pixels on a side
_THUMBNAIL_FOLDER = ".preview"
_THUMBNAIL_SIZE = 256  # width and height of the space for a thumbnail, in pixels
_CAPTION_HEIGHT = 22
_GAP = 6
_BACKGROUND = (32, 32, 32)
_TEXT_COLOUR = (220, 220, 220)


def has_thumbnails(folder: Path) -> bool:
    """Return whether a run has stored thumbnails in `folder`; without any, `preview.jpg` isn't a contact sheet."""
    return (folder / _THUMBNAIL_FOLDER).is_dir()


class Preview:
    """The images of the contact sheet, and their thumbnails, which are stored until the sheet is made.

    Images are chosen by the hash of their names: evenly spread, and the same ones however the work is divided.
    """

    def __init__(self, keys: Collection[str], count: int) -> None:
        self.keys: Sequence[str] = heapq.nsmallest(count, keys, key=lambda key: (stable_hash(key), key))
        self._chosen = frozenset(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._chosen

    def thumbnail_path(self, key: str) -> str:
        """Return the path of an image's thumbnail, relative to the folder of labels."""
        return f"{_THUMBNAIL_FOLDER}/{stable_hash(key):016x}.png"

    def has_thumbnail(self, folder: Path, key: str) -> bool:
        """Return whether the image's thumbnail exists."""
        return (folder / self.thumbnail_path(key)).exists()

    def thumbnail(self, key: str, results: Results) -> tuple[str, bytes]:
        """Return the relative path and the PNG content of the image's thumbnail."""
        return self.thumbnail_path(key), encode_image(
            _captioned(_fit_thumbnail(results.plot(labels=False)), key), ".png"
        )

    def contact_sheet(self, folder: Path) -> bytes | None:
        """Return the sheet of all thumbnails as JPEG, or None if there are none. Images that failed are missing."""
        import cv2

        files = [
            (folder / self.thumbnail_path(key)).read_bytes() for key in self.keys if self.has_thumbnail(folder, key)
        ]
        tiles = [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for content in files if content]
        decoded = [np.asarray(tile, np.uint8) for tile in tiles if tile is not None]
        return encode_image(_contact_sheet(decoded), ".jpg") if decoded else None


def _fit_thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    height, width = image.shape[:2]
    scale = _THUMBNAIL_SIZE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _captioned(image: NDArray[np.uint8], key: str) -> NDArray[np.uint8]:
    """Return the thumbnail centred in a tile, with the image's name below."""
    tile = np.full((_THUMBNAIL_SIZE + _CAPTION_HEIGHT, _THUMBNAIL_SIZE, 3), _BACKGROUND, np.uint8)
    height, width = image.shape[:2]
    top, left = (_THUMBNAIL_SIZE - height) // 2, (_THUMBNAIL_SIZE - width) // 2
    tile[top : top + height, left : left + width] = image
    # Long names are cut at the start, as the end of a path says most. Unprintable characters are left out.
    caption_text = "".join(letter for letter in os.path.splitext(key)[0] if letter.isprintable())
    caption_text = caption_text if len(caption_text) <= 34 else "..." + caption_text[-31:]
    caption = text.render_label(caption_text or "?", "", 12, _TEXT_COLOUR, _BACKGROUND)[
        :_CAPTION_HEIGHT, :_THUMBNAIL_SIZE
    ]
    tile[_THUMBNAIL_SIZE : _THUMBNAIL_SIZE + caption.shape[0], : caption.shape[1]] = caption
    return tile


def _contact_sheet(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    columns = math.ceil(math.sqrt(len(tiles) * 4 / 3))
    rows = math.ceil(len(tiles) / columns)
    cell_height, cell_width = tiles[0].shape[0] + _GAP, tiles[0].shape[1] + _GAP
    sheet = np.full((rows * cell_height + _GAP, columns * cell_width + _GAP, 3), _BACKGROUND, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * cell_height + _GAP, column * cell_width + _GAP
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
