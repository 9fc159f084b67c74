"""CUDA sibling of the depthwise convolution, in half precision; PyTorch runs the other convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native_cuda import DTYPES, aligned, falls_back_to_pytorch, on_device_of, unvalidated_disabled_reason
from . import checks, reference


def why_not(op: str, tensor: Tensor) -> str:
    """Return why the kernel doesn't take this tensor as the `x` of `depthwise3x3`; "" if it does.

    Doesn't check the number of channels.
    """
    if tensor.dtype not in (torch.float16, torch.bfloat16):
        return f"{op} has kernels for float16 and bfloat16; the tensor is {tensor.dtype}"
    return unvalidated_disabled_reason()


def depthwise3x3(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False, shift: Tensor | None = None
) -> Tensor:
    """See `fastsam_core.ops.depthwise3x3`."""
    shape = checks.depthwise3x3(x, weight, bias, stride, shift)
    batch, height, width, channels = x.shape
    size_reason = "depthwise3x3 has kernels for multiples of 8 channels" if channels % 8 else ""
    if falls_back_to_pytorch(why_not("depthwise3x3", x) or size_reason):
        return reference.depthwise3x3(x, weight, bias, stride, gelu, shift)
    out = x.new_empty(shape)
    with on_device_of(x, weight, bias) as (cuda, stream):
        # Copies the weight unless it is already a view of contiguous (3, 3, C).
        x, weight, bias = aligned(x), aligned(weight.permute(1, 2, 0)), aligned(bias)
        shift = None if shift is None else aligned(shift)
        pointers = (
            x.data_ptr(),
            weight.data_ptr(),
            bias.data_ptr(),
            0 if shift is None else shift.data_ptr(),
            out.data_ptr(),
        )
        cuda.depthwise(DTYPES[x.dtype], *pointers, batch, height, width, channels, stride, gelu, stream)
    return out
