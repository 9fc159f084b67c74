"""C++ sibling of preprocessing: resamples row by row, at any strides, and normalises a row while it is in cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._inputs import check_memory
from .._native import cpu_module
from .._threads import thread_count
from .inputs import check_image, check_letterbox, check_sides

_cpu: Any = cpu_module


def resize_image(image: Tensor, height: int, width: int, bgr: bool = False) -> Tensor:
    """See `fastsam_core.ops.resize_image`."""
    check_image(image)
    check_sides(height, width)
    check_memory(3 * height * width)
    out = torch.empty((height, width, 3), dtype=torch.uint8, device="cpu")
    _cpu.resize_image(image.numpy(), bgr, out.numpy(), thread_count())
    return out


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
    out = torch.empty((1, size, size, 3) if channels_last else (1, 3, size, size), dtype=torch.float32, device="cpu")
    channel_mean, channel_std = np.array(mean, np.float32), np.array(std, np.float32)
    threads = thread_count()
    _cpu.preprocess_image(
        image.numpy(), bgr, height, width, channel_mean, channel_std, channels_last, out[0].numpy(), threads
    )
    return out
