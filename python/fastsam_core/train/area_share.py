"""Masks at another resolution: a pixel belongs to the mask if the mask covers more than half of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import rle

# More than half, and by more than rounding: of two masks that share a pixel evenly, neither gets it.
_HALF = 0.5 + 1e-6


@dataclass(frozen=True)
class Patch:
    """A mask where it is: `mask`, (h, w) bool, at row `top` and column `left` of a picture; `area` in pixels."""

    top: int
    left: int
    mask: NDArray[np.bool_]
    area: int

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """The view (h, w) of a picture (H, W) that the mask lies over."""
        height, width = self.mask.shape
        return picture[self.top : self.top + height, self.left : self.left + width]


def resized_mask(mask: rle.RLE, size: tuple[int, int]) -> Patch:
    """A mask at `size` = (height, width): the pixels of which it covers more than half. At its own size it stays as is.

    What is thinner than half a new pixel vanishes everywhere, instead of where it happens to miss the samples.
    """
    old_height, old_width = mask["size"]
    x, y, width, height = (int(side) for side in rle.toBbox(mask))
    if not width or not height:
        return Patch(0, 0, np.zeros((0, 0), np.bool_), 0)
    window = np.ascontiguousarray(rle.decode(rle.crop(mask, [x, y, width, height])))
    top, rows = _edges(y, height, old_height, size[0])
    left, columns = _edges(x, width, old_width, size[1])
    # What lies above and left of a corner, of fractional coordinates too: the sum is bilinear within a pixel.
    sums = cv2.integral(window)
    corners = _between(_between(sums, rows).T, columns).T
    covered = np.diff(np.diff(corners, axis=0), axis=1)
    pixel = (old_height / size[0]) * (old_width / size[1])
    found = covered > _HALF * pixel
    return Patch(top, left, found, int(np.count_nonzero(found)))


def _edges(start: int, length: int, old: int, new: int) -> tuple[int, NDArray[np.float64]]:
    """The first of the new pixels along one axis that an old stretch touches, and the edges of all, from its start."""
    first, last = start * new // old, -(-(start + length) * new // old)
    return first, np.clip(np.arange(first, last + 1) * (old / new) - start, 0, length)


def _between(sums: NDArray[Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of (N + 1, M) at fractional places from 0 to N, (len(at), M)."""
    low = np.minimum(at.astype(np.int64), len(sums) - 2)
    share = (at - low)[:, None]
    return sums[low] * (1 - share) + sums[low + 1] * share
