"""When an operation may call its CUDA sibling itself, past PyTorch's dispatcher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._native_cuda import cuda_module, why_not_on

# PyTorch's own names, which a version may be without: every call goes through the dispatcher then.
try:
    from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
    from torch._C._functorch import peek_interpreter_stack
    from torch.autograd import _profiler_enabled
except ImportError:  # pragma: no cover
    _KNOWN = False
else:
    _KNOWN = True

_PLAIN = (Tensor, nn.Parameter)


def goes_directly(first: Tensor, *others: Tensor | None) -> bool:
    """Whether the dispatcher would do nothing but call the CUDA sibling, for which it takes as long as that itself.

    That is where kernels are in use, all tensors are plain dense ones on a GPU that runs them, and nothing wants to see
    the operation. The sibling's own checks are left, also that the tensors are all on one GPU.
    """
    if cuda_module is None or not unseen():
        return False
    for tensor in (first, *others):
        if tensor is not None and not (type(tensor) in _PLAIN and tensor.is_cuda and tensor.layout is torch.strided):
            return False
    return not why_not_on(first.device)


def unseen() -> bool:
    """Whether nobody wants gradients, compiles, traces, transforms, intercepts or profiles operations."""
    return not (
        torch.compiler.is_compiling()
        or not _KNOWN
        or torch.is_grad_enabled()
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or peek_interpreter_stack() is not None
        or torch.jit.is_tracing()
        or _profiler_enabled()
    )
