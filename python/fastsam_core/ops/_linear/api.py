"""Public functions of fully connected layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


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
    """Compute activation(LayerNorm(x) @ weight.T + bias) + residual. Not differentiable.

    Args:
        x: (..., K), any floating dtype; all other tensors have its dtype and device. The C++ code takes float32;
            PyTorch runs other dtypes.
        weight: (N, K), as in `torch.nn.Linear`.
        bias: (N,), or None.
        activation: "none", "gelu" (the exact GELU) or "relu".
        norm_weight: (K,) of the LayerNorm over x that comes first; None for no LayerNorm.
        norm_bias: (K,), given if and only if `norm_weight` is.
        eps: added to the variance by the LayerNorm.
        residual: (..., N), or None.

    Returns:
        (..., N), bit-identical for every number of threads.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit together, or an unknown activation.
    """
    result: Tensor = _ops.linear.default(x, weight, bias, activation, norm_weight, norm_bias, eps, residual)
    return result


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
    """Compute `linear` and write the result to `out` (..., N), converted to its dtype.

    The rows of `out` must be contiguous and equally spaced in memory. `residual` may be the same view as `out`.

    Raises:
        ValueError: as `linear`; an `out` of another shape or layout; any other overlap of `out` with an input in
            memory.
    """
    _ops.linear_into.default(out, x, weight, bias, activation, norm_weight, norm_bias, eps, residual)


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
    """Compute the residual block x + gelu(LayerNorm(x) @ weight1.T + bias1) @ weight2.T + bias2. Not differentiable.

    The C++ code computes a few rows at a time, so that the whole hidden layer is never in memory.

    Args:
        x: (..., K), any floating dtype; all other tensors have its dtype and device. The C++ code takes float32;
            PyTorch runs other dtypes.
        norm_weight: (K,).
        norm_bias: (K,).
        eps: added to the variance by the LayerNorm.
        weight1: (M, K).
        bias1: (M,).
        weight2: (K, M).
        bias2: (K,).

    Returns:
        (..., K), bit-identical for every number of threads.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit together.
    """
    result: Tensor = _ops.mlp.default(x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)
    return result


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
    """Compute `mlp` and write the result to `out` (..., K), converted to its dtype.

    The rows of `out` must be contiguous and equally spaced in memory. `out` may be the same view as `x`.

    Raises:
        ValueError: as `mlp`; an `out` of another shape or layout; any other overlap of `out` with an input in memory.
    """
    _ops.mlp_into.default(out, x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)
