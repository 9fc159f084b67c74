"""Public functions of preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


def resize_image(image: Tensor, height: int, width: int, bgr: bool = False) -> Tensor:
    """Resize an image with antialiased bilinear interpolation, bit-identical to Pillow before version 13.

    The horizontal pass runs first, then the vertical one. Pillow 13 swaps the two when the height shrinks much more
    than the width, which changes some values by 1. The order here doesn't depend on the installed version.

    Args:
        image: (H, W, 3) uint8, any strides, sides from 1 to 2^23.
        height: of the result, from 1 to 2^23.
        width: of the result, from 1 to 2^23.
        bgr: reverse the order of the channels: from BGR to RGB, or from RGB to BGR.

    Returns:
        (height, width, 3) uint8, contiguous.

    Raises:
        ValueError: another shape or dtype, or a side outside 1 to 2^23.
        MemoryError: a result larger than this machine's memory; the CUDA kernels don't check this.
    """
    result: Tensor = _ops.resize_image.default(image, height, width, bgr)
    return result


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
    """Turn an image into the model's input: `resize_image`, then (x - mean) / std in float32, then zero padding.

    Args:
        image: (H, W, 3) uint8, as in `resize_image`.
        height: of the resized image.
        width: of the resized image.
        size: S, the side of the padded square, at least height and width. The resized image fills its upper left
            corner.
        mean: 3 values, for the channels after `bgr` was applied.
        std: 3 values, in the same order.
        bgr: as in `resize_image`.
        channels_last: return (1, S, S, 3) instead of (1, 3, S, S).

    Returns:
        (1, 3, S, S) float32, or (1, S, S, 3) if `channels_last`; contiguous.

    Raises:
        ValueError: as `resize_image`; a resized image larger than the square; not 3 values in `mean` and in `std`.
        MemoryError: a result larger than this machine's memory; the CUDA kernels don't check this.
    """
    result: Tensor = _ops.preprocess_image.default(
        image, height, width, size, list(mean), list(std), bgr, channels_last
    )
    return result
