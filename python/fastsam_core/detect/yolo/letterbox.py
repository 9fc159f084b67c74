"""Letterboxing: scales an image to fit the network's input, centred on grey, with sides in multiples of the stride."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...postprocess import axis_weights
from .network import STRIDES

_STRIDE = STRIDES[-1]
_GREY = 114
_CELL = 4  # pixels of the input per cell of the mask prototypes


@dataclass(frozen=True)
class Letterbox:
    """Position of an image within the network's input.

    original: (H, W) of the image. shape: (height, width) of the input. content: (height, width) of the scaled image in
    it. left, top: offset of its corner. All in pixels.
    """

    original: tuple[int, int]
    shape: tuple[int, int]
    content: tuple[int, int]
    left: int
    top: int

    @classmethod
    def of(cls, original: tuple[int, int], size: tuple[int, int], shape: tuple[int, int] | None = None) -> Letterbox:
        """Place an image of (height, width) into an input of at most `size`, (height, width), multiples of the stride.

        shape: that of the input, if it is fixed; otherwise both sides get the least padding that makes them multiples
        of the stride.
        """
        scale = min(size[0] / original[0], size[1] / original[1])
        height, width = (max(1, round(side * scale)) for side in original)
        shape = shape or (height + -height % _STRIDE, width + -width % _STRIDE)
        spare_y, spare_x = (shape[0] - height) / 2, (shape[1] - width) / 2
        # Of an odd padding, the larger half goes to the right and bottom.
        return cls(original, shape, (height, width), round(spare_x - 0.1), round(spare_y - 0.1))

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert BGR (H, W, 3) to the network's input, RGB (3, height, width) uint8."""
        import cv2

        height, width = self.content
        if image.shape[:2] != self.content:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        canvas = np.full((3, *self.shape), _GREY, np.uint8)
        canvas[:, self.top : self.top + height, self.left : self.left + width] = image[..., ::-1].transpose(2, 0, 1)
        return canvas

    def boxes(self, boxes: Tensor) -> Tensor:
        """Convert boxes (N, 4) x1, y1, x2, y2 from the input to pixels of the image, clipped to it."""
        (height, width), (tall, wide) = self.original, self.content
        corner, size, most = (
            torch.tensor([x, y] * 2, dtype=boxes.dtype, device=boxes.device)
            for x, y in ((self.left, self.top), (wide / width, tall / height), (width, height))
        )
        # Each axis has its own scale, since the sides of the content are rounded.
        return torch.minimum(((boxes - corner) / size).clamp(min=0), most)

    def mask_axes(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return how the image's rows and columns are interpolated from prototypes, in the form of `ops.mask_runs`.

        As in the reference, the prototypes are first enlarged bilinearly until the padding is a whole number of their
        cells, if it isn't; then the content is resized bilinearly to the image.
        """
        padding = [whole - content for whole, content in zip(self.shape, self.content, strict=True)]
        factor = _CELL // math.gcd(_CELL, *padding, *(side // 2 for side in padding))
        y, x = (
            axis_weights(
                whole // _CELL,
                whole // _CELL * factor,
                content * factor // _CELL,
                size,
                start * factor // _CELL,
            )
            for whole, content, size, start in zip(
                self.shape, self.content, self.original, (self.top, self.left), strict=True
            )
        )
        return y, x
