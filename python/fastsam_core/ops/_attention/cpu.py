"""The native sibling: tensors in and out of the compiled module, which computes in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._native import cpu_module
from .._threads import thread_count
from . import reference
from .inputs import check_attention, check_windowed_attention

_cpu: Any = cpu_module


def attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    num_heads: int,
    window: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    """See `fastsam_core.ops.attention`."""
    if qkv.dtype != torch.float32:
        return reference.attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    check_attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    _cpu.attention(
        _array(qkv),
        _array(rel_pos_h),
        _array(rel_pos_w),
        num_heads,
        window,
        None if padding is None else _array(padding),
        out.numpy(),
        thread_count(),
    )
    return out


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """See `fastsam_core.ops.windowed_attention`."""
    if qkv.dtype != torch.float32:
        return reference.windowed_attention(qkv, bias, window, padding)
    check_windowed_attention(qkv, bias, window, padding)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    _cpu.windowed_attention(
        _array(qkv),
        _array(bias),
        window,
        None if padding is None else _array(padding),
        out.numpy(),
        thread_count(),
    )
    return out


def _array(tensor: Tensor) -> Any:
    return tensor.detach().to(torch.float32).contiguous().numpy()
