"""What callers see of fully connected layers."""

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
    """activation(LayerNorm(x) @ weight.T + bias) + residual, without gradients.

    Args:
        x: (..., K), any floating dtype; all other tensors have its dtype and device. The native sibling takes float32.
        weight: (N, K), as in `torch.nn.Linear`.
        bias: (N,), or None.
        activation: "none", "gelu" (the exact one) or "relu".
        norm_weight: (K,) of the LayerNorm over x that comes first; None for no LayerNorm.
        norm_bias: (K,), given where norm_weight is.
        eps: of the LayerNorm.
        residual: (..., N), or None.

    Returns:
        (..., N), bit-equal for every number of threads.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit together, an unknown activation.
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
    """`linear`, written to `out` (..., N), whose rows are contiguous.

    `residual` may be `out`, the same view; any other overlap in memory is a ValueError.
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
    """The residual block x + gelu(LayerNorm(x) @ weight1.T + bias1) @ weight2.T + bias2, without gradients.

    The native sibling computes some rows at a time: the hidden layer never exists as a whole.

    Args:
        x: (..., K), any floating dtype; all other tensors have its dtype and device. The native sibling takes float32.
        norm_weight: (K,).
        norm_bias: (K,).
        eps: of the LayerNorm.
        weight1: (M, K).
        bias1: (M,).
        weight2: (K, M).
        bias2: (K,).

    Returns:
        (..., K), bit-equal for every number of threads.

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
    """`mlp`, written to `out` (..., K), which may be `x` itself; any other overlap in memory is a ValueError."""
    _ops.mlp_into.default(out, x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2)
