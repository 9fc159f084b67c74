"""Run the cached low-precision copy of a module before checking whether the original has changed since.

Checking hundreds of tensors and layers takes a good part of a millisecond, during which the GPU would be idle.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from ..ops._dispatch_bypass import is_unobserved
from .module_cache import is_capturing, is_current, last_cached, synchronize
from .precision import INDEPENDENT, dtype_of, in_dtype


def run_in_dtype(
    module: nn.Module, dtype: torch.dtype | None, inputs: Tensor, run: Callable[[nn.Module], Tensor]
) -> Tensor:
    """Return `run(in_dtype(module, dtype))`, where `run` only computes something from `inputs` and the module.

    On a GPU the cached copy may run at once, and `module` is checked for changes afterwards. If it has changed, the
    result is discarded and `run` is called again on a new copy. This is done only for copies that are independent of
    the original and only compute, and where the discarded run has no visible effect.
    """
    copy = _last_copy(module, dtype) if _can_discard_run(inputs) else None
    if copy is not None:
        with suppress(Exception):  # raised again below, unless a stale copy caused it
            result = run(copy)
            if is_current(module, dtype, copy):
                return result
            del result
        synchronize(inputs)  # the copy's memory may be reused once it is dropped
        del copy
    return run(in_dtype(module, dtype))


def _last_copy(module: nn.Module, dtype: torch.dtype | None) -> nn.Module | None:
    """Return the most recent independent copy of `module` in `dtype`, which may be stale, or None."""
    if dtype is None or dtype_of(module) == dtype:
        return None
    copy: nn.Module | None = last_cached(module, dtype)
    return copy if copy is not None and last_cached(copy, INDEPENDENT) else None


def _can_discard_run(tensor: Tensor) -> bool:
    """Return whether launching work in vain would go unnoticed by hooks, modes, profilers and captures."""
    return (
        type(tensor) is Tensor
        and _on_gpu(tensor)
        and is_unobserved()
        and not (nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
        and not is_capturing()
    )


def _on_gpu(tensor: Tensor) -> bool:
    """Return whether a tensor is on a GPU. A function of its own, so that tests can replace it."""
    return tensor.is_cuda
