"""Public functions of the convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dispatch_bypass import can_bypass_dispatcher
from . import cuda

_ops: Any = torch.ops.fastsam_core


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False) -> Tensor:
    """3 x 3 convolution with padding 1 over channels-last images. For inference only: not differentiable.

    Args:
        x: (B, H, W, C) floating-point. The C++ code takes float32; PyTorch runs other dtypes.
        weight: (O, C, 3, 3), with the dtype and device of `x`, like all other tensors.
        bias: (O,).
        stride: 1 or 2.
        gelu: apply the exact GELU to the result.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), O), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, or another stride.
    """
    result: Tensor = _ops.conv3x3.default(x, weight, bias, int(stride), bool(gelu))
    return result


def conv_stem(
    images: Tensor, first_weight: Tensor, first_bias: Tensor, second_weight: Tensor, second_bias: Tensor
) -> Tensor:
    """Two 3 x 3 convolutions with stride 2 and padding 1, with GELU between them: images to a channels-last grid.

    Args:
        images: (B, C, H, W), dtypes as in `conv3x3`.
        first_weight: (hidden, C, 3, 3).
        first_bias: (hidden,).
        second_weight: (O, hidden, 3, 3).
        second_bias: (O,).

    Returns:
        (B, ceil(H / 4), ceil(W / 4), O), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit.
    """
    result: Tensor = _ops.conv_stem.default(images, first_weight, first_bias, second_weight, second_bias)
    return result


def depthwise3x3(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False, shift: Tensor | None = None
) -> Tensor:
    """Depthwise 3 x 3 convolution with padding 1 over channels-last images.

    The only convolution here with CUDA kernels: for float16 and bfloat16 with a multiple of 8 channels, and only if
    FASTSAM_CUDA_KERNELS=1 is set.

    Args:
        x: (B, H, W, C), dtypes as in `conv3x3`.
        weight: (C, 3, 3). On a GPU preferably a view of (3, 3, C) memory, which the kernel reads without a copy.
        bias: (C,).
        stride: 1 or 2.
        gelu: apply the exact GELU to the result.
        shift: (C,), added to `x` first but not to the padding, e.g. the bias of the layer before.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), C), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, or another stride.
    """
    if can_bypass_dispatcher(x, weight, bias, shift):
        return cuda.depthwise3x3(x, weight, bias, int(stride), bool(gelu), shift)
    result: Tensor = _ops.depthwise3x3.default(x, weight, bias, int(stride), bool(gelu), shift)
    return result


def mbconv(
    x: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    stride: int = 1,
    residual: bool = False,
) -> Tensor:
    """Inverted residual block over channels-last images: 1 x 1, GELU, depthwise 3 x 3, GELU, 1 x 1.

    Args:
        x: (B, H, W, C), dtypes as in `conv3x3`.
        expand_weight: (hidden, C).
        expand_bias: (hidden,).
        depthwise_weight: (hidden, 3, 3).
        depthwise_bias: (hidden,).
        project_weight: (O, hidden).
        project_bias: (O,).
        stride: of the depthwise convolution, 1 or 2.
        residual: add `x` to the result and apply GELU to the sum; needs stride 1 and O = C.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), O), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, another stride, or `residual` where the shape changes.
    """
    weights = (expand_weight, expand_bias, depthwise_weight, depthwise_bias, project_weight, project_bias)
    result: Tensor = _ops.mbconv.default(x, *weights, int(stride), bool(residual))
    return result
