"""What every sibling, and its fake, ask of a picture and of the form it is to get."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Up to here sums of weighted 8-bit values fit int32, in which all siblings compute.
MAX_SIDE = 1 << 23


def check_picture(image: Tensor) -> None:
    """ValueError unless the picture is uint8 (H, W, 3), not empty, and of sides that can be resampled."""
    if image.dim() != 3 or image.shape[2] != 3:
        raise ValueError(f"image must have shape (H, W, 3); got {tuple(image.shape)}")
    if image.dtype != torch.uint8:
        raise ValueError(f"image must be uint8, not {image.dtype}")
    check_sides(image.shape[0], image.shape[1])


def check_sides(height: int, width: int) -> None:
    """ValueError unless both are from 1 to MAX_SIDE."""
    if height < 1 or width < 1 or height > MAX_SIDE or width > MAX_SIDE:
        raise ValueError(f"pictures must have sides from 1 to {MAX_SIDE} pixels; got {height} x {width}")


def check_form(height: int, width: int, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """ValueError unless the content fits into the square, and mean and std have a value per channel."""
    check_sides(height, width)
    if size < height or size < width:
        raise ValueError(f"content of {height} x {width} does not fit into a square of {size}")
    check_sides(size, size)
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std must have 3 values each; got {len(mean)} and {len(std)}")
