"""Signature and fake of the residual sum."""

from __future__ import annotations

from torch import Tensor

from .inputs import check_add_norm

SCHEMAS = {
    "add_norm_into": "(Tensor(a!) x, Tensor(b!) delta, Tensor weight, Tensor bias, float eps) -> ()",
}


def add_norm_into(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    check_add_norm(x, delta, weight, bias)
