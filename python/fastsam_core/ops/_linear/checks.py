"""Input checks shared by all siblings of the fully connected layers and their fakes."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = ("none", "gelu", "relu")


def check_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
) -> None:
    """Raise ValueError unless shapes, dtypes and devices fit together; see `fastsam_core.ops.linear`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
    if x.dim() < 1 or not x.dtype.is_floating_point:
        raise ValueError(f"x must have shape (..., K) and a floating dtype; got {tuple(x.shape)} of {x.dtype}")
    if weight.dim() != 2 or weight.shape[1] != x.shape[-1] or weight.shape[1] < 1:
        raise ValueError(
            f"weight must have shape (N, K), with K at least 1, for x (..., K); got {tuple(weight.shape)} for "
            f"{tuple(x.shape)}"
        )
    if (norm_weight is None) != (norm_bias is None):
        raise ValueError("norm_weight and norm_bias belong together: give both, or neither")
    n, k = weight.shape
    _check("bias", bias, (n,), x)
    _check("norm_weight", norm_weight, (k,), x)
    _check("norm_bias", norm_bias, (k,), x)
    _check("residual", residual, (*x.shape[:-1], n), x)
    _check("weight", weight, (n, k), x)


def check_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
) -> None:
    """Raise ValueError unless shapes, dtypes and devices fit together; see `fastsam_core.ops.mlp`."""
    check_linear(x, weight1, bias1, "gelu", norm_weight, norm_bias, None)
    if weight1.shape[0] < 1:
        raise ValueError(f"weight1 must have at least one row, the hidden layer; got {tuple(weight1.shape)}")
    _check("weight2", weight2, (x.shape[-1], weight1.shape[0]), x)
    _check("bias2", bias2, (x.shape[-1],), x)


def check_out(out: Tensor, shape: torch.Size) -> None:
    """Raise ValueError unless `out` has this shape and contiguous rows."""
    if out.shape != shape:
        raise ValueError(f"out must have shape {tuple(shape)}; got {tuple(out.shape)}")
    if out.shape[-1] > 1 and out.stride(-1) != 1:
        raise ValueError("the rows of out must be contiguous")


def check_overlap(out: Tensor, *others: Tensor | None, same: Tensor | None = None) -> None:
    """Raise ValueError if `out` overlaps another tensor in memory, or is no matrix of equally spaced rows.

    `same` may be exactly the same view as `out`; otherwise it must not overlap either.
    """
    others = (*others, None if same is not None and _same_view(out, same) else same)
    if any(other is not None and _overlap(out, other) for other in others):
        raise ValueError("the memory of out overlaps that of an input; use a tensor of its own")
    if rows(out) is None or any(size > 1 and step == 0 for size, step in zip(out.shape, out.stride(), strict=True)):
        raise ValueError("out must be (..., N) with rows at one distance in memory; make it contiguous")


def rows(tensor: Tensor) -> Tensor | None:
    """View the tensor as (rows, columns) with contiguous rows; None if there is no such view."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        return None
    count = tensor.numel() // tensor.shape[-1] if tensor.shape[-1] else 0
    try:
        return tensor.view(count, tensor.shape[-1])
    except RuntimeError:
        return None


def _check(name: str, tensor: Tensor | None, shape: tuple[int, ...], x: Tensor) -> None:
    if tensor is None:
        return
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}; got {tuple(tensor.shape)}")
    if tensor.dtype != x.dtype or tensor.device != x.device:
        raise ValueError(
            f"{name} must be {x.dtype} on {x.device}, as x is; got {tensor.dtype} on {tensor.device}; use .to(x)"
        )


def _same_view(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _overlap(a: Tensor, b: Tensor) -> bool:
    (a_begin, a_end), (b_begin, b_end) = _byte_range(a), _byte_range(b)
    return a_begin < b_end and b_begin < a_end


def _byte_range(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses of the tensor's first byte and of the byte after its last."""
    if tensor.numel() == 0:
        return 0, 0
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
