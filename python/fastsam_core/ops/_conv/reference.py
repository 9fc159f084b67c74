"""Convolutions in plain PyTorch: the definition, and the fallback for every device."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from . import checks


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False) -> Tensor:
    """See `fastsam_core.ops.conv3x3`."""
    checks.conv3x3(x, weight, bias, stride)
    out = F.conv2d(_channels_first(x), weight, bias, stride, 1)
    return _channels_last(F.gelu(out) if gelu else out)


def conv_stem(
    images: Tensor, first_weight: Tensor, first_bias: Tensor, second_weight: Tensor, second_bias: Tensor
) -> Tensor:
    """See `fastsam_core.ops.conv_stem`."""
    checks.conv_stem(images, first_weight, first_bias, second_weight, second_bias)
    hidden = F.gelu(F.conv2d(images, first_weight, first_bias, 2, 1))
    return _channels_last(F.conv2d(hidden, second_weight, second_bias, 2, 1))


def depthwise3x3(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False, shift: Tensor | None = None
) -> Tensor:
    """See `fastsam_core.ops.depthwise3x3`."""
    checks.depthwise3x3(x, weight, bias, stride, shift)
    x = x if shift is None else x + shift
    out = F.conv2d(_channels_first(x), weight[:, None], bias, stride, 1, groups=x.shape[3])
    return _channels_last(F.gelu(out) if gelu else out)


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
    checks.mbconv(x, *weights, stride, residual)
    hidden = F.gelu(F.linear(x, expand_weight, expand_bias))
    out = F.linear(depthwise3x3(hidden, depthwise_weight, depthwise_bias, stride, True), project_weight, project_bias)
    return F.gelu(x + out) if residual else out


def _channels_first(x: Tensor) -> Tensor:  # (B, H, W, C) -> (B, C, H, W)
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, H, W, C)
    return x.permute(0, 2, 3, 1).contiguous()
