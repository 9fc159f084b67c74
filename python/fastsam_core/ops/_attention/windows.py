"""Cutting a token grid into square windows and putting it together again."""

from __future__ import annotations

from torch import Tensor


def partition(x: Tensor, window: int, padding: Tensor | None) -> Tensor:
    """Cut (B, H, W, C) into windows, (B * windows, window, window, C).

    Tokens beyond the right and lower edge get the value `padding` (C,): both encoders let padding tokens take part in
    the softmax with constant queries, keys and values, so they need no linear layer of their own. Where there are no
    such tokens, `padding` may be None.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // window), -(-width // window)
    if (rows * window, columns * window) != (height, width):
        assert padding is not None
        padded = padding.to(x.dtype).expand(batch, rows * window, columns * window, channels).contiguous()
        padded[:, :height, :width] = x
        x = padded
    x = x.view(batch, rows, window, columns, window, channels)
    return x.transpose(2, 3).reshape(-1, window, window, channels)


def unpartition(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `partition`: (B * windows, window, window, C) to (B, H, W, C), padding dropped."""
    window, channels = windows.shape[1], windows.shape[3]
    rows, columns = -(-height // window), -(-width // window)
    x = windows.view(-1, rows, columns, window, window, channels).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, channels)[:, :height, :width]
