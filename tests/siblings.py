"""Runs one test body on every implementation of an operation that this machine has.

`NAMES` and `each_sibling` are for operations without a CUDA form. A test file of a family that has one (a cuda.py in
its folder) writes instead

    NAMES = names_of("nms")
    each_sibling = each_sibling_of("nms")

and its bodies then run on `cuda[emulated]` too: the family's .cu file, compiled for the CPU; and, where there is a GPU
on `cuda[gpu]`, which carries tensors there and back. The emulator is some hundred
times slower than a GPU: a body whose sizes would take it longer than a second or two asks `fewer(sibling, 5000, 300)`
for them. `implementation(op, sibling)` gives the reference for those of the family's operations that have no CUDA form,
as the dispatcher does for a GPU tensor.
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
    """Why the tests of kernels on a GPU can't run here, or ""."""
    if not torch.cuda.is_available():
        return "no GPU, or a PyTorch without CUDA"
    return f"CUDA kernels: {cuda_reason}" if cuda_module is None else ""


class _Emulated:
    """The emulated module, built when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # as pytest asks of what a test file imports: it must not leave out the file
            raise AttributeError(name)
        if reason := cuda_emulation.why_not():
            pytest.skip(reason)
        return getattr(cuda_emulation.load(), name)


emulated = _Emulated()


@contextmanager
def threads_backwards() -> Iterator[None]:
    """The emulator lets a block's threads go the other way round: without its barriers, a kernel's results differ."""
    emulated.set_order(backward=True)
    try:
        yield
    finally:
        emulated.set_order(backward=False)


def _carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` for CPU tensors: they go to the GPU, and what it gives or writes comes back."""
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
    """The value with its tensors, also in tuples and lists, on the device; what is on no CPU or GPU stays there."""
    if isinstance(value, (tuple, list)):
        return type(value)(carry(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) and value.device.type in ("cpu", "cuda") else value


class Calls:
    """A module that keeps the names of what is called in it."""

    def __init__(self, module: Any) -> None:
        self.module, self.names = module, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.module, name)


if cpu_module is not None:
    _native_cuda.forms[EMULATED] = lambda function: _native_cuda.bound_to(emulated, function)
if not why_no_gpu():
    _native_cuda.forms[ON_GPU] = _carried


def names_of(op: str) -> list[str]:
    """The siblings to test for `op` and its family."""
    has_cuda = any(schema.FAMILY_OF[other] == schema.FAMILY_OF[op] for other in schema.CUDAS)
    return [*NAMES, *(name for name in (EMULATED, ON_GPU) if has_cuda and name in _native_cuda.forms)]


def each_sibling_of(op: str) -> pytest.MarkDecorator:
    """`each_sibling` for operations of `op`'s family."""
    return pytest.mark.parametrize("sibling", names_of(op))


def fewer(sibling: str, usual: Any, few: Any) -> Any:
    """What to test with: `few` where the sibling runs on the emulator, else `usual`."""
    return few if sibling == EMULATED else usual


def implementation(op: str, name: str) -> Callable[..., Any]:
    """The sibling `name` of `op`; the reference where it is a CUDA form that `op` doesn't have."""
    found = ops.siblings(op)
    return found[name if name in found or not name.startswith("cuda") else "reference"]


def use_sibling(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let `fastsam_core.ops`, and with it `fastsam_core.rle`, call the implementation `name` for every operation."""
    for op in schema.SCHEMAS:
        monkeypatch.setattr(ops, op, implementation(op, name))
    # What reads dicts without an operation goes along.
    isa = name.removeprefix("cpu[").removesuffix("]") if name.startswith("cpu[") else None
    monkeypatch.setattr(_rle_dicts, "native", isa and ForcedIsa(isa))


class ForcedIsa:
    """The compiled module, each function of which uses the instruction set `isa`."""

    def __init__(self, isa: str) -> None:
        self.isa = isa

    def __getattr__(self, function: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with ops.use_isa(self.isa):
                return getattr(cpu_module, function)(*args)

        return call


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with these environment variables on top of this one's."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
