"""Letterboxing: scales an image to fit the network's input, centred on grey, with sides in multiples of the stride."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...postprocess import axis_weights
from .head import STRIDES

_STRIDE = STRIDES[-1]
_PADDING_VALUE = 114
_PROTOTYPE_STRIDE = 4  # pixels of the input per cell of the mask prototypes


@dataclass(frozen=True)
class Letterbox:
    """Position of an image within the network's input.

    original_hw: (H, W) of the image. input_hw: (height, width) of the input. content_hw: (height, width) of the scaled
    image in it. left, top: offset of its corner. All in pixels.
    """

    original_hw: tuple[int, int]
    input_hw: tuple[int, int]
    content_hw: tuple[int, int]
    left: int
    top: int

    @classmethod
    def fit(
        cls, original_hw: tuple[int, int], size: tuple[int, int], input_hw: tuple[int, int] | None = None
    ) -> Letterbox:
        """Place an image of (height, width) into an input of at most `size`, (height, width), multiples of the stride.

        input_hw: that of the input, if it is fixed; otherwise both sides get the least padding that makes them
        multiples of the stride.
        """
        scale = min(size[0] / original_hw[0], size[1] / original_hw[1])
        height, width = (max(1, round(side * scale)) for side in original_hw)
        input_hw = input_hw or (height + -height % _STRIDE, width + -width % _STRIDE)
        padding_y, padding_x = (input_hw[0] - height) / 2, (input_hw[1] - width) / 2
        # Of an odd padding, the larger half goes to the right and bottom.
        return cls(original_hw, input_hw, (height, width), round(padding_x - 0.1), round(padding_y - 0.1))

    def to_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert BGR (H, W, 3) to the network's input, RGB (3, height, width) uint8."""
        import cv2

        height, width = self.content_hw
        if image.shape[:2] != self.content_hw:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        canvas = np.full((3, *self.input_hw), _PADDING_VALUE, np.uint8)
        canvas[:, self.top : self.top + height, self.left : self.left + width] = image[..., ::-1].transpose(2, 0, 1)
        return canvas

    def to_image_boxes(self, boxes: Tensor) -> Tensor:
        """Convert boxes (N, 4) x1, y1, x2, y2 from the input to pixels of the image, clipped to it."""
        (height, width), (content_height, content_width) = self.original_hw, self.content_hw
        offset, scale, limits = (
            torch.tensor([x, y] * 2, dtype=boxes.dtype, device=boxes.device)
            for x, y in ((self.left, self.top), (content_width / width, content_height / height), (width, height))
        )
        # Each axis has its own scale, since the sides of the content are rounded.
        return torch.minimum(((boxes - offset) / scale).clamp(min=0), limits)

    def mask_axis_weights(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return how the image's rows and columns are interpolated from prototypes, in the form of `ops.mask_runs`.

        As in the reference, the prototypes are first enlarged bilinearly until the padding is a whole number of their
        cells, if it isn't; then the content is resized bilinearly to the image.
        """
        padding = [
            input_side - content_side for input_side, content_side in zip(self.input_hw, self.content_hw, strict=True)
        ]
        factor = _PROTOTYPE_STRIDE // math.gcd(_PROTOTYPE_STRIDE, *padding, *(side // 2 for side in padding))
        y, x = (
            axis_weights(
                input_side // _PROTOTYPE_STRIDE,
                input_side // _PROTOTYPE_STRIDE * factor,
                content_side * factor // _PROTOTYPE_STRIDE,
                original_side,
                offset * factor // _PROTOTYPE_STRIDE,
            )
            for input_side, content_side, original_side, offset in zip(
                self.input_hw, self.content_hw, self.original_hw, (self.top, self.left), strict=True
            )
        )
        return y, x
