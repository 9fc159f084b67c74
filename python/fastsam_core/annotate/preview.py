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

SHEET = "preview.jpg"
_FOLDER = ".preview"
_TILE = 256  # width and height of the space for a thumbnail, in pixels
_CAPTION = 22
_GAP = 6
_GROUND = (32, 32, 32)
_TEXT = (220, 220, 220)


class Preview:
    """The images of the contact sheet, and their thumbnails, which are stored until the sheet is made.

    Images are chosen by the hash of their names: evenly spread, and the same ones however the work is divided.
    """

    def __init__(self, keys: Collection[str], count: int) -> None:
        self.keys: Sequence[str] = heapq.nsmallest(count, keys, key=lambda key: (stable_hash(key), key))
        self._chosen = frozenset(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._chosen

    def path(self, key: str) -> str:
        """Return the path of an image's thumbnail, relative to the folder of labels."""
        return f"{_FOLDER}/{stable_hash(key):016x}.png"

    def has_tile(self, folder: Path, key: str) -> bool:
        """Return whether the image's thumbnail exists."""
        return (folder / self.path(key)).exists()

    def tile(self, key: str, results: Results) -> tuple[str, bytes]:
        """Return the relative path and the PNG content of the image's thumbnail."""
        return self.path(key), encode_image(_tile(_small(results.plot(labels=False)), key), ".png")

    def sheet(self, folder: Path) -> bytes | None:
        """Return the sheet of all thumbnails as JPEG, or None if there are none. Images that failed are missing."""
        import cv2

        files = [(folder / self.path(key)).read_bytes() for key in self.keys if self.has_tile(folder, key)]
        tiles = [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for content in files if content]
        shown = [np.asarray(tile, np.uint8) for tile in tiles if tile is not None]
        return encode_image(_sheet(shown), ".jpg") if shown else None


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    height, width = picture.shape[:2]
    scale = _TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _tile(picture: NDArray[np.uint8], key: str) -> NDArray[np.uint8]:
    """Return the thumbnail centred in a tile, with the image's name below."""
    tile = np.full((_TILE + _CAPTION, _TILE, 3), _GROUND, np.uint8)
    height, width = picture.shape[:2]
    top, left = (_TILE - height) // 2, (_TILE - width) // 2
    tile[top : top + height, left : left + width] = picture
    # Long names are cut at the start, as the end of a path says most. Unprintable characters are left out.
    shown = "".join(letter for letter in os.path.splitext(key)[0] if letter.isprintable())
    shown = shown if len(shown) <= 34 else "..." + shown[-31:]
    caption = text.render_label(shown or "?", "", 12, _TEXT, _GROUND)[:_CAPTION, :_TILE]
    tile[_TILE : _TILE + caption.shape[0], : caption.shape[1]] = caption
    return tile


def _sheet(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    columns = math.ceil(math.sqrt(len(tiles) * 4 / 3))
    rows = math.ceil(len(tiles) / columns)
    high, wide = tiles[0].shape[0] + _GAP, tiles[0].shape[1] + _GAP
    sheet = np.full((rows * high + _GAP, columns * wide + _GAP, 3), _GROUND, np.uint8)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        top, left = row * high + _GAP, column * wide + _GAP
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
