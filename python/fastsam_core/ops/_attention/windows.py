"""Splitting a token grid into square windows, and joining them again."""

from __future__ import annotations

from torch import Tensor


def partition(x: Tensor, window: int, padding: Tensor | None) -> Tensor:
    """Split (B, H, W, C) into windows: (B * windows, window, window, C).

    Tokens beyond the right and lower edge get the value `padding` (C,), which may be None if there are none. In both
    encoders padding tokens take part in the softmax, but their queries, keys and values are constants. So they are
    filled in here, after the linear layer, which needn't run on them.
    """
    batch, height, width, channels = x.shape
    rows, columns = _count_windows(height, window), _count_windows(width, window)
    if (rows * window, columns * window) != (height, width):
        assert padding is not None
        padded = padding.to(x.dtype).expand(batch, rows * window, columns * window, channels).contiguous()
        padded[:, :height, :width] = x
        x = padded
    x = x.view(batch, rows, window, columns, window, channels)
    return x.transpose(2, 3).reshape(-1, window, window, channels)


def unpartition(windows: Tensor, height: int, width: int) -> Tensor:
    """Invert `partition`: (B * windows, window, window, C) to (B, H, W, C), without the padding."""
    window, channels = windows.shape[1], windows.shape[3]
    rows, columns = _count_windows(height, window), _count_windows(width, window)
    x = windows.view(-1, rows, columns, window, window, channels).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, channels)[:, :height, :width]


def _count_windows(length: int, window: int) -> int:
    # Not -(-length // window): exported to ONNX, a quotient is rounded towards zero.
    return (length + window - 1) // window
