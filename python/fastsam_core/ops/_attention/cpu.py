"""The native sibling: tensors in and out of the compiled module, float32 or bfloat16, which adds up in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._native import cpu_module
from .._threads import thread_count
from ..schema import NATIVE_DTYPES
from . import reference
from .inputs import check_attention, check_windowed_attention

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
    check_attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    _cpu.attention(
        _numbers(qkv),
        _floats(rel_pos_h),
        _floats(rel_pos_w),
        num_heads,
        window,
        None if padding is None else _numbers(padding.to(qkv.dtype)),
        _numbers(out),
        thread_count(),
    )
    return out


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """See `fastsam_core.ops.windowed_attention`."""
    if qkv.dtype not in DTYPES:
        return reference.windowed_attention(qkv, bias, window, padding)
    check_windowed_attention(qkv, bias, window, padding)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    _cpu.windowed_attention(
        _numbers(qkv),
        _floats(bias),
        window,
        None if padding is None else _numbers(padding.to(qkv.dtype)),
        _numbers(out),
        thread_count(),
    )
    return out


def _numbers(tensor: Tensor) -> Any:
    """NumPy has no bfloat16: its bits go as int16."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _floats(tensor: Tensor) -> Any:
    return tensor.detach().to(torch.float32).contiguous().numpy()
