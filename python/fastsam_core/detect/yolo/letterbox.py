"""From a picture to the network's input: scaled to fit, centred on grey, with both sides multiples of the stride."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .network import STRIDES

_STRIDE = STRIDES[-1]
_GREY = 114


@dataclass(frozen=True)
class Letterbox:
    """Where a picture of (H, W) lies in an input.

    shape: (height, width) of the input. content: (height, width) of the picture in it. left, top: of its corner. scale:
    pixels of the input per pixel of the picture.
    """

    original: tuple[int, int]
    shape: tuple[int, int]
    content: tuple[int, int]
    left: int
    top: int
    scale: float

    @classmethod
    def of(cls, original: tuple[int, int], size: tuple[int, int]) -> Letterbox:
        """For a picture of (height, width) and the largest input, (height, width) in multiples of the stride.

        The padding is the least that makes both sides multiples of the stride.
        """
        scale = min(size[0] / original[0], size[1] / original[1])
        height, width = (max(1, round(side * scale)) for side in original)
        spare_y, spare_x = (-height % _STRIDE) / 2, (-width % _STRIDE) / 2
        shape = height + -height % _STRIDE, width + -width % _STRIDE
        # Of an odd padding, the larger half goes right and below.
        return cls(original, shape, (height, width), round(spare_x - 0.1), round(spare_y - 0.1), scale)

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """BGR (H, W, 3) -> RGB (3, height, width) of the input."""
        import cv2

        height, width = self.content
        if image.shape[:2] != self.content:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        canvas = np.full((3, *self.shape), _GREY, np.uint8)
        canvas[:, self.top : self.top + height, self.left : self.left + width] = image[..., ::-1].transpose(2, 0, 1)
        return canvas

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) x1, y1, x2, y2 of the input, in pixels of the picture and cut to it."""
        corner = torch.tensor([self.left, self.top] * 2, dtype=boxes.dtype, device=boxes.device)
        height, width = self.original
        most = torch.tensor([width, height] * 2, dtype=boxes.dtype, device=boxes.device)
        return torch.minimum(((boxes - corner) / self.scale).clamp(min=0), most)

    def cells(self, axis: int, cell: int) -> tuple[Tensor, Tensor]:
        """Where the picture's pixels along an axis (0: y, 1: x) lie on a grid of cells of `cell` pixels of the input.

        The first cell that each is interpolated from, (size,) int64, and the weights (size, 3) float32 of it and of
        the two after it: bilinear, as `ops.mask_runs` takes them.
        """
        size, content, start = self.original[axis], self.content[axis], (self.top, self.left)[axis]
        count = self.shape[axis] // cell
        position = (start + (np.arange(size) + 0.5) * (content / size)) / cell - 0.5
        position = np.clip(position, 0, count - 1)
        first = position.astype(np.int64)
        weights = np.zeros((size, 3), np.float32)
        weights[:, 1] = position - first
        weights[:, 0] = 1 - weights[:, 1]
        return torch.from_numpy(first), torch.from_numpy(weights)
