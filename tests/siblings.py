"""Runs one test body on every implementation of an operation that this machine has.

`NAMES` and `each_sibling` are for operations without a CUDA form. A test file of a family that has one (a cuda.py in
its folder) writes instead

    NAMES = names_of("nms")
    each_sibling = each_sibling_of("nms")

and its bodies then also run as `cuda[emulated]`, the family's .cu file compiled for the CPU, and, where there is a GPU,
as `cuda[gpu]`, which copies tensors there and back. The emulator is some hundred times slower than a GPU: a body whose
sizes would take longer than a second or two gets them from `fewer(sibling, 5000, 300)`. `implementation(op, sibling)`
returns the reference for operations of the family that have no CUDA form, as the dispatcher does for a GPU tensor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_emulation
from fastsam_core import _rle_dicts, ops
from fastsam_core.ops import _native_cuda, schema
from fastsam_core.ops._native import cpu_module
from fastsam_core.ops._native_cuda import cuda_module, cuda_reason
from op_examples import written

EMULATED, ON_GPU = "cuda[emulated]", "cuda[gpu]"
# "reference", and "cpu[...]" for each instruction set where the native module is in use.
NAMES = [name for name in ops.siblings("nms") if not name.startswith("cuda")]

each_sibling = pytest.mark.parametrize("sibling", NAMES)


def why_no_gpu() -> str:
    """Return why tests of kernels on a GPU can't run here, or ""."""
    if not torch.cuda.is_available():
        return "no GPU, or a PyTorch without CUDA"
    return f"CUDA kernels: {cuda_reason}" if cuda_module is None else ""


class _Emulated:
    """The emulated module, built when one of its attributes is first read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest reads such names of whatever a test file imports; that must not skip the file
            raise AttributeError(name)
        if reason := cuda_emulation.why_not():
            pytest.skip(reason)
        return getattr(cuda_emulation.load(), name)


emulated = _Emulated()


@contextmanager
def threads_backwards() -> Iterator[None]:
    """Make the emulator run the threads of each block in reverse order: a kernel that lacks a barrier then differs."""
    emulated.set_order(reverse=True)
    try:
        yield
    finally:
        emulated.set_order(reverse=False)


def _carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a GPU `function` for CPU tensors: copy arguments to the GPU, and results and written arguments back."""
    outputs = written(function.__name__)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        there = [carry(arg, "cuda") for arg in args]
        result = function(*there, **{name: carry(value, "cuda") for name, value in kwargs.items()})
        for i in outputs:
            args[i].copy_(there[i])
        return carry(result, "cpu")

    return call


def carry(value: Any, device: str) -> Any:
    """Copy tensors, also those nested in tuples and lists, to `device`; those on neither a CPU nor a GPU stay as is."""
    if isinstance(value, (tuple, list)):
        return type(value)(carry(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) and value.device.type in ("cpu", "cuda") else value


class Calls:
    """A proxy for a module that records the names of attributes read."""

    def __init__(self, module: Any) -> None:
        self.module, self.names = module, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.module, name)


if cpu_module is not None:
    _native_cuda.sibling_wrappers[EMULATED] = lambda function: _native_cuda.bind_module(emulated, function)
if not why_no_gpu():
    _native_cuda.sibling_wrappers[ON_GPU] = _carried


def names_of(op: str) -> list[str]:
    """Return the siblings to test for `op` and its family."""
    has_cuda = any(schema.FAMILY_OF[other] == schema.FAMILY_OF[op] for other in schema.CUDAS)
    return [*NAMES, *(name for name in (EMULATED, ON_GPU) if has_cuda and name in _native_cuda.sibling_wrappers)]


def each_sibling_of(op: str) -> pytest.MarkDecorator:
    """Return the parametrisation of a test over the siblings of `op`'s family."""
    return pytest.mark.parametrize("sibling", names_of(op))


def fewer(sibling: str, usual: Any, few: Any) -> Any:
    """Return `few` if the sibling runs on the emulator, else `usual`."""
    return few if sibling == EMULATED else usual


def implementation(op: str, name: str) -> Callable[..., Any]:
    """Return the sibling `name` of `op`, or the reference if that is a CUDA form that `op` doesn't have."""
    found = ops.siblings(op)
    return found[name if name in found or not name.startswith("cuda") else "reference"]


def use_sibling(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make `fastsam_core.ops`, and thereby `fastsam_core.rle`, call the implementation `name` of every operation."""
    for op in schema.SCHEMAS:
        monkeypatch.setattr(ops, op, implementation(op, name))
    # Functions on RLE dicts that call the compiled module directly, not through an operation.
    isa = name.removeprefix("cpu[").removesuffix("]") if name.startswith("cpu[") else None
    monkeypatch.setattr(_rle_dicts, "native", isa and ForcedIsa(isa))


class ForcedIsa:
    """A proxy for the compiled module whose functions use the instruction set `isa`."""

    def __init__(self, isa: str) -> None:
        self.isa = isa

    def __getattr__(self, function: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with ops.use_isa(self.isa):
                return getattr(cpu_module, function)(*args)

        return call


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with these environment variables added to those of this process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
