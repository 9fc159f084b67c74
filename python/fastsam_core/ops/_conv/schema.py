"""Signatures and fakes of the convolutions."""

from __future__ import annotations

from torch import Tensor

from . import checks

SCHEMAS = {
    "conv3x3": "(Tensor x, Tensor weight, Tensor bias, int stride=1, bool gelu=False) -> Tensor",
    "conv_stem": (
        "(Tensor images, Tensor first_weight, Tensor first_bias, Tensor second_weight, Tensor second_bias) -> Tensor"
    ),
    "depthwise3x3": (
        "(Tensor x, Tensor weight, Tensor bias, int stride=1, bool gelu=False, Tensor? shift=None) -> Tensor"
    ),
    "mbconv": (
        "(Tensor x, Tensor expand_weight, Tensor expand_bias, Tensor depthwise_weight, Tensor depthwise_bias, "
        "Tensor project_weight, Tensor project_bias, int stride=1, bool residual=False) -> Tensor"
    ),
}


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False) -> Tensor:
    return x.new_empty(checks.conv3x3(x, weight, bias, stride))


def conv_stem(
    images: Tensor, first_weight: Tensor, first_bias: Tensor, second_weight: Tensor, second_bias: Tensor
) -> Tensor:
    return images.new_empty(checks.conv_stem(images, first_weight, first_bias, second_weight, second_bias))


def depthwise3x3(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, gelu: bool = False, shift: Tensor | None = None
) -> Tensor:
    return x.new_empty(checks.depthwise3x3(x, weight, bias, stride, shift))


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
    weights = (expand_weight, expand_bias, depthwise_weight, depthwise_bias, project_weight, project_bias)
    return x.new_empty(checks.mbconv(x, *weights, stride, residual))
