"""What callers see of the way from a photo to the model's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


def resize_image(image: Tensor, height: int, width: int, bgr: bool = False) -> Tensor:
    """Antialiased bilinear resize, bit-equal to Pillow's: along the rows first, then along the columns.

    Pillow 13 turns the two round where the height shrinks much more than the width, with results that differ by 1 here
    and there. The order here is that of all versions before, whichever is installed.

    Args:
        image: (H, W, 3) uint8, any strides, sides from 1 to 2^23.
        height: of the result.
        width: of the result.
        bgr: reverse the channels: the picture is BGR and the result RGB, or the other way round.

    Returns:
        (height, width, 3) uint8, contiguous.

    Raises:
        ValueError: another shape or dtype, or a side that is 0 or too large.
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
    """The model's input from a picture: `resize_image`, then (x - mean) / std in float32, then zeros around it.

    Args:
        image: (H, W, 3) uint8, as in `resize_image`.
        height: of the content, the resized picture.
        width: of the content.
        size: S, the side of the square whose upper left corner the content fills; at least height and width.
        mean: of each of the 3 channels of the resized picture.
        std: of each of the 3 channels.
        bgr: as in `resize_image`.
        channels_last: whether the channels come last in the result.

    Returns:
        (1, 3, S, S) float32, or (1, S, S, 3) if `channels_last`; contiguous.

    Raises:
        ValueError: as `resize_image`; content larger than the square; not 3 values of mean and std.
    """
    result: Tensor = _ops.preprocess_image.default(
        image, height, width, size, list(mean), list(std), bgr, channels_last
    )
    return result
