"""The native sibling: float32 on the CPU; other dtypes go to the PyTorch form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._native import cpu_module
from .._threads import thread_count
from . import reference
from .checks import ACTIVATIONS, check_linear, check_mlp, check_out, check_overlap, rows

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
    check_linear(x, weight, bias, activation, norm_weight, norm_bias, residual)
    if x.dtype != torch.float32:
        return reference.linear(x, weight, bias, activation, norm_weight, norm_bias, eps, residual)
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    _linear(out, x, weight, bias, activation, norm_weight, norm_bias, eps, residual)
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
    if x.dtype != torch.float32 or out.dtype != torch.float32:
        return reference.linear_into(out, x, weight, bias, activation, norm_weight, norm_bias, eps, residual)
    check_linear(x, weight, bias, activation, norm_weight, norm_bias, residual)
    check_out(out, torch.Size([*x.shape[:-1], weight.shape[0]]))
    check_overlap(out, x, weight, bias, norm_weight, norm_bias, same=residual)
    _linear(out, x, weight, bias, activation, norm_weight, norm_bias, eps, residual)


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
    check_mlp(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2)
    if x.dtype != torch.float32:
        return reference.mlp(x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _mlp(out, x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)
    return out


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
    """See `fastsam_core.ops.mlp_into`."""
    if x.dtype != torch.float32 or out.dtype != torch.float32:
        return reference.mlp_into(out, x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)
    check_mlp(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2)
    check_out(out, x.shape)
    check_overlap(out, norm_weight, norm_bias, weight1, bias1, weight2, bias2, same=x)
    _mlp(out, x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)


def _linear(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
) -> None:
    if out.numel() == 0:
        return
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
        _vector(norm_weight),
        _vector(norm_bias),
        eps,
        _matrix(weight1),
        _vector(bias1),
        _matrix(weight2),
        _vector(bias2),
        _matrix(out),
        thread_count(),
    )


def _matrix(tensor: Tensor) -> Any:
    """(rows, columns) in NumPy, without a copy where the rows are contiguous and at one distance."""
    tensor = tensor.detach()
    view = rows(tensor)
    return (tensor.contiguous().view(-1, tensor.shape[-1]) if view is None else view).numpy()


def _vector(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().contiguous().numpy()
