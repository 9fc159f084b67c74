"""What callers hand over as tensors."""

from __future__ import annotations

from typing import Any

import torch


def check_plain(tensor: torch.Tensor, name: str) -> None:
    """TypeError for a tensor without numbers of its own, or whose numbers don't lie in order in memory."""
    kind = "meta" if tensor.is_meta else "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else None
    if kind is None and tensor.layout is not torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
    if kind is not None:
        raise TypeError(f"{name} must be a plain tensor, not a {kind} one; see Tensor.to_dense and Tensor.dequantize")


def tensor_of(values: Any) -> torch.Tensor:
    """A tensor as it is; an array or numbers on the CPU, whatever PyTorch's default device."""
    return values if isinstance(values, torch.Tensor) else torch.as_tensor(values, device="cpu")
