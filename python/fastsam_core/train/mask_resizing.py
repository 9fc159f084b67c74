"""Resizing of masks by area: a new pixel belongs to the mask if the mask covers more than half of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import rle

# A bit more than half, to be safe from rounding: a pixel that two masks share evenly belongs to neither.
_MIN_COVERAGE = 0.5 + 1e-6


@dataclass(frozen=True)
class MaskPatch:
    """A mask cropped to its surroundings: `mask` (h, w) bool at row `top`, column `left` of the image.

    area: number of its pixels.
    """

    top: int
    left: int
    mask: NDArray[np.bool_]
    area: int

    def view(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the part (h, w) of an image (H, W) under the mask, as a view."""
        height, width = self.mask.shape
        return image[self.top : self.top + height, self.left : self.left + width]


def resize_mask(mask: rle.RLE, size: tuple[int, int]) -> MaskPatch:
    """Resize a mask to `size` = (height, width), keeping the pixels of which it covers more than half.

    At its own size a mask is unchanged. Whatever is thinner than half a new pixel vanishes everywhere; sampling would
    lose it only in places.
    """
    old_height, old_width = mask["size"]
    x, y, width, height = (int(side) for side in rle.toBbox(mask))
    if not width or not height:
        return MaskPatch(0, 0, np.zeros((0, 0), np.bool_), 0)
    cropped = np.ascontiguousarray(rle.decode(rle.crop(mask, [x, y, width, height])))
    top, rows = _pixel_edges(y, height, old_height, size[0])
    left, columns = _pixel_edges(x, width, old_width, size[1])
    # Summed-area table. Within a pixel it is bilinear, so interpolation is exact for fractional corners.
    sums = cv2.integral(cropped)
    corners = _interpolate_rows(_interpolate_rows(sums, rows).T, columns).T
    coverage = np.diff(np.diff(corners, axis=0), axis=1)
    pixel_area = (old_height / size[0]) * (old_width / size[1])
    resized = coverage > _MIN_COVERAGE * pixel_area
    return MaskPatch(top, left, resized, int(np.count_nonzero(resized)))


def _pixel_edges(start: int, length: int, old_size: int, new_size: int) -> tuple[int, NDArray[np.float64]]:
    """Find the new pixels along one axis that the old pixels `start` to `start + length` touch.

    old_size, new_size: number of pixels along the axis. Returns the first new pixel, and the edges of all of them in
    old pixels relative to `start`, clipped to [0, length].
    """
    first, last = start * new_size // old_size, -(-(start + length) * new_size // old_size)
    return first, np.clip(np.arange(first, last + 1) * (old_size / new_size) - start, 0, length)


def _interpolate_rows(sums: NDArray[Any], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate rows of `sums` (N + 1, M) linearly at fractional indices `positions` (P,) in [0, N], (P, M)."""
    low = np.minimum(positions.astype(np.int64), len(sums) - 2)
    fraction = (positions - low)[:, None]
    return sums[low] * (1 - fraction) + sums[low + 1] * fraction
