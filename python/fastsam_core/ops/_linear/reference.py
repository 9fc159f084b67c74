"""Fully connected layers in plain PyTorch: the definition, and the fallback for every device and dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import check_linear, check_mlp, check_out, check_overlap


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-6,
    residual: Tensor | None = None,
) -> Tensor:
    """See `fastsam_core.ops.linear`."""
    check_linear(x, weight, bias, activation, norm_weight, norm_bias, residual)
    if norm_weight is not None:
        x = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    y = F.linear(x, weight, bias)
    if activation == "gelu":
        y = F.gelu(y)
    elif activation == "relu":
        y = F.relu(y)
    return y if residual is None else y + residual


def linear_into(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-6,
    residual: Tensor | None = None,
) -> None:
    """See `fastsam_core.ops.linear_into`."""
    y = linear(x, weight, bias, activation, norm_weight, norm_bias, eps, residual)
    check_out(out, y.shape)
    check_overlap(out, x, weight, bias, norm_weight, norm_bias, same=residual)
    out.copy_(y)


def mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
) -> Tensor:
    """See `fastsam_core.ops.mlp`."""
    check_mlp(x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)
    hidden = F.gelu(F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps), weight1, bias1))
    return torch.add(x, F.linear(hidden, weight2, bias2))


def mlp_into(out: Tensor, x: Tensor, *weights: Any) -> None:
    """See `fastsam_core.ops.mlp_into`."""
    y = mlp(x, *weights)
    check_out(out, y.shape)
    check_overlap(out, *(weight for weight in weights if isinstance(weight, Tensor)), same=x)
    out.copy_(y)
