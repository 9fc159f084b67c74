"""The memory layout of image tokens: panels of 16, channel by channel, the last one padded with zeros."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PANEL = 16


def count_panels(length: int) -> int:
    """Return the number of panels for `length` image tokens."""
    return -(-length // PANEL)


def to_panels(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Convert (..., L, C) to (..., panels, C, 16), contiguous, in `dtype` if one is given."""
    *lead, length, channels = x.shape
    panels = count_panels(length)
    if panels * PANEL != length:
        x = F.pad(x, (0, 0, 0, panels * PANEL - length))
    # One copy both converts the dtype and transposes.
    out = x.new_empty((*lead, panels, channels, PANEL), dtype=dtype or x.dtype)
    return out.copy_(x.unflatten(-2, (panels, PANEL)).transpose(-1, -2))


def from_panels(panels: Tensor, length: int) -> Tensor:
    """Convert (..., panels, C, 16) to (..., L, C)."""
    return panels.transpose(-1, -2).flatten(-3, -2)[..., :length, :]
