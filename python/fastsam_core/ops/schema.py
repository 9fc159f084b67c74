"""Registration of every operation with the PyTorch dispatcher: its signature, its fake and its siblings.

Each operation family has a folder with the same files. `schema.py` holds the signatures and the fakes, which compute
the shape of the result without the values. `reference.py` holds the definition in plain PyTorch, the default on all
devices ("CompositeExplicitAutograd" in the dispatcher's terms). `cpu.py` and `cuda.py` call the compiled modules, and
`api.py` holds the public functions. Not every family has a `cuda.py`, and a `cuda.py` need not have every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ._native import cpu_module
from ._native_cuda import cuda_module, cuda_reason, log_pytorch_fallback, why_not_on

NAMESPACE = "fastsam_core"
FAMILIES = ("_attention", "_conv", "_decoder", "_linear", "_masks", "_nms", "_norm", "_preprocess", "_rle")
_FLOAT32 = (torch.float32,)
# Families whose C++ sibling is limited to these dtypes; other dtypes go to the reference. Empty: no C++ code at all.
NATIVE_DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "_attention": (torch.float32, torch.bfloat16),
    "_conv": _FLOAT32,
    "_decoder": _FLOAT32,
    "_linear": _FLOAT32,
    "_norm": (),
}

SCHEMAS: dict[str, str] = {}
FAMILY_OF: dict[str, str] = {}
# The module that holds each operation's sibling.
REFERENCES: dict[str, ModuleType] = {}
NATIVES: dict[str, ModuleType] = {}
CUDAS: dict[str, ModuleType] = {}  # only operations that have a CUDA sibling

# Must live as long as the process: the dispatcher drops the operations when this object is freed.
library = torch.library.Library(NAMESPACE, "DEF")


def require_one_device(name: str, sibling: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `sibling` to raise ValueError for sparse tensors and for tensors on several devices.

    The dispatcher lets both through.
    """

    def raise_mismatch(args: tuple[Any, ...]) -> None:
        parameters = (argument.name for argument in getattr(torch.ops.fastsam_core, name).default._schema.arguments)
        values: dict[str, Any] = {}
        for parameter, value in zip(parameters, args, strict=False):
            if isinstance(value, list):
                values.update({f"{parameter}[{i}]": part for i, part in enumerate(value)})
            else:
                values[parameter] = value
        tensors = {parameter: value for parameter, value in values.items() if isinstance(value, Tensor)}
        device = next(iter(tensors.values())).device
        for parameter, value in tensors.items():
            if value.layout is not torch.strided:
                raise ValueError(f"{name} takes dense tensors; {parameter} is {value.layout}")
            if value.device != device:
                raise ValueError(
                    f"{name} got {parameter} on '{value.device}' and others on '{device}'; move one of them"
                )

    @wraps(sibling)
    def call(*args: Any) -> Any:
        device = None
        for value in args:
            for tensor in value if isinstance(value, list) else (value,):
                if not isinstance(tensor, Tensor):
                    continue
                device = device or tensor.device
                if tensor.layout is not torch.strided or tensor.device != device:
                    raise_mismatch(args)
        return sibling(*args)

    return call


def why_not_cuda(op: str, tensor: Tensor) -> str:
    """Return why no CUDA kernel runs `op` on this tensor, which is on a GPU; "" if one does.

    A family whose CUDA sibling leaves some tensors to the reference reports them by `why_not(op, tensor)` in its
    cuda.py.
    """
    if cuda_reason:
        return f"CUDA kernels: {cuda_reason}"
    if op not in CUDAS:
        return f"{op} has no CUDA kernel"
    if reason := why_not_on(tensor.device):
        return f"CUDA kernels: {reason}"
    family_reason = getattr(CUDAS[op], "why_not", None)
    return family_reason(op, tensor) if family_reason else ""


def _with_fallback_log(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `reference` to log, once per reason, why it runs on GPU tensors."""

    @wraps(reference)
    def call(*args: Any) -> Any:
        on_gpu = next((value for value in args if isinstance(value, Tensor) and value.is_cuda), None)
        if on_gpu is not None:
            log_pytorch_fallback(why_not_cuda(name, on_gpu))
        return reference(*args)

    return call


def _with_device_fallback(cuda: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `cuda`, or `reference` for tensors on a GPU that can't run the kernels."""

    @wraps(cuda)
    def call(*args: Any) -> Any:
        first = next(value for value in args if isinstance(value, Tensor))
        return reference(*args) if why_not_on(first.device) else cuda(*args)

    return call


def _register(family: str) -> None:
    """Define the operations of a family with the dispatcher, and register their siblings and fakes."""
    schema_module, reference_impls, native_impls = (
        import_module(f".{family}.{file}", __package__) for file in ("schema", "reference", "cpu")
    )
    cuda_path = f".{family}.cuda"
    cuda_impls = import_module(cuda_path, __package__) if find_spec(cuda_path, __package__) else None
    for name, schema in schema_module.SCHEMAS.items():
        library.define(name + schema)
        reference_impl = require_one_device(name, _with_fallback_log(name, getattr(reference_impls, name)))
        library.impl(name, reference_impl, "CompositeExplicitAutograd")
        fake_impl = require_one_device(name, getattr(schema_module, name))
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake_impl, lib=library)
        if cpu_module is not None:
            library.impl(name, require_one_device(name, getattr(native_impls, name)), "CPU")
        if cuda_impls is not None and hasattr(cuda_impls, name):
            CUDAS[name] = cuda_impls
            if cuda_module is not None:
                library.impl(
                    name,
                    _with_device_fallback(require_one_device(name, getattr(cuda_impls, name)), reference_impl),
                    "CUDA",
                )
        SCHEMAS[name], FAMILY_OF[name] = schema, family
        REFERENCES[name], NATIVES[name] = reference_impls, native_impls


for _family in FAMILIES:
    _register(_family)
