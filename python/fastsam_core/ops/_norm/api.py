"""Public function of the residual sum with LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dispatch_bypass import can_bypass_dispatcher
from . import cuda

_ops: Any = torch.ops.fastsam_core


def add_norm_into(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """Compute `x += delta`, then `delta = LayerNorm(x)`, in place: the step between two layers of a transformer.

    The sum is rounded to the dtype before it is normalised, as in PyTorch. The CUDA kernels take float32, float16 and
    bfloat16 with 256, 512, ... 2048 channels and, if FASTSAM_CUDA_KERNELS=1 is set, any multiple of 8 up to 512
    channels. PyTorch runs the rest. Not differentiable.

    Args:
        x: (..., C), any floating dtype, contiguous; all other tensors have its dtype and device. Overwritten.
        delta: same shape as `x`, contiguous, not overlapping it in memory. Overwritten.
        weight: (C,) of the LayerNorm.
        bias: (C,) of the LayerNorm.
        eps: added to the variance by the LayerNorm.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit together; `x` or `delta` not contiguous, or overlapping.
    """
    if can_bypass_dispatcher(x, delta, weight, bias):
        cuda.add_norm_into(x, delta, weight, bias, eps)
    else:
        _ops.add_norm_into.default(x, delta, weight, bias, eps)
