"""Conditions under which a model may use the native operations instead of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from .._log import warn_once
from ..ops._native import cpu_module
from ..ops._native_cuda import DTYPES, cuda_module, why_not_on
from .module_cache import LAYER_SETTINGS, cached, is_immutable, modules_of

# Attribute in which a network stores the types and settings of its layers.
_LAYER_TYPES = "_layer_types"
# Methods that faster code bypasses, by class and name, and those called `forward`, as they were at import.
_methods: dict[tuple[type, str], Any] = {}
_forwards: dict[type[nn.Module], Any] = {}


def can_use_native(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Return whether the native CPU operations can take these tensors.

    They must be on the CPU in `dtype`, no gradients may be wanted, and the compiled module must be in use. False under
    autocast, which would ask for another dtype, and while a graph is traced or compiled, so that exported graphs
    contain only PyTorch's operations. Models keep a PyTorch form beside each native call for these cases.
    """
    return (
        cpu_module is not None
        and is_eager_inference()
        and all(tensor.is_cpu and tensor.dtype == dtype for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


def _is_exporting() -> bool:
    """Return whether a graph is being traced for export.

    In PyTorch versions that can't tell export from compilation, compilation counts too. The flag is read directly
    instead of through `torch.compiler.is_exporting`, because before PyTorch 2.13 `torch.compile` traces that function
    as constant True.
    """
    exporting = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_compiling() if exporting is None else bool(exporting)


def is_eager_inference() -> bool:
    """Return whether no gradients are wanted and no graph is traced or compiled.

    Results may then overwrite their inputs.
    """
    return not (torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling())


def is_exporting() -> bool:
    """Return whether a graph is being traced for export; it must contain the layers as they are written."""
    return torch.jit.is_tracing() or _is_exporting()


def can_use_cuda_kernels(*tensors: Tensor) -> bool:
    """Return whether the CUDA kernels can take these tensors.

    They must be in half or single precision on a GPU that the kernels run on, and no gradients may be wanted. True also
    under autocast, since the operations convert their other tensors to the dtype of the first, and in graphs traced by
    `torch.compile`, but not in exported graphs.
    """
    return (
        cuda_module is not None
        and not torch.is_grad_enabled()
        and all(tensor.is_cuda and tensor.dtype in DTYPES for tensor in tensors)
        and not is_exporting()
        # The operations check the device themselves; compilers can't trace this look-up.
        and (torch.compiler.is_compiling() or not why_not_on(tensors[0].device))
    )


def is_unmodified(module: nn.Module) -> bool:
    """Return whether a module has its original layers and no hooks, so that its weights fully describe it.

    Native operations read the weights and so would bypass replaced layers (adapters such as LoRA, quantised or
    parametrized layers, another activation, a convolution with another stride or with a bias it didn't have), hooks,
    and a `forward` set on a layer or on its class. If there are any, it is logged once that PyTorch runs the module.
    """
    unmodified = is_plain(module)
    if not unmodified:
        warn_once(
            f"{type(module).__name__} has hooks or other layers than usual: PyTorch runs it, not the native "
            "operations. Merge adapters such as LoRA into the weights for full speed"
        )
    return unmodified


def is_plain(module: nn.Module, layer_types: frozenset[type] | None = None) -> bool:
    """Return the same as `is_unmodified` without logging.

    layer_types: if given, the module may consist of any layers of these types instead of its original ones.
    """
    if _has_global_hooks():
        return False
    if uses_patched_classes(module):
        return False
    if torch.compiler.is_compiling() or not is_immutable(module):
        return _has_expected_layers(module, layer_types)
    return cached(module, ("plain", layer_types), lambda: _has_expected_layers(module, layer_types))


def has_hooks(*modules: nn.Module) -> bool:
    """Return whether a layer of the modules has forward hooks or a `forward` of its own."""
    return _has_global_hooks() or any(_is_observed(part) for module in modules for part in modules_of(module))


def _has_global_hooks() -> bool:
    return bool(nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)


def _is_observed(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__)


def watch_methods(*types: type, names: Sequence[str] = ("forward",)) -> None:
    """Remember methods, to notice when others take their place, e.g. by `Attention.forward = ...`.

    Call where the classes are defined.
    """
    _methods.update({(owner, name): getattr(owner, name) for owner in types for name in names})
    _forwards.update({owner: owner.forward for owner in types if issubclass(owner, nn.Module)})


def has_original_methods(instance: object, owner: type, *names: str) -> bool:
    """Return whether these methods of an instance of `owner` are those that `watch_methods` was given.

    They aren't if a subclass overrides them, or if they were replaced in the instance or the class.
    """
    own = getattr(instance, "__dict__", ())
    return not any(name in own for name in names) and inherits_methods(type(instance), owner, *names)


def inherits_methods(subclass: type, owner: type, *names: str) -> bool:
    """Return whether these methods of a class are those of `owner` that `watch_methods` was given."""
    return all(getattr(subclass, name, None) is _methods[owner, name] for name in names)


def uses_patched_classes(module: nn.Module) -> bool:
    """Return whether a layer's class has got another `forward` since `watch_methods` was called for it."""
    patched = [layer_type for layer_type, forward in _forwards.items() if layer_type.forward is not forward]
    return bool(patched) and any(type(part) in patched for part in modules_of(module))


def has_original_forward(module: nn.Module, layer_type: type[nn.Module]) -> bool:
    """Return whether calling a module runs the `forward` of `layer_type`, given to `watch_methods`, and no hooks."""
    return not _is_observed(module) and has_original_methods(module, layer_type, "forward")


def _has_expected_layers(module: nn.Module, layer_types: frozenset[type] | None) -> bool:
    """Return whether the module has its original layers, or only layers of these types, and no hooks."""
    parts = modules_of(module)
    if layer_types is None and list(map(_type_and_settings, parts)) != vars(module).get(_LAYER_TYPES):
        return False
    for part in parts:
        if layer_types is not None and type(part) not in layer_types:
            return False
        if _is_observed(part):
            return False
    return True


def _type_and_settings(layer: nn.Module) -> tuple[Any, ...]:
    """Return a layer's type, what native operations take for granted of it, and which parameters it lacks."""
    settings = LAYER_SETTINGS.get(type(layer))
    lacking = [name for name, parameter in layer._parameters.items() if parameter is None]
    return type(layer), None if settings is None else settings(layer), lacking


def record_layer_types(module: nn.Module, layer_types: frozenset[type] | None = None) -> None:
    """Record the types and settings of a network's layers for `is_unmodified`. Call at the end of its `__init__`.

    layer_types: if given, a network with layers of other types, or with layers that lack a parameter, counts as
    modified from the start.
    """
    parts = modules_of(module)
    if layer_types is None or all(
        type(part) in layer_types and all(value is not None for value in part._parameters.values()) for part in parts
    ):
        vars(module)[_LAYER_TYPES] = list(map(_type_and_settings, parts))


watch_methods(nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding, nn.BatchNorm2d, nn.LayerNorm)
watch_methods(nn.GELU, nn.ReLU, nn.Sequential)
