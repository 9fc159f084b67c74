"""From a photo to the model's input, with the reference's numbers.

Sizes, the antialiased resize on uint8, and padding after normalising follow Meta's segment_anything. Its resize is
Pillow's; `ops.resize_image` and `ops.preprocess_image` give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ops
from .models.common import to_device
from .ops._native_cuda import cuda_module, why_not_on

# Mean and standard deviation of ImageNet's RGB channels on the 0..255 scale, as in the reference.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
# Bytes of a picture: PyTorch keeps such memory, which the system can't use for anything else.
_MOST_PINNED = 64 << 20


def resized_shape(height: int, width: int, long_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer becomes `long_side`, each rounded half up, at least 1 pixel."""
    scale = long_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: np.ndarray, long_side: int) -> np.ndarray:
    """Antialiased bilinear resize of an RGB picture, uint8 (H, W, 3) to (h, w, 3), bit-equal to Pillow's."""
    _check(image)
    height, width = resized_shape(image.shape[0], image.shape[1], long_side)
    if (height, width) == image.shape[:2]:
        return image
    pixels, bgr = _tensor(image)
    return ops.resize_image(pixels, height, width, bgr).numpy()


def preprocess(
    image: np.ndarray, image_size: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 (H, W, 3) to the model input (1, 3, S, S) float32 and its content's (height, width).

    Resized to a long side of S = `image_size`, normalised, then padded with zeros on the right and below. The picture
    is read as it lies in memory: a reversed view of a BGR picture costs no copy.
    """
    _check(image)
    height, width = resized_shape(image.shape[0], image.shape[1], image_size)
    device = torch.device(device)
    if _takes_frames(device):
        pixels, bgr = _tensor(image)
        # From memory that the GPU reads itself: several threads copy there, where the driver would take one, and the
        # host goes on while the picture crosses.
        pinned = pixels.numel() <= _MOST_PINNED
        pixels = to_device(pixels.contiguous(), device) if pinned else pixels.to(device)
    else:
        # Bytes cross to the device, a quarter of what floats would.
        pixels, bgr = torch.tensor(np.ascontiguousarray(resize(image, image_size)), device=device), False
    return ops.preprocess_image(pixels, height, width, image_size, PIXEL_MEAN, PIXEL_STD, bgr), (height, width)


def _takes_frames(device: torch.device) -> bool:
    """Whether whole pictures are resized on the device; where PyTorch serves it, Pillow would have to, on the CPU."""
    return device.type == "cpu" or (device.type == "cuda" and cuda_module is not None and not why_not_on(device))


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty uint8 (H, W, 3) RGB picture, got {image.dtype} {image.shape}")


class _Writable:
    """Lends a read-only array's memory as a writable one: tensors know no other kind. For callees that only read."""

    def __init__(self, image: np.ndarray) -> None:
        address, _ = image.__array_interface__["data"]
        self.__array_interface__: dict[str, Any] = {**image.__array_interface__, "data": (address, False)}
        self._image = image  # kept alive with this


def _tensor(image: np.ndarray) -> tuple[Tensor, bool]:
    """The picture as a tensor to be read from, without a copy where its strides allow; and whether that is BGR."""
    bgr = image.strides[2] < 0
    if bgr:
        image = image[..., ::-1]
    if min(image.strides) < 0:
        image = np.ascontiguousarray(image)
    return torch.from_numpy(np.asarray(_Writable(image))), bgr


def scale_points(points: Tensor, original_hw: tuple[int, int], resized_hw: tuple[int, int]) -> Tensor:
    """Coordinates (..., 2) x, y of the original picture in pixels of its resized form, as new float32 values.

    Each axis has its own factor, because the rounding of `resized_shape` differs between them.
    """
    (old_height, old_width), (new_height, new_width) = original_hw, resized_hw
    factor = torch.tensor([new_width / old_width, new_height / old_height], dtype=torch.float32, device=points.device)
    return points.to(torch.float32) * factor
