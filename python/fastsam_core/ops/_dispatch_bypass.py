"""Decide when an operation may bypass PyTorch's dispatcher and call its CUDA sibling directly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._native_cuda import cuda_module, why_not_on

# Private names of PyTorch. In a version that lacks one, every call goes through the dispatcher.
try:
    from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
    from torch._C._functorch import peek_interpreter_stack
    from torch.autograd import _profiler_enabled
except ImportError:  # pragma: no cover
    _HAS_PRIVATE_NAMES = False
else:
    _HAS_PRIVATE_NAMES = True

_PLAIN_TYPES = (Tensor, nn.Parameter)


def can_bypass_dispatcher(first: Tensor, *others: Tensor | None) -> bool:
    """Return whether the dispatcher would do nothing but call the CUDA sibling.

    If so, the caller should call the sibling directly: dispatching takes as long as the sibling's own code on the host.
    This needs CUDA kernels in use, only plain dense tensors (or parameters) on a GPU that runs the kernels, and nothing
    that intercepts operations (`is_unobserved`). Whether all tensors are on one GPU is left to the sibling's checks.
    """
    if cuda_module is None or not is_unobserved():
        return False
    for tensor in (first, *others):
        if tensor is not None and not (
            type(tensor) in _PLAIN_TYPES and tensor.is_cuda and tensor.layout is torch.strided
        ):
            return False
    return not why_not_on(first.device)


def is_unobserved() -> bool:
    """Return whether nothing observes operations: no gradients, compilation, tracing, transforms, modes or profiler."""
    return not (
        torch.compiler.is_compiling()
        or not _HAS_PRIVATE_NAMES
        or torch.is_grad_enabled()
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or peek_interpreter_stack() is not None
        or torch.jit.is_tracing()
        or _profiler_enabled()
    )
