"""The CUDA sibling: float16, bfloat16 and float32 (as pairs of TF32 numbers) on tensor cores.

There are kernels for the models' head dimensions: 64 and 80 with relative positions, 32 with a dense bias. The reference
serves others, float64, and GPUs before compute capability 8.0.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .._native_cuda import DTYPES, on_device_of, say_served_by_pytorch
from . import reference
from .inputs import check_attention, check_windowed_attention

_CAPABILITY = (8, 0)
_ALIGNMENT = 16  # bytes, of what the kernels copy at a time


def why_not(op: str, tensor: Tensor) -> str:
    """Why the kernels of `op` don't take a tensor like this one; "" where they do, for the head dimensions they have."""
    if tensor.dtype not in DTYPES:
        return f"{op} has kernels for float32, float16 and bfloat16; the tensor is {tensor.dtype}"
    if tensor.is_cuda and (capability := _capability(tensor.device)) < _CAPABILITY:
        return f"{op} needs compute capability 8.0; the tensor's GPU has {capability[0]}.{capability[1]}"
    return ""


def attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    num_heads: int,
    window: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    """See `fastsam_core.ops.attention`."""
    check_attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    dim = qkv.shape[3] // (3 * num_heads)
    out = qkv.new_empty(*qkv.shape[:3], num_heads * dim)
    with on_device_of(qkv, rel_pos_h, rel_pos_w) as (cuda, stream):
        if _left_to_pytorch("attention", qkv, cuda.attention_has_kernel(dim), dim):
            return reference.attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
        if not out.numel():
            return out
        tables = _dense(rel_pos_h, qkv.dtype), _dense(rel_pos_w, qkv.dtype)
        packed, beyond = _dense(qkv, qkv.dtype), None if padding is None else _dense(padding, qkv.dtype)
        cuda.attention(
            *(DTYPES[qkv.dtype], packed.data_ptr(), *qkv.shape[:3], num_heads, dim),
            *(tables[0].data_ptr(), tables[1].data_ptr(), window),
            *(0 if beyond is None else beyond.data_ptr(), out.data_ptr(), stream),
        )
    return out


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """See `fastsam_core.ops.windowed_attention`."""
    check_windowed_attention(qkv, bias, window, padding)
    heads = bias.shape[0]
    dim = qkv.shape[3] // (3 * heads)
    out = qkv.new_empty(*qkv.shape[:3], heads * dim)
    with on_device_of(qkv, bias) as (cuda, stream):
        if _left_to_pytorch("windowed_attention", qkv, cuda.windowed_attention_has_kernel(dim), dim):
            return reference.windowed_attention(qkv, bias, window, padding)
        if not out.numel():
            return out
        packed, added = _dense(qkv, qkv.dtype), _dense(bias, qkv.dtype)
        beyond = None if padding is None else _dense(padding, qkv.dtype)
        cuda.windowed_attention(
            *(DTYPES[qkv.dtype], packed.data_ptr(), *qkv.shape[:3], heads, dim),
            *(added.data_ptr(), window),
            *(0 if beyond is None else beyond.data_ptr(), out.data_ptr(), stream),
        )
    return out


def _left_to_pytorch(op: str, qkv: Tensor, has_kernel: bool, dim: int) -> bool:
    """Whether there is no kernel for this call; says so, once for each reason."""
    reason = why_not(op, qkv) or ("" if has_kernel else f"{op} has no kernel for a head dimension of {dim}")
    if reason:
        say_served_by_pytorch(reason)
    return bool(reason)


def _dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Contiguous, of this dtype and where a kernel can copy from: a view may begin in the middle of 16 bytes."""
    tensor = tensor.detach().to(dtype).contiguous()
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
