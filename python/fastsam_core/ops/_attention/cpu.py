"""C++ sibling of attention, for float32 and bfloat16; it accumulates in float32. Other dtypes go to the reference."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._native import array_of, cpu_module
from .._threads import thread_count
from ..schema import NATIVE_DTYPES
from . import reference, schema

_cpu: Any = cpu_module
DTYPES = NATIVE_DTYPES["_attention"]


def attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    num_heads: int,
    window: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    """See `fastsam_core.ops.attention`."""
    if qkv.dtype not in DTYPES:
        return reference.attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    out = schema.attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    _cpu.attention(
        array_of(qkv),
        array_of(rel_pos_h.float()),
        array_of(rel_pos_w.float()),
        num_heads,
        window,
        None if padding is None else array_of(padding.to(qkv.dtype)),
        array_of(out),
        thread_count(),
    )
    return out


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """See `fastsam_core.ops.windowed_attention`."""
    if qkv.dtype not in DTYPES:
        return reference.windowed_attention(qkv, bias, window, padding)
    out = schema.windowed_attention(qkv, bias, window, padding)
    _cpu.windowed_attention(
        array_of(qkv),
        array_of(bias.float()),
        window,
        None if padding is None else array_of(padding.to(qkv.dtype)),
        array_of(out),
        thread_count(),
    )
    return out
