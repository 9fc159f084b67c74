"""A module's weights in another floating-point type, beside those that it came with."""

from __future__ import annotations

import copy
import weakref
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from .._log import warn_once
from .native import parts_of

# By module: what its weights were when they were cast, and the copies by their type.
_casts: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[torch.dtype, nn.Module]]] = weakref.WeakKeyDictionary()


def usable_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """What to compute in where `dtype` is asked for: float32 where narrower types save nothing, which is said once."""
    if dtype in (None, torch.float32) or device.type == "cuda":
        return dtype
    warn_once(f"half precision is for CUDA devices; on {device.type} everything runs in float32")
    return torch.float32


def dtype_of(module: nn.Module) -> torch.dtype:
    """The floating-point type of a module's weights, as the first of them has it."""
    return next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)


def in_dtype(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """`module` to compute in `dtype`: itself where that is what its weights are in (or None), else a copy.

    The copy is for inference. It is kept for as long as `module` lives and stays as it is (weights, layers, hooks), and
    shares with it whatever needs no cast. Batch normalisation keeps its weights, whose variances narrow types can't all
    hold.
    """
    if dtype is None or dtype_of(module) == dtype:
        return module
    state = _state(module)
    known = _casts.get(module)
    if known is None or known[0] != state:
        known = _casts[module] = state, {}
    if dtype not in known[1]:
        known[1][dtype] = _cast(module, dtype)
    return known[1][dtype]


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    # Tensors that the copying finds here already are taken as they are.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            continue
        for value in part._parameters.values():
            if value is not None and value.is_floating_point():
                memo[id(value)] = nn.Parameter(value.detach().to(dtype), requires_grad=False)
        for buffer in part._buffers.values():
            if buffer is not None and buffer.is_floating_point():
                memo[id(buffer)] = buffer.detach().to(dtype)
    return copy.deepcopy(module, memo)


def _state(module: nn.Module) -> Any:
    """What a copy of the module depends on, to be compared."""
    parts = parts_of(module)
    tensors = [
        value
        for part in parts
        for kept in (part._parameters, part._buffers)
        if kept
        for value in kept.values()
        if value is not None
    ]
    # Asked for at each call: that is why there is a list of each rather than one of tuples.
    return (
        [*map(id, tensors)],
        [*map(Tensor.data_ptr, tensors)],
        _edits(tensors),
        [*map(id, parts)],
        [part.training for part in parts],
        [
            (id(part), *part._forward_pre_hooks, *part._forward_hooks)
            for part in parts
            if part._forward_pre_hooks or part._forward_hooks
        ],
    )


def _edits(tensors: list[Tensor]) -> list[int]:
    try:
        return [*map(attrgetter("_version"), tensors)]
    except RuntimeError:  # inference tensors have none
        return [*map(edits, tensors)]


def edits(tensor: Tensor) -> int:
    """How often a tensor was changed in place, as far as PyTorch counts that."""
    return -1 if tensor.is_inference() else tensor._version
