"""Residual sum and LayerNorm in plain PyTorch: the definition, and the fallback wherever there is no kernel."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .inputs import check_add_norm, check_no_overlap


def add_norm_into(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """See `fastsam_core.ops.add_norm_into`."""
    check_add_norm(x, delta, weight, bias)
    check_no_overlap(x, delta)
    x += delta
    delta.copy_(F.layer_norm(x, weight.shape, weight, bias, eps))
