"""The layout of image tokens: panels of 16, channel by channel, the last one padded with zeros."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

PANEL = 16


def count_panels(length: int) -> int:
    """How many panels `length` image tokens take."""
    return -(-length // PANEL)


def to_panels(x: Tensor) -> Tensor:
    """(..., L, C) to (..., panels, C, 16), contiguous."""
    padded = F.pad(x, (0, 0, 0, count_panels(x.shape[-2]) * PANEL - x.shape[-2]))
    return padded.unflatten(-2, (-1, PANEL)).transpose(-1, -2).contiguous()


def from_panels(panels: Tensor, length: int) -> Tensor:
    """(..., panels, C, 16) to (..., L, C)."""
    return panels.transpose(-1, -2).flatten(-3, -2)[..., :length, :]
