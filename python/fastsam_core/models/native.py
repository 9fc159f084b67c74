"""When a model may leave a step to the native operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from .._log import warn_once
from ..ops._native import cpu_module
from ..ops._native_cuda import DTYPES, cuda_module, why_not_on
from .kept import is_settled, kept, parts_of

# Where a network has the kinds of its layers.
_KINDS = "_kinds"


def serves(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the native operations can take these: CPU, `dtype`, no gradients wanted, the compiled module in use.

    Not under autocast, which asks for another dtype, nor while a graph is traced or compiled: exported graphs hold
    PyTorch's own operations. Models keep their PyTorch form beside each call of a native operation for all these.
    """
    return (
        cpu_module is not None
        and infers()
        and all(tensor.is_cpu and tensor.dtype == dtype for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


def _is_exporting() -> bool:
    """Whether a graph is traced to be exported. Where PyTorch doesn't know it from one to be run, that counts too.

    `torch.compiler.is_exporting` is there to read the flag, but what `torch.compile` traces before PyTorch 2.13 takes
    its answer for a constant, true.
    """
    exporting = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_compiling() if exporting is None else bool(exporting)


def infers() -> bool:
    """Whether nobody wants gradients and no graph is traced or compiled: results may go where their inputs were."""
    return not (torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling())


def is_exporting() -> bool:
    """Whether a graph is traced to be exported, which holds the layers as they were written."""
    return torch.jit.is_tracing() or _is_exporting()


def serves_on_gpu(*tensors: Tensor) -> bool:
    """Whether kernels can take these: on a GPU that runs them, of half or single precision, no gradients wanted.

    Also under autocast, since operations convert their other tensors to the dtype of the first, and in what
    `torch.compile` traces, but not in exported graphs.
    """
    return (
        cuda_module is not None
        and not torch.is_grad_enabled()
        and all(tensor.is_cuda and tensor.dtype in DTYPES for tensor in tensors)
        and not is_exporting()
        # The operations themselves see to that, too; compilers can't look it up.
        and (torch.compiler.is_compiling() or not why_not_on(tensors[0].device))
    )


def unaltered(module: nn.Module) -> bool:
    """Whether a module consists of the layers that it was made with, without hooks, so that their weights say it all.

    Other layers in their places (adapters such as LoRA, quantised or parametrized ones, and PyTorch's too, such as
    another activation), hooks, and a `forward` of one layer's own do their work when they are called, which the native
    operations, reading the weights, would pass over. That PyTorch serves then is said once.
    """
    plain = is_plain(module)
    if not plain:
        warn_once(f"{type(module).__name__} has hooks or layers of others: PyTorch serves, not the native operations")
    return plain


def is_plain(module: nn.Module, kinds: frozenset[type] | None = None) -> bool:
    """`unaltered`, without a word; where `kinds` are given, whether the module consists of no others, either."""
    if nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks:
        return False
    if torch.compiler.is_compiling() or not is_settled(module):
        return _consists(module, kinds)
    return kept(module, ("plain", kinds), lambda: _consists(module, kinds))


def _consists(module: nn.Module, kinds: frozenset[type] | None) -> bool:
    """Whether the module consists of the layers that it was made with, or of these kinds, and none has hooks."""
    parts = parts_of(module)
    if kinds is None and list(map(type, parts)) != vars(module).get(_KINDS):
        return False
    for part in parts:
        if kinds is not None and type(part) not in kinds:
            return False
        if part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__:
            return False
    return True


def remember_layers(module: nn.Module) -> None:
    """To be called at the end of a network's `__init__`: what `unaltered` compares its layers with."""
    vars(module)[_KINDS] = list(map(type, parts_of(module)))
