"""A small raster, and segmenters that find its objects without a model, for the tests of `tiles`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

from fastsam_core import tiles

SMALL: dict[str, Any] = {"tile": 64, "overlap": 16}


@st.composite
def tilings(draw: st.DrawFn) -> tuple[int, int]:
    tile = draw(st.integers(3, 20))
    return tile, draw(st.integers(1, tile // 2))


def bright(tile: np.ndarray) -> list[dict[str, Any]]:
    """Segment each connected bright region."""
    count, of_pixel = cv2.connectedComponents((tile.max(2) > 100).astype(np.uint8))
    return [{"segmentation": of_pixel == number, "predicted_iou": 0.5 + number / 100} for number in range(1, count)]


class Counting:
    """A segmenter that counts its calls, and calls `then` at call number `at`."""

    fingerprint = "bright"

    def __init__(self, at: int = -1, then: Callable[[], Any] = lambda: None) -> None:
        self.calls, self._at, self._then = 0, at, then

    def __call__(self, tile: np.ndarray) -> list[dict[str, Any]]:
        if self.calls == self._at:
            self._then()
        self.calls += 1
        return bright(tile)


def road_and_house() -> np.ndarray:
    """Draw a road across the whole image, a house, and dark noise."""
    image = np.random.default_rng(0).integers(0, 80, (150, 220, 3)).astype(np.uint8)
    image[70:80] = 200
    image[20:50, 100:130] = 180
    return image


def masks_of(found: tiles.RasterObjects) -> list[Any]:
    return [(obj.box.tolist(), obj.area, obj.mask, obj.predicted_iou, obj.stability) for obj in found]
