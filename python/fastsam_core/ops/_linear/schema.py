"""Signatures and fakes of fully connected layers."""

from __future__ import annotations

from typing import Any

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


def mlp(x: Tensor, *weights: Any) -> Tensor:
    check_mlp(x, *weights)
    return x.new_empty(x.shape)


def mlp_into(out: Tensor, x: Tensor, *weights: Any) -> None:
    check_mlp(x, *weights)
    check_out(out, x.shape)
