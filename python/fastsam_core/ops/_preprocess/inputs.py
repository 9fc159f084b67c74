"""Input checks shared by all siblings of preprocessing and their fakes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Up to this side, sums of weighted 8-bit values fit int32, in which all siblings compute.
MAX_SIDE = 1 << 23


def check_image(image: Tensor) -> None:
    """Raise ValueError unless `image` is uint8 (H, W, 3) with sides from 1 to MAX_SIDE."""
    if image.dim() != 3 or image.shape[2] != 3:
        raise ValueError(f"image must have shape (H, W, 3); got {tuple(image.shape)}")
    if image.dtype != torch.uint8:
        raise ValueError(f"image must be uint8, not {image.dtype}")
    check_sides(image.shape[0], image.shape[1])


def check_sides(height: int, width: int) -> None:
    """Raise ValueError unless both are from 1 to MAX_SIDE."""
    if height < 1 or width < 1 or height > MAX_SIDE or width > MAX_SIDE:
        raise ValueError(f"images must have sides from 1 to {MAX_SIDE} pixels; got {height} x {width}")


def check_letterbox(height: int, width: int, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless height x width fits into the square, and mean and std have 3 values each."""
    check_sides(height, width)
    if size < height or size < width:
        raise ValueError(f"content of {height} x {width} does not fit into a square of {size}")
    check_sides(size, size)
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std must have 3 values each; got {len(mean)} and {len(std)}")
