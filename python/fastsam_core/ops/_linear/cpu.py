"""C++ sibling of the fully connected layers, for float32; other dtypes go to the reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._native import array_of, cpu_module
from .._threads import thread_count
from . import reference, schema
from .checks import ACTIVATIONS, check_overlap, rows

_cpu: Any = cpu_module


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
    given = x, weight, bias, activation, norm_weight, norm_bias, eps, residual
    if x.dtype != torch.float32:
        return reference.linear(*given)
    out = schema.linear(*given)
    _linear(out, *given)
    return out


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
    given = x, weight, bias, activation, norm_weight, norm_bias, eps, residual
    if x.dtype != torch.float32 or out.dtype != torch.float32:
        return reference.linear_into(out, *given)
    schema.linear_into(out, *given)
    check_overlap(out, x, weight, bias, norm_weight, norm_bias, same=residual)
    _linear(out, *given)


def mlp(x: Tensor, *weights: Any) -> Tensor:
    """See `fastsam_core.ops.mlp`."""
    if x.dtype != torch.float32:
        return reference.mlp(x, *weights)
    out = schema.mlp(x, *weights)
    _mlp(out, x, *weights)
    return out


def mlp_into(out: Tensor, x: Tensor, *weights: Any) -> None:
    """See `fastsam_core.ops.mlp_into`."""
    if x.dtype != torch.float32 or out.dtype != torch.float32:
        return reference.mlp_into(out, x, *weights)
    schema.mlp_into(out, x, *weights)
    check_overlap(out, *(weight for weight in weights if isinstance(weight, Tensor)), same=x)
    _mlp(out, x, *weights)


def _linear(out: Tensor, *given: Any) -> None:
    if out.numel() == 0:
        return
    x, weight, bias, activation, norm_weight, norm_bias, eps, residual = given
    _cpu.linear(
        _matrix(x),
        _matrix(weight),
        _vector(bias),
        ACTIVATIONS.index(activation),
        _vector(norm_weight),
        _vector(norm_bias),
        eps,
        None if residual is None else _matrix(residual),
        _matrix(out),
        thread_count(),
    )


def _mlp(
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
    if out.numel() == 0:
        return
    _cpu.mlp(
        _matrix(x),
        array_of(norm_weight),
        array_of(norm_bias),
        eps,
        _matrix(weight1),
        array_of(bias1),
        _matrix(weight2),
        array_of(bias2),
        _matrix(out),
        thread_count(),
    )


def _matrix(tensor: Tensor) -> Any:
    """Return (rows, columns) in NumPy, copied only if the rows aren't contiguous or not equally spaced."""
    tensor = tensor.detach()
    view = rows(tensor)
    return (tensor.contiguous().view(-1, tensor.shape[-1]) if view is None else view).numpy()


def _vector(tensor: Tensor | None) -> Any:
    return None if tensor is None else array_of(tensor)
