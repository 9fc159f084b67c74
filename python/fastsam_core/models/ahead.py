"""A copy of a model's part in another type, put to work before it's known whether its original is still as it was.

To look through hundreds of tensors and layers takes a part of a millisecond, which a GPU would spend waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from ..ops._direct import unseen
from .kept import capturing, finish, last_kept, still_kept
from .precision import INDEPENDENT, dtype_of, in_dtype


def run_in_dtype(
    module: nn.Module, dtype: torch.dtype | None, given: Tensor, run: Callable[[nn.Module], Tensor]
) -> Tensor:
    """`run(in_dtype(module, dtype))`, where `run` does nothing but compute something of `given` and a module.

    On a GPU it may run the copy from before at once, and then look whether `module` has changed. Where it has, what
    came of it is thrown away. That is for copies that do nothing but compute, and where nobody sees the difference.
    """
    copy = _last_copy(module, dtype) if _unobserved(given) else None
    if copy is not None:
        with suppress(Exception):  # which comes again below, if it isn't of a copy that is out of date
            result = run(copy)
            if still_kept(module, dtype, copy):
                return result
            del result
        finish(given)  # before the memory of the copy is somebody else's
        del copy
    return run(in_dtype(module, dtype))


def _last_copy(module: nn.Module, dtype: torch.dtype | None) -> nn.Module | None:
    if dtype is None or dtype_of(module) == dtype:
        return None
    copy: nn.Module | None = last_kept(module, dtype)
    return copy if copy is not None and last_kept(copy, INDEPENDENT) else None


def _unobserved(given: Tensor) -> bool:
    """Whether nothing but time is spent by launching work in vain."""
    return (
        type(given) is Tensor
        and _on_gpu(given)
        and unseen()
        and not (nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
        and not capturing()
    )


def _on_gpu(given: Tensor) -> bool:
    return given.is_cuda
