"""Signatures and fakes of preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .inputs import check_image, check_letterbox, check_sides

SCHEMAS = {
    "resize_image": "(Tensor image, SymInt height, SymInt width, bool bgr=False) -> Tensor",
    "preprocess_image": "(Tensor image, SymInt height, SymInt width, SymInt size, float[] mean, float[] std,"
    " bool bgr=False, bool channels_last=False) -> Tensor",
}


def resize_image(image: Tensor, height: int, width: int, bgr: bool = False) -> Tensor:
    check_image(image)
    check_sides(height, width)
    return image.new_empty((height, width, 3))


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
    check_image(image)
    check_letterbox(height, width, size, mean, std)
    shape = (1, size, size, 3) if channels_last else (1, 3, size, size)
    return image.new_empty(shape, dtype=torch.float32)
