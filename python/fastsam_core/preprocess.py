"""From a photo to the model's input, with the reference's numbers.

Sizes, the antialiased resize on uint8, and padding after normalising follow Meta's segment_anything; its resize is
Pillow's, so Pillow does it here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Mean and standard deviation of ImageNet's RGB channels on the 0..255 scale, as in the reference.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def resized_shape(height: int, width: int, long_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer becomes `long_side`, each rounded half up, at least 1 pixel."""
    scale = long_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: np.ndarray, long_side: int) -> np.ndarray:
    """Antialiased bilinear resize of an RGB picture, uint8 (H, W, 3) to (h, w, 3), bit-equal to Pillow's."""
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty uint8 (H, W, 3) RGB picture, got {image.dtype} {image.shape}")
    height, width = resized_shape(image.shape[0], image.shape[1], long_side)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def preprocess(
    image: np.ndarray, image_size: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 (H, W, 3) to the model input (1, 3, S, S) float32 and its content's (height, width).

    Resized to a long side of S = `image_size`, normalised, then padded with zeros on the right and below.
    """
    resized = resize(image, image_size)
    height, width = resized.shape[:2]
    pixels = torch.tensor(resized, device=device).permute(2, 0, 1)
    mean = torch.tensor(PIXEL_MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD, device=device).view(3, 1, 1)
    out = torch.zeros(1, 3, image_size, image_size, device=device)
    out[0, :, :height, :width] = (pixels - mean) / std
    return out, (height, width)


def scale_points(points: Tensor, original_hw: tuple[int, int], resized_hw: tuple[int, int]) -> Tensor:
    """Coordinates (..., 2) x, y of the original picture in pixels of its resized form, as new float32 values.

    Each axis has its own factor, because the rounding of `resized_shape` differs between them.
    """
    (old_height, old_width), (new_height, new_width) = original_hw, resized_hw
    factor = torch.tensor([new_width / old_width, new_height / old_height], dtype=torch.float32, device=points.device)
    return points.to(torch.float32) * factor
