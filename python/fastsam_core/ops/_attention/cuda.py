"""CUDA sibling of attention: float16, bfloat16 and float32 (as pairs of TF32 numbers) on tensor cores.

There are kernels for the models' head dimensions: 64 and 80 with relative positions, 32 with a dense bias. Other
dimensions, float64, and GPUs before compute capability 8.0 go to the reference. Separate kernels, which use the wgmma
instructions of Hopper GPUs, run half precision over whole grids of 33 to 64 columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._native_cuda import (
    DTYPES,
    aligned,
    compute_capability,
    falls_back_to_pytorch,
    on_device_of,
    shared_memory,
    why_too_old,
)
from . import reference
from .inputs import check_attention, check_windowed_attention


def why_not(op: str, tensor: Tensor) -> str:
    """Return why the kernels of `op` don't take this dtype or GPU; "" if they do. Doesn't check the head dimension."""
    if tensor.dtype not in DTYPES:
        return f"{op} has kernels for float32, float16 and bfloat16; the tensor is {tensor.dtype}"
    return why_too_old(op, tensor)


def attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    num_heads: int,
    window: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    """See `fastsam_core.ops.attention`."""
    dim = check_attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    batch, height, width, _ = qkv.shape
    with on_device_of(qkv) as (cuda, stream):
        if _falls_back_to_pytorch("attention", qkv, cuda.attention_has_kernel(dim), dim):
            return reference.attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
        out = qkv.new_empty(batch, height, width, num_heads * dim)
        if not out.numel():
            return out
        tensors = [x if x is None else aligned(x, qkv.dtype) for x in (qkv, rel_pos_h, rel_pos_w, padding)]
        qkv_ptr, rel_pos_h_ptr, rel_pos_w_ptr, padding_ptr = map(_data_ptr, tensors)
        sizes = batch, height, width, num_heads, dim
        if should_use_wgmma(cuda, qkv, dim, window):
            cuda.attention_wgmma(
                DTYPES[qkv.dtype], qkv_ptr, *sizes, rel_pos_h_ptr, rel_pos_w_ptr, out.data_ptr(), stream
            )
            return out
        cuda.attention(
            *(DTYPES[qkv.dtype], qkv_ptr, *sizes, rel_pos_h_ptr, rel_pos_w_ptr, window, padding_ptr),
            *(out.data_ptr(), shared_memory(cuda, qkv.device), stream),
        )
    return out


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """See `fastsam_core.ops.windowed_attention`."""
    dim = check_windowed_attention(qkv, bias, window, padding)
    (batch, height, width, _), heads = qkv.shape, bias.shape[0]
    with on_device_of(qkv) as (cuda, stream):
        if _falls_back_to_pytorch("windowed_attention", qkv, cuda.windowed_attention_has_kernel(dim), dim):
            return reference.windowed_attention(qkv, bias, window, padding)
        out = qkv.new_empty(batch, height, width, heads * dim)
        if not out.numel():
            return out
        tensors = [x if x is None else aligned(x, qkv.dtype) for x in (qkv, bias, padding)]
        qkv_ptr, bias_ptr, padding_ptr = map(_data_ptr, tensors)
        sizes = batch, height, width, heads, dim
        cuda.windowed_attention(
            *(DTYPES[qkv.dtype], qkv_ptr, *sizes, bias_ptr, window, padding_ptr, out.data_ptr(), stream),
        )
    return out


def should_use_wgmma(cuda: Any, qkv: Tensor, dim: int, window: int) -> bool:
    """Return whether a call of `attention` uses the Hopper kernels. dim: channels per head."""
    if not has_wgmma(cuda, qkv.device):
        return False
    return bool(cuda.attention_wgmma_has_kernel(DTYPES[qkv.dtype], *qkv.shape[1:3], dim, window))


def has_wgmma(cuda: Any, device: torch.device) -> bool:
    """Return whether the device has wgmma instructions and `cuda`, the module, holds code for them."""
    return bool(cuda.EMULATED) or ("90a" in cuda.ARCHITECTURES and compute_capability(device) == (9, 0))


def _falls_back_to_pytorch(op: str, qkv: Tensor, has_kernel: bool, dim: int) -> bool:
    """Return whether PyTorch must run this call, and log why. dim: channels per head."""
    missing = "" if has_kernel else f"{op} has no kernel for heads of {dim} channels"
    return falls_back_to_pytorch(why_not(op, qkv) or missing)


def _data_ptr(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
