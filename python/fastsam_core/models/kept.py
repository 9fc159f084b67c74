"""What is made of a module's weights alone, beside the module for as long as these stay as they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..ops._native_cuda import stream_of

Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)


class _State(NamedTuple):
    """What values depend on, to be compared, and the objects and storages whose ids are among the numbers.

    Another object may have the id of one that is gone; a storage's is not given away while it is known here.
    """

    numbers: list[Any]
    objects: list[weakref.ref[Any]]
    storages: list[StorageWeakRef]


# Where `if_counted` keeps anything. On the CPU making it anew costs little, and weights that somebody has changed
# through `.data`, as many do who average models, are never missed.
KEPT_ON = ["cuda"]

_known: weakref.WeakKeyDictionary[nn.Module, tuple[_State, dict[Hashable, Any]]] = weakref.WeakKeyDictionary()
_settled: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def kept(module: nn.Module, key: Hashable, make: Callable[[], Value], *, if_counted: bool = False) -> Value:
    """What `make` gives, made once for as long as `module` lives and stays as it is: weights, layers, hooks.

    Changes in place are noticed as far as PyTorch counts them: not those through `.data` or NumPy, nor any of
    tensors made in inference mode. if_counted: nothing is kept of a module with such tensors, nor of one that is not
    on a device of `KEPT_ON`. key: says what it is. `make` must read nothing else that can change, and the result must
    not hold `module` itself.
    """
    if if_counted:
        first = next(module.parameters(), None)
        if first is not None and first.device.type not in KEPT_ON:
            return make()
    values, counted = _values(module)
    if if_counted and not counted:
        return make()
    if key in values:
        value: Value = values[key]
        return value
    value = make()
    if not capturing():
        first = next(module.parameters(), None)
        if first is not None:
            finish(first)
        # Not in the place of another thread's, which would be let go while kernels on its stream still read it.
        value = values.setdefault(key, value)
    return value


def last_kept(module: nn.Module, key: Hashable) -> Any:
    """What `kept` has under `key`, whether or not the module has changed since; None where it has nothing."""
    known = _known.get(module)
    return None if known is None else known[1].get(key)


def still_kept(module: nn.Module, key: Hashable, value: object) -> bool:
    """Whether `kept` would give this, which isn't None. What is kept of the module as it was before is let go."""
    return _values(module)[0].get(key) is value


def let_go(module: nn.Module) -> None:
    """What is kept of the module and of its parts as they were before is let go now, and not at their next use."""
    for part in parts_of(module):
        if part in _known:
            _values(part)


def _values(module: nn.Module) -> tuple[dict[Hashable, Any], bool]:
    """What is kept of the module as it is now, by key, and whether all changes in place would be noticed."""
    known = _known.get(module)
    if known is not None and module in _settled:
        return known[1], True
    numbers, objects, counted = _numbers(module)
    if known is None or known[0].numbers != numbers or [0 for one in known[0].objects if one() is None]:
        storages = [StorageWeakRef(one.untyped_storage()) for one in objects if isinstance(one, Tensor)]
        known = _known[module] = _State(numbers, [weakref.ref(one) for one in objects], storages), {}
    return known[1], counted


def finish(tensor: Tensor) -> None:
    """Waits for what is being made where the tensor is: who finds it may be on another stream, which wouldn't wait."""
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()


def capturing() -> bool:
    """Whether a CUDA graph is being captured. What is made then holds nothing before the graph has been replayed."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def place_of(device: torch.device) -> Hashable:
    """The device, and its current stream: in the key of what is made too often to wait for it."""
    return device, stream_of(device.index) if device.type == "cuda" else None


def settle(module: Module) -> Module:
    """The module, of which nobody needs to ask any more whether it has changed: a copy that nobody else has."""
    _settled.update(parts_of(module))
    return module


def is_settled(module: nn.Module) -> bool:
    """Whether it is such a copy, or a part of one."""
    return module in _settled


def parts_of(module: nn.Module) -> list[nn.Module]:
    """The module and all below it, each once: as `modules()`, which takes longer to name them."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [module]
    while waiting:
        part = waiting.pop()
        if part is not None and id(part) not in found:
            found[id(part)] = part
            if part._modules:
                waiting += part._modules.values()
    return list(found.values())


def edits(tensor: Tensor) -> int:
    """How often a tensor was changed in place, as far as PyTorch counts that."""
    return -1 if tensor.is_inference() else tensor._version


class Weights:
    """The tensors of modules, and whether they have changed in place since, as far as PyTorch counts that."""

    def __init__(self, *modules: nn.Module) -> None:
        found = (tensor for module in modules for tensor in tensors_of(parts_of(module)))
        self._tensors = [tensor for tensor in found if not tensor.is_inference()]
        self._edits = self._count()

    def _count(self) -> int:
        return sum([tensor._version for tensor in self._tensors])  # some hundred, for each click

    def have_changed(self) -> bool:
        return self._count() != self._edits


def tensors_of(parts: list[nn.Module]) -> list[Tensor]:
    groups = [group for part in parts for group in (part._parameters, part._buffers) if group]
    return [tensor for group in groups for tensor in group.values() if tensor is not None]


def _numbers(module: nn.Module) -> tuple[list[Any], list[Any], bool]:
    """What to compare, the objects whose ids are in it, and whether all changes in place are counted in it."""
    parts = parts_of(module)
    tensors = tensors_of(parts)
    # Flat lists of numbers: this runs for every picture, over hundreds of tensors.
    numbers: list[Any] = [id(one) for one in tensors]
    numbers += [id(part) for part in parts]
    numbers += [tensor.data_ptr() for tensor in tensors]
    # Casts swap a tensor's storage, uncounted; the new one may lie where the old one was.
    numbers += [tensor.untyped_storage()._cdata for tensor in tensors]
    counted = True
    try:
        numbers += [tensor._version for tensor in tensors]
    except RuntimeError:  # tensors made in inference mode
        counted = False
        numbers += [edits(tensor) for tensor in tensors]
    numbers += [part.training for part in parts]
    hooked = [part for part in parts if part._forward_hooks or part._forward_pre_hooks]
    numbers += [(id(part), *part._forward_pre_hooks, *part._forward_hooks) for part in hooked]
    # A `forward` of one layer's own, which wrappers put there.
    numbers += [(id(part), id(part.__dict__["forward"])) for part in parts if "forward" in part.__dict__]
    return numbers, tensors + parts, counted
