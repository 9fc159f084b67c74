"""Resizing of masks by area: a new pixel belongs to the mask if the mask covers more than half of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import rle

# A bit more than half, to be safe from rounding: a pixel that two masks share evenly belongs to neither.
_HALF = 0.5 + 1e-6


@dataclass(frozen=True)
class Patch:
    """A mask cropped to its surroundings: `mask` (h, w) bool at row `top`, column `left` of the image.

    area: number of its pixels.
    """

    top: int
    left: int
    mask: NDArray[np.bool_]
    area: int

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Return the part (h, w) of an image (H, W) under the mask, as a view."""
        height, width = self.mask.shape
        return picture[self.top : self.top + height, self.left : self.left + width]


def resized_mask(mask: rle.RLE, size: tuple[int, int]) -> Patch:
    """Resize a mask to `size` = (height, width), keeping the pixels of which it covers more than half.

    At its own size a mask is unchanged. Whatever is thinner than half a new pixel vanishes everywhere; sampling would
    lose it only in places.
    """
    old_height, old_width = mask["size"]
    x, y, width, height = (int(side) for side in rle.toBbox(mask))
    if not width or not height:
        return Patch(0, 0, np.zeros((0, 0), np.bool_), 0)
    window = np.ascontiguousarray(rle.decode(rle.crop(mask, [x, y, width, height])))
    top, rows = _edges(y, height, old_height, size[0])
    left, columns = _edges(x, width, old_width, size[1])
    # Summed-area table. Within a pixel it is bilinear, so interpolation is exact for fractional corners.
    sums = cv2.integral(window)
    corners = _between(_between(sums, rows).T, columns).T
    covered = np.diff(np.diff(corners, axis=0), axis=1)
    pixel = (old_height / size[0]) * (old_width / size[1])
    found = covered > _HALF * pixel
    return Patch(top, left, found, int(np.count_nonzero(found)))


def _edges(start: int, length: int, old: int, new: int) -> tuple[int, NDArray[np.float64]]:
    """Find the new pixels along one axis that the old pixels `start` to `start + length` touch.

    old, new: number of pixels along the axis. Returns the first new pixel, and the edges of all of them in old pixels
    relative to `start`, clipped to [0, length].
    """
    first, last = start * new // old, -(-(start + length) * new // old)
    return first, np.clip(np.arange(first, last + 1) * (old / new) - start, 0, length)


def _between(sums: NDArray[Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows of `sums` (N + 1, M) at fractional indices `at` in [0, N] by linear interpolation, (len(at), M)."""
    low = np.minimum(at.astype(np.int64), len(sums) - 2)
    share = (at - low)[:, None]
    return sums[low] * (1 - share) + sums[low + 1] * share
