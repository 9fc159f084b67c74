"""What callers see of attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._direct import goes_directly
from . import cuda

_ops: Any = torch.ops.fastsam_core


def attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    num_heads: int,
    window: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    """Multi-head attention of a token grid with relative positions added per axis, from the packed q, k and v.

    The weights of a query are softmax(q . k / sqrt(d) + q . rel_pos_h[dy] + q . rel_pos_w[dx]) over the keys, where dy
    and dx are the query's row and column less the key's, plus the tables' middle. No matrix of all queries and keys is
    held in memory. The C++ form serves float32 and bfloat16, the CUDA form float32 (as pairs of TF32 numbers, with the
    error of float32), float16 and bfloat16 with 64 or 80 channels per head, 32 in `windowed_attention`; all add up in
    float32. PyTorch serves the rest. The native forms compute no gradients.

    Args:
        qkv: (B, H, W, 3 * heads * d) floating point: the queries of all heads, then the keys, then the values. Other
            tensors are converted to its dtype.
        rel_pos_h: (2 * n - 1, d), a vector for each distance between rows, the most negative first; n is `window`, or
            H where that is 0.
        rel_pos_w: (2 * n - 1, d), the same for columns; n is `window` or W.
        num_heads: heads.
        window: tokens attend to those of their own window of `window` x `window` tokens; 0 for the whole grid. Windows
            tile the grid from its first token and may reach over its right and lower edge.
        padding: (3 * heads * d,) what the tokens beyond the edge hold: they are keys and values of their window. May
            be None where there are none.

    Returns:
        (B, H, W, heads * d), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, or no `padding` where it is needed.
    """
    if goes_directly(qkv, rel_pos_h, rel_pos_w, padding):
        return cuda.attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    result: Tensor = _ops.attention.default(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    return result


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """Multi-head attention inside windows of a token grid, with a bias for each head, query and key of a window.

    Args:
        qkv: (B, H, W, heads * 3 * d) floating point: query, key and value of the first head, then of the next. Other
            tensors are converted to its dtype.
        bias: (heads, window**2, window**2), added to q . k / sqrt(d); positions count along the rows of a window.
        window: tokens on a window's side. Windows tile the grid from its first token and may reach over its right and
            lower edge.
        padding: (heads * 3 * d,) as in `attention`.

    Returns:
        (B, H, W, heads * d), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, or no `padding` where it is needed.
    """
    if goes_directly(qkv, bias, padding):
        return cuda.windowed_attention(qkv, bias, window, padding)
    result: Tensor = _ops.windowed_attention.default(qkv, bias, window, padding)
    return result
