"""A cache for values that are derived from a module's weights, valid while the module stays unchanged."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..ops._native_cuda import stream_of

Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)


class _ModuleState(NamedTuple):
    """State of a module that cached values depend on.

    fingerprint: compared for equality; it includes ids of objects. referents: weak references to these objects, since
    another object may get the id of one that is gone. storages: references that keep the storages' ids from being
    reused.
    """

    fingerprint: list[Any]
    referents: list[weakref.ref[Any]]
    storages: list[StorageWeakRef]


# Device types on which `cached` caches with `if_versioned`. On the CPU recomputing is cheap, and it never misses
# weights that were changed through `.data`, which is common when models are averaged.
CACHED_DEVICES = ["cuda"]

# Settings of layers that native operations take for granted.
_CONV_SETTINGS = attrgetter("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
LAYER_SETTINGS: dict[type[nn.Module], Callable[[Any], Any]] = {
    nn.Conv2d: _CONV_SETTINGS,
    nn.ConvTranspose2d: _CONV_SETTINGS,
    nn.GELU: attrgetter("approximate"),
}
# Attributes whose change makes cached values stale, by type of layer.
_watched: dict[type[nn.Module], Callable[[Any], Any]] = {
    **LAYER_SETTINGS,
    nn.LayerNorm: attrgetter("eps"),
    nn.BatchNorm2d: attrgetter("eps"),
}

_cache: weakref.WeakKeyDictionary[nn.Module, tuple[_ModuleState, dict[Hashable, Any]]] = weakref.WeakKeyDictionary()
_immutable: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def cached(module: nn.Module, key: Hashable, make: Callable[[], Value], *, if_versioned: bool = False) -> Value:
    """Return `make()`, cached for as long as `module` lives and its weights, layers and hooks stay unchanged.

    So must the attributes that `watch_settings` was given, and the number of attributes of each layer, which grows when
    one of its methods is replaced. Changes in place are noticed if PyTorch counts them: not those through `.data` or
    NumPy, nor any of tensors that were made in inference mode. `make` must read nothing else that can change, and its
    result must not hold `module` itself.
    key: identifies the value. if_versioned: don't cache for modules with tensors made in inference mode, nor for
    modules on a device type outside of `CACHED_DEVICES`.
    """
    if if_versioned:
        first = next(module.parameters(), None)
        if first is not None and first.device.type not in CACHED_DEVICES:
            return make()
    values, versioned = _values(module)
    if if_versioned and not versioned:
        return make()
    if key in values:
        value: Value = values[key]
        return value
    value = make()
    if not is_capturing():
        first = next(module.parameters(), None)
        if first is not None:
            synchronize(first)
        # Never replace a value that another thread has stored: it would be freed while kernels on that thread's stream
        # still read it.
        value = values.setdefault(key, value)
    return value


def watch_settings(layer_type: type[nn.Module], *names: str) -> None:
    """Make `cached` notice changes of these attributes of layers of this type."""
    _watched[layer_type] = attrgetter(*names)


def last_cached(module: nn.Module, key: Hashable) -> Any:
    """Return what `cached` has stored under `key`, even if the module has changed since; None if there is nothing."""
    entry = _cache.get(module)
    return None if entry is None else entry[1].get(key)


def is_current(module: nn.Module, key: Hashable, value: object) -> bool:
    """Return whether `cached` would still return `value`, which must not be None.

    If the module has changed, what was cached for its previous state is dropped.
    """
    return _values(module)[0].get(key) is value


def evict_stale(module: nn.Module) -> None:
    """Drop at once, not at the next use, what was cached for previous states of the module and its parts."""
    for submodule in modules_of(module):
        if submodule in _cache:
            _values(submodule)


def _values(module: nn.Module) -> tuple[dict[Hashable, Any], bool]:
    """Return the values cached for the module's current state, by key, and whether PyTorch counts all its changes.

    Values for another state are dropped.
    """
    entry = _cache.get(module)
    if entry is not None and module in _immutable:
        return entry[1], True
    fingerprint, referents, versioned = _fingerprint(module)
    if entry is None or entry[0].fingerprint != fingerprint or [0 for ref in entry[0].referents if ref() is None]:
        storages = [StorageWeakRef(obj.untyped_storage()) for obj in referents if isinstance(obj, Tensor)]
        entry = _cache[module] = _ModuleState(fingerprint, [weakref.ref(obj) for obj in referents], storages), {}
    return entry[1], versioned


def synchronize(tensor: Tensor) -> None:
    """Wait for the GPU work on the tensor's current stream, if it is on a GPU.

    A cached value may be found by a thread on another stream, which doesn't wait for this one.
    """
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()


def is_capturing() -> bool:
    """Return whether a CUDA graph is being captured.

    Tensors that are made during a capture hold nothing before the graph has been replayed, so they must not be cached.
    """
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def stream_key(device: torch.device) -> Hashable:
    """Return the device and its current stream, as a part of a cache key.

    For values that are made too often to wait for the GPU (see `synchronize`): each stream then has its own.
    """
    return device, stream_of(device.index) if device.type == "cuda" else None


def mark_immutable(module: Module) -> Module:
    """Mark a module as never changing and return it; its state is no longer checked.

    For copies that nobody else can change.
    """
    _immutable.update(modules_of(module))
    return module


def is_immutable(module: nn.Module) -> bool:
    """Return whether the module or one that contains it was marked by `mark_immutable`."""
    return module in _immutable


def modules_of(module: nn.Module) -> list[nn.Module]:
    """Return the module and all submodules, each once. Faster than `modules()`, which also builds their names."""
    seen: dict[int, nn.Module] = {}
    stack: list[nn.Module | None] = [module]
    while stack:
        part = stack.pop()
        if part is not None and id(part) not in seen:
            seen[id(part)] = part
            if part._modules:
                stack += part._modules.values()
    return list(seen.values())


def version_of(tensor: Tensor) -> int:
    """Return how many changes in place PyTorch has counted for a tensor; -1 for inference tensors."""
    return -1 if tensor.is_inference() else tensor._version


class WeightSnapshot:
    """The tensors of some modules, and whether they have been changed in place since, as far as PyTorch counts that."""

    def __init__(self, *modules: nn.Module) -> None:
        tensors = (tensor for module in modules for tensor in tensors_of(modules_of(module)))
        self._tensors = [tensor for tensor in tensors if not tensor.is_inference()]
        self._total_version = self._sum_versions()

    def _sum_versions(self) -> int:
        return sum([tensor._version for tensor in self._tensors])  # hundreds of tensors, for each click

    def has_changed(self) -> bool:
        """Return whether any of the tensors was changed in place since this object was made."""
        return self._sum_versions() != self._total_version


def tensors_of(parts: list[nn.Module]) -> list[Tensor]:
    """Return the parameters and buffers of these modules, without those of their submodules."""
    groups = [group for part in parts for group in (part._parameters, part._buffers) if group]
    return [tensor for group in groups for tensor in group.values() if tensor is not None]


def _fingerprint(module: nn.Module) -> tuple[list[Any], list[Any], bool]:
    """Return the fingerprint, the objects whose ids are in it, and whether PyTorch counts all changes."""
    parts = modules_of(module)
    tensors = tensors_of(parts)
    # Flat lists of numbers are fast to build and compare: this runs for every image, over hundreds of tensors.
    fingerprint: list[Any] = [id(tensor) for tensor in tensors]
    fingerprint += [id(part) for part in parts]
    fingerprint += [tensor.data_ptr() for tensor in tensors]
    # Casts replace a tensor's storage without counting it, and the new storage may have the old address.
    fingerprint += [tensor.untyped_storage()._cdata for tensor in tensors]
    versioned = True
    try:
        fingerprint += [tensor._version for tensor in tensors]
    except RuntimeError:  # inference tensors have no version
        versioned = False
        fingerprint += [version_of(tensor) for tensor in tensors]
    fingerprint += [part.training for part in parts]
    fingerprint.append(sum([len(part.__dict__) for part in parts]))
    fingerprint += [_watched[type(part)](part) for part in parts if type(part) in _watched]
    hooked = [part for part in parts if part._forward_hooks or part._forward_pre_hooks]
    fingerprint += [(id(part), *part._forward_pre_hooks, *part._forward_hooks) for part in hooked]
    # An instance attribute `forward`, as wrappers set it.
    fingerprint += [(id(part), id(part.__dict__["forward"])) for part in parts if "forward" in part.__dict__]
    return fingerprint, tensors + parts, versioned
