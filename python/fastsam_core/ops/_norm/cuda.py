"""CUDA sibling of the residual sum: one kernel launch instead of two.

It has kernels for float32, float16 and bfloat16, and for some numbers of channels.
"""

from __future__ import annotations

from torch import Tensor

from .._native_cuda import DTYPES, aligned, falls_back_to_pytorch, on_device_of, unvalidated_disabled_reason
from . import reference
from .inputs import check_add_norm, check_no_overlap

# Numbers of channels that aren't a multiple use the kernel for short rows, in which some threads idle.
_CHANNEL_STEP = 256


def why_not(op: str, tensor: Tensor) -> str:
    """Return why the kernels don't take a tensor of this dtype; "" if they do. Doesn't check the number of channels."""
    if tensor.dtype not in DTYPES:
        return f"{op} has kernels for float32, float16 and bfloat16; the tensor is {tensor.dtype}"
    return ""


def add_norm_into(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """See `fastsam_core.ops.add_norm_into`."""
    check_add_norm(x, delta, weight, bias)
    with on_device_of(x, delta, weight, bias) as (cuda, stream):
        channels, x_ptr, delta_ptr = x.shape[-1], x.data_ptr(), delta.data_ptr()
        size_reason = (
            "" if cuda.add_norm_has_kernel(channels) else f"add_norm_into has no kernel for {channels} channels"
        )
        if channels % _CHANNEL_STEP:
            size_reason = size_reason or unvalidated_disabled_reason()
        if (x_ptr | delta_ptr) % 16:
            size_reason = "add_norm_into reads 16 bytes at a time, but x or delta is not aligned to 16 bytes"
        if falls_back_to_pytorch(why_not("add_norm_into", x) or size_reason):
            return reference.add_norm_into(x, delta, weight, bias, eps)
        check_no_overlap(x, delta)
        weight, bias = aligned(weight), aligned(bias)
        pointers = x_ptr, delta_ptr, weight.data_ptr(), bias.data_ptr()
        cuda.add_norm(DTYPES[x.dtype], *pointers, x.numel() // channels, channels, eps, stream)
