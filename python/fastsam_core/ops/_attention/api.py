"""Public functions of attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dispatch_bypass import can_bypass_dispatcher
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
    """Multi-head attention over a token grid with relative positions per axis, from packed queries, keys and values.

    The weights of a query are softmax(q . k / sqrt(d) + q . rel_pos_h[dy] + q . rel_pos_w[dx]) over the keys. dy and dx
    are the row and column of the query minus those of the key, plus n - 1, the index of the tables' middle. For large
    grids the full matrix of queries by keys is never in memory.

    The C++ code takes float32 and bfloat16. The CUDA kernels take float32 (split into pairs of TF32 numbers, with the
    error of float32), float16 and bfloat16, with 64 or 80 channels per head, or 32 in `windowed_attention`. Both
    accumulate in float32 and compute no gradients. PyTorch runs the rest.

    Args:
        qkv: (B, H, W, 3 * heads * d) floating point: the queries of all heads, then all keys, then all values. The
            other tensors may have another floating dtype, and are converted.
        rel_pos_h: (2 * n - 1, d), a vector for each row distance from -(n - 1) to n - 1; n is `window`, or H if
            `window` is 0.
        rel_pos_w: (2 * n - 1, d), the same for column distances; n is `window`, or W if `window` is 0.
        num_heads: number of heads.
        window: side of the square windows, in tokens, within which tokens attend to each other; 0 for the whole grid.
            Windows tile the grid from its first token and may extend beyond its right and lower edge.
        padding: (3 * heads * d,) query, key and value of every token beyond the edge. Padding tokens take part as keys
            and values of their window. May be None if no window extends beyond the edge.

    Returns:
        (B, H, W, heads * d), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, or `padding` missing where it is needed.
    """
    if can_bypass_dispatcher(qkv, rel_pos_h, rel_pos_w, padding):
        return cuda.attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    result: Tensor = _ops.attention.default(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    return result


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """Multi-head attention within windows of a token grid, with a bias for each head, query and key of a window.

    `attention` lists the dtypes and head dimensions that the compiled siblings take.

    Args:
        qkv: (B, H, W, heads * 3 * d) floating point: query, key and value of the first head, then of the second, and so
            on. The other tensors may have another floating dtype, and are converted.
        bias: (heads, window**2, window**2), added to q . k / sqrt(d); [head, query, key], positions of a window in
            row-major order.
        window: side of the square windows, in tokens. Windows tile the grid from its first token and may extend beyond
            its right and lower edge.
        padding: (heads * 3 * d,), as in `attention`, in the layout of `qkv` here.

    Returns:
        (B, H, W, heads * d), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, or `padding` missing where it is needed.
    """
    if can_bypass_dispatcher(qkv, bias, padding):
        return cuda.windowed_attention(qkv, bias, window, padding)
    result: Tensor = _ops.windowed_attention.default(qkv, bias, window, padding)
    return result
