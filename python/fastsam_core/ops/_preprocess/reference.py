"""Preprocessing with Pillow and PyTorch: the definition, and the fallback for every device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._inputs import check_memory
from .inputs import check_image, check_letterbox, check_sides


def resize_image(image: Tensor, height: int, width: int, bgr: bool = False) -> Tensor:
    """See `fastsam_core.ops.resize_image`."""
    check_image(image)
    check_sides(height, width)
    check_memory(3 * height * width)
    from PIL import Image

    pixels = image.cpu().numpy()
    pixels = np.ascontiguousarray(pixels[..., ::-1] if bgr else pixels)
    # Both passes round to bytes, so their order matters. Pillow 13 begins with the vertical pass when the height
    # shrinks much more than the width. Two calls force the order of earlier versions: Meta's reference used those.
    resized = Image.fromarray(pixels).resize((width, image.shape[0]), Image.Resampling.BILINEAR)
    resized = resized.resize((width, height), Image.Resampling.BILINEAR)
    return torch.tensor(np.asarray(resized), device=image.device)


def preprocess_image(
    image: Tensor,
    height: int,
    width: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    bgr: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """See `fastsam_core.ops.preprocess_image`."""
    check_image(image)
    check_letterbox(height, width, size, mean, std)
    check_memory(12 * size * size)
    pixels = resize_image(image, height, width, bgr).permute(2, 0, 1)
    channel_mean = torch.tensor(mean, dtype=torch.float32, device=image.device).view(3, 1, 1)
    channel_std = torch.tensor(std, dtype=torch.float32, device=image.device).view(3, 1, 1)
    out = torch.zeros(1, 3, size, size, dtype=torch.float32, device=image.device)
    out[0, :, :height, :width] = (pixels - channel_mean) / channel_std
    return out.permute(0, 2, 3, 1).contiguous() if channels_last else out
