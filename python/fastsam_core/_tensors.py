"""Checks and conversion of tensors that callers pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def check_are_tensors(**values: Any) -> None:
    """Raise TypeError unless each value is a tensor or None; their names are for the message."""
    for name, value in values.items():
        if value is not None and not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")


def check_dense(tensor: torch.Tensor, name: str) -> None:
    """Raise TypeError unless a tensor is dense and strided: meta, nested, quantized and sparse ones are rejected."""
    kind = "meta" if tensor.is_meta else "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else None
    if kind is None and tensor.layout is not torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
    if kind is not None:
        raise TypeError(f"{name} must be a plain tensor, not a {kind} one; see Tensor.to_dense and Tensor.dequantize")


def to_tensor(values: Any) -> torch.Tensor:
    """Return a tensor as it is, and an array or numbers as a CPU tensor, whatever PyTorch's default device is.

    An array shares its memory with the tensor unless it is read-only or reversed: PyTorch warns about the former, and
    refuses negative strides.
    """
    if isinstance(values, np.ndarray) and (not values.flags.writeable or any(step < 0 for step in values.strides)):
        values = values.copy(order="K")
    return values if isinstance(values, torch.Tensor) else torch.as_tensor(values, device="cpu")
