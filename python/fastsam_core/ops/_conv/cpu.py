"""C++ sibling of the convolutions, for float32; other dtypes go to the reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._native import array_of, cpu_module
from .._threads import thread_count
from . import reference, schema

_cpu: Any = cpu_module


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False) -> Tensor:
    """See `fastsam_core.ops.conv3x3`."""
    if x.dtype != torch.float32:
        return reference.conv3x3(x, weight, bias, stride, gelu)
    out = schema.conv3x3(x, weight, bias, stride, gelu)
    _cpu.conv3x3(*map(array_of, (x, weight, bias)), stride, gelu, out.numpy(), thread_count())
    return out


def conv_stem(
    images: Tensor, first_weight: Tensor, first_bias: Tensor, second_weight: Tensor, second_bias: Tensor
) -> Tensor:
    """See `fastsam_core.ops.conv_stem`."""
    weights = (first_weight, first_bias, second_weight, second_bias)
    if images.dtype != torch.float32:
        return reference.conv_stem(images, *weights)
    out = schema.conv_stem(images, *weights)
    _cpu.conv_stem(*map(array_of, (images, *weights)), out.numpy(), thread_count())
    return out


def depthwise3x3(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False, shift: Tensor | None = None
) -> Tensor:
    """See `fastsam_core.ops.depthwise3x3`."""
    if x.dtype != torch.float32:
        return reference.depthwise3x3(x, weight, bias, stride, gelu, shift)
    out = schema.depthwise3x3(x, weight, bias, stride, gelu, shift)
    x = x if shift is None else x + shift
    _cpu.depthwise3x3(*map(array_of, (x, weight, bias)), stride, gelu, out.numpy(), thread_count())
    return out


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
    """See `fastsam_core.ops.mbconv`."""
    weights = (expand_weight, expand_bias, depthwise_weight, depthwise_bias, project_weight, project_bias)
    if x.dtype != torch.float32:
        return reference.mbconv(x, *weights, stride, residual)
    out = schema.mbconv(x, *weights, stride, residual)
    _cpu.mbconv(*map(array_of, (x, *weights)), stride, residual, out.numpy(), thread_count())
    return out
