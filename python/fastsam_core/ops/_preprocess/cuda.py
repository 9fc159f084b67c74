"""CUDA sibling of preprocessing: takes an image on the GPU, at any strides; the host never waits for the GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._native_cuda import on_device_of
from .inputs import check_image, check_letterbox, check_sides


def resize_image(image: Tensor, height: int, width: int, bgr: bool = False) -> Tensor:
    """See `fastsam_core.ops.resize_image`."""
    check_image(image)
    check_sides(height, width)
    out = image.new_empty((height, width, 3))
    sides, to = tuple(image.shape[:2]), (height, width)
    with on_device_of(image) as (cuda, stream):
        scratch = image.new_empty(cuda.preprocess_scratch_bytes(sides, to))
        cuda.resize_image(
            image.data_ptr(), sides, image.stride(), bgr, to, scratch.data_ptr(), len(scratch), out.data_ptr(), stream
        )
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
    out = image.new_empty((1, size, size, 3) if channels_last else (1, 3, size, size), dtype=torch.float32)
    sides, to = tuple(image.shape[:2]), (height, width)
    with on_device_of(image) as (cuda, stream):
        scratch = image.new_empty(cuda.preprocess_scratch_bytes(sides, to))
        cuda.preprocess_image(
            image.data_ptr(),
            sides,
            image.stride(),
            bgr,
            to,
            size,
            mean,
            std,
            channels_last,
            scratch.data_ptr(),
            len(scratch),
            out.data_ptr(),
            stream,
        )
    return out
