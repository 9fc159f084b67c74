"""Signatures and fakes of fully connected layers."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_linear, check_mlp, check_out

_LINEAR = (
    "Tensor x, Tensor weight, Tensor? bias=None, str activation='none', Tensor? norm_weight=None, "
    "Tensor? norm_bias=None, float eps=1e-06, Tensor? residual=None"
)
_MLP = (
    "Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor weight1, Tensor bias1, Tensor weight2, "
    "Tensor bias2"
)
SCHEMAS = {
    "linear": f"({_LINEAR}) -> Tensor",
    "linear_into": f"(Tensor(a!) out, {_LINEAR}) -> ()",
    "mlp": f"({_MLP}) -> Tensor",
    "mlp_into": f"(Tensor(a!) out, {_MLP}) -> ()",
}


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
    check_linear(x, weight, bias, activation, norm_weight, norm_bias, residual)
    return x.new_empty(*x.shape[:-1], weight.shape[0])


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
    check_linear(x, weight, bias, activation, norm_weight, norm_bias, residual)
    check_out(out, torch.Size([*x.shape[:-1], weight.shape[0]]))


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
    check_mlp(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2)
    return x.new_empty(x.shape)


def mlp_into(
    out: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
) -> None:
    check_mlp(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2)
    check_out(out, x.shape)
