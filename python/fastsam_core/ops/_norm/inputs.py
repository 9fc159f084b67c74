"""Input checks shared by all siblings of the residual sum."""

from __future__ import annotations

from torch import Tensor


def check_add_norm(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise ValueError unless shapes and dtypes fit together and both written tensors are contiguous."""
    shape, dtype = x.shape, x.dtype
    sizes = delta.shape == shape and weight.shape == bias.shape == shape[-1:] != () and shape[-1]
    dtypes = dtype.is_floating_point and delta.dtype == weight.dtype == bias.dtype == dtype
    if sizes and dtypes and x.is_contiguous() and delta.is_contiguous():
        return  # Fast path: valid calls end here. The checks below repeat this one, to find what is wrong.
    if not shape or shape[-1] < 1 or not dtype.is_floating_point:
        raise ValueError(f"x must have shape (..., C) and a floating dtype; got {tuple(shape)} of {dtype}")
    for name, tensor, wanted in (("delta", delta, shape), ("weight", weight, shape[-1:]), ("bias", bias, shape[-1:])):
        if tensor.shape != wanted or tensor.dtype != dtype:
            raise ValueError(
                f"{name} must be {tuple(wanted)} of {dtype}, like x; got {tuple(tensor.shape)} of {tensor.dtype}"
            )
    if not (x.is_contiguous() and delta.is_contiguous()):
        raise ValueError("x and delta must be contiguous, as both are written")


def check_no_overlap(x: Tensor, delta: Tensor) -> None:
    """Raise ValueError if two contiguous tensors of equal size share memory."""
    if abs(x.data_ptr() - delta.data_ptr()) < x.numel() * x.element_size():
        raise ValueError("the memory of delta overlaps that of x; use a tensor of its own")
