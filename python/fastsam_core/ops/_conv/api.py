"""What callers see of the convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._direct import goes_directly
from . import cuda

_ops: Any = torch.ops.fastsam_core


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False) -> Tensor:
    """A 3 x 3 convolution with padding 1 over channels-last images. For inference: it has no gradient.

    Args:
        x: (B, H, W, C) floating-point; the native sibling computes float32, others go to PyTorch.
        weight: (O, C, 3, 3), in the dtype and on the device of `x`, as all that follow.
        bias: (O,).
        stride: 1 or 2.
        gelu: whether GELU (the exact form) follows.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), O), contiguous.

    Raises:
        ValueError: shapes or dtypes that don't fit, another stride.
    """
    result: Tensor = _ops.conv3x3.default(x, weight, bias, int(stride), bool(gelu))
    return result


def conv_stem(
    images: Tensor, first_weight: Tensor, first_bias: Tensor, second_weight: Tensor, second_bias: Tensor
) -> Tensor:
    """Two 3 x 3 convolutions of stride 2 and padding 1 with GELU between them: images to a channels-last grid.

    Args:
        images: (B, C, H, W), dtypes as in `conv3x3`.
        first_weight: (hidden, C, 3, 3).
        first_bias: (hidden,).
        second_weight: (O, hidden, 3, 3).
        second_bias: (O,).

    Returns:
        (B, ceil(H / 4), ceil(W / 4), O), contiguous.

    Raises:
        ValueError: shapes or dtypes that don't fit.
    """
    result: Tensor = _ops.conv_stem.default(images, first_weight, first_bias, second_weight, second_bias)
    return result


def depthwise3x3(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False, shift: Tensor | None = None
) -> Tensor:
    """A depthwise 3 x 3 convolution with padding 1 over channels-last images.

    Of this one there is a CUDA form, for float16 and bfloat16 with a multiple of 8 channels.

    Args:
        x: (B, H, W, C), dtypes as in `conv3x3`.
        weight: (C, 3, 3). On a GPU best a view of (3, 3, C), which is what the kernel reads.
        bias: (C,).
        stride: 1 or 2.
        gelu: whether GELU follows.
        shift: (C,), added to `x` first, not to the padding: the bias of a layer before, say.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), C), contiguous.

    Raises:
        ValueError: shapes or dtypes that don't fit, another stride.
    """
    if goes_directly(x, weight, bias, shift):
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
    """An inverted residual over channels-last images: 1 x 1, GELU, depthwise 3 x 3, GELU, 1 x 1.

    Args:
        x: (B, H, W, C), dtypes as in `conv3x3`.
        expand_weight: (hidden, C).
        expand_bias: (hidden,).
        depthwise_weight: (hidden, 3, 3).
        depthwise_bias: (hidden,).
        project_weight: (O, hidden).
        project_bias: (O,).
        stride: of the depthwise convolution, 1 or 2.
        residual: whether to add `x` in the end and apply GELU to the sum; needs stride 1 and O = C.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), O), contiguous.

    Raises:
        ValueError: shapes or dtypes that don't fit, another stride, a residual where shapes change.
    """
    weights = (expand_weight, expand_bias, depthwise_weight, depthwise_bias, project_weight, project_bias)
    result: Tensor = _ops.mbconv.default(x, *weights, int(stride), bool(residual))
    return result
