"""Conversion of an image to the model input, with the same values as the reference.

Sizes, the antialiased resize on uint8, and padding after normalising follow Meta's segment_anything. It resizes with
Pillow; the results of `ops.resize_image` and `ops.preprocess_image` are bit-equal to that of versions before 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ops
from .models.common import PIXEL_MEAN, PIXEL_STD, to_device
from .ops._native_cuda import cuda_module, why_not_on

# Size in bytes of the largest image that is copied through pinned memory. PyTorch never returns such memory to the
# system, which can't use it for anything else.
_MAX_PINNED_BYTES = 64 << 20


def resized_shape(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the longer side is `long_side`; rounded half up, at least 1 pixel each."""
    scale = long_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: np.ndarray, long_side: int) -> np.ndarray:
    """Resize an RGB image, uint8 (H, W, 3) to (h, w, 3), bilinearly with antialiasing.

    The result is that of `ops.resize_image`. long_side: the longer of h and w. An image of that size is returned as it
    is.
    """
    _check_image(image)
    height, width = resized_shape(image.shape[0], image.shape[1], long_side)
    if (height, width) == image.shape[:2]:
        return image
    pixels, bgr = _as_tensor(image)
    return ops.resize_image(pixels, height, width, bgr).numpy()


def preprocess(
    image: np.ndarray,
    image_size: int,
    device: torch.device | str = "cpu",
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> tuple[Tensor, tuple[int, int]]:
    """Convert an RGB uint8 image (H, W, 3) to the model input (1, 3, S, S) float32 on `device`.

    The image is resized to a long side of S = `image_size`, normalised, then padded with zeros on the right and below.
    mean, std: of the red, green and blue values, for normalising.

    Also returns the (height, width) of the resized image. A channel-reversed view of a BGR image is read without a
    copy.
    """
    _check_image(image)
    height, width = resized_shape(image.shape[0], image.shape[1], image_size)
    device = torch.device(device)
    if _can_resize_on(device):
        pixels, bgr = _as_tensor(image)
        # Through pinned memory: several threads copy into it, where the driver would use one, and the host doesn't wait
        # for the transfer.
        pinned = pixels.numel() <= _MAX_PINNED_BYTES
        pixels = to_device(pixels.contiguous(), device) if pinned else pixels.to(device)
    else:
        # Transfer bytes to the device, a quarter of the size of floats.
        pixels, bgr = torch.tensor(np.ascontiguousarray(resize(image, image_size)), device=device), False
    return ops.preprocess_image(pixels, height, width, image_size, mean, std, bgr), (height, width)


def _can_resize_on(device: torch.device) -> bool:
    """Return whether images are resized on `device`, which takes the CPU or a GPU with kernels.

    On other devices resizing would fall back to Pillow, so it is done on the CPU before the transfer.
    """
    return device.type == "cpu" or (device.type == "cuda" and cuda_module is not None and not why_not_on(device))


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty uint8 (H, W, 3) RGB image, got {image.dtype} {image.shape}")


class _WritableView:
    """Wrapper that presents a read-only array's memory as writable, as tensors require; for callees that only read."""

    def __init__(self, image: np.ndarray) -> None:
        address, _ = image.__array_interface__["data"]
        self.__array_interface__: dict[str, Any] = {**image.__array_interface__, "data": (address, False)}
        self._image = image  # keeps the memory alive


def _as_tensor(image: np.ndarray) -> tuple[Tensor, bool]:
    """Return the image as a tensor that must only be read, and whether its channels are BGR.

    The memory is shared if the strides allow it.
    """
    bgr = image.strides[2] < 0
    if bgr:
        image = image[..., ::-1]
    if min(image.strides) < 0:
        image = np.ascontiguousarray(image)
    return torch.from_numpy(np.asarray(_WritableView(image))), bgr


def scale_points(points: Tensor, original_hw: tuple[int, int], resized_hw: tuple[int, int]) -> Tensor:
    """Convert coordinates (..., 2) x, y of the original image to pixels of the resized image, as a new float32 tensor.

    Each axis has its own factor, because `resized_shape` rounds the sides separately.
    """
    (old_height, old_width), (new_height, new_width) = original_hw, resized_hw
    factor = torch.tensor([new_width / old_width, new_height / old_height], dtype=torch.float32, device=points.device)
    return points.to(torch.float32) * factor
