"""Scaling of images and coordinates to the model's input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.native import watch_methods
from ...preprocess import resize, resized_shape


class ResizeLongestSide:
    """Scales images and coordinates so that the image's long side becomes `target_length` pixels."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resize a uint8 image (H, W, 3), or a mask (H, W), with antialiasing, as Pillow before version 13 does.

        Raises ValueError for another kind of image.
        """
        if image.ndim == 2:
            if image.dtype != np.uint8:
                raise ValueError(f"a mask must be uint8 (H, W), not {image.dtype} {image.shape}")
            return self.apply_image(np.stack([image] * 3, -1))[..., 0]
        return resize(image, self.target_length)

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, ...]) -> np.ndarray:
        """Scale coordinates (..., 2) x, y of an image of `original_size` = (H, W). Returns a new float64 array."""
        scaled = np.array(coords, dtype=np.float64)
        (old_h, old_w), (new_h, new_w) = original_size[:2], self._new_size(original_size)
        scaled[..., 0] *= new_w / old_w
        scaled[..., 1] *= new_h / old_h
        return scaled

    def apply_boxes(self, boxes: np.ndarray, original_size: tuple[int, ...]) -> np.ndarray:
        """Scale boxes x1, y1, x2, y2, (4,) or (N, 4). Returns a new float64 array (N, 4)."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize a floating-point batch (B, C, H, W) with antialiasing. Close to `apply_image`, but not identical."""
        if image.ndim != 4:
            raise ValueError(f"image must be a batch (B, C, H, W), not {tuple(image.shape)}; image[None] makes one")
        height, width = self._new_size(tuple(image.shape[2:]))
        return F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Scale coordinates like `apply_coords`. Returns a new float32 tensor."""
        (old_h, old_w), (new_h, new_w) = original_size[:2], self._new_size(original_size)
        scaled = coords.detach().clone().to(torch.float)
        scaled[..., 0] *= new_w / old_w
        scaled[..., 1] *= new_h / old_h
        return scaled

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Scale boxes like `apply_boxes`. Returns a new float32 tensor (N, 4)."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Return (height, width) after scaling, each rounded half up."""
        return resized_shape(oldh, oldw, long_side_length)

    def _new_size(self, original_size: Any) -> tuple[int, int]:
        return self.get_preprocess_shape(original_size[0], original_size[1], self.target_length)


watch_methods(ResizeLongestSide, names=("apply_image", "apply_coords", "get_preprocess_shape"))
