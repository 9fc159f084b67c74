"""Runs one test body on every implementation of an operation that this machine has.

`NAMES` and `each_sibling` are for operations without a CUDA form. A test file of a family that has one (a cuda.py in
its folder) writes instead

    NAMES = names_of("nms")
    each_sibling = each_sibling_of("nms")

and its bodies then run on `cuda[emulated]` too: the family's .cu file, compiled for the CPU. That is some hundred times
slower than a GPU, so that a body whose sizes would take it longer than a second or two asks `fewer(sibling, 5000, 300)`
for them. `implementation(op, sibling)` gives the reference for those of the family's operations that have no CUDA form,
as the dispatcher does for a GPU tensor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import cuda_emulation
from fastsam_core import _rle_dicts, ops
from fastsam_core.ops import _native_cuda, schema
from fastsam_core.ops._native import cpu_module

EMULATED = "cuda[emulated]"
# "reference", and "cpu[...]" for each instruction set where the native module is in use.
NAMES = [name for name in ops.siblings("nms") if not name.startswith("cuda")]

each_sibling = pytest.mark.parametrize("sibling", NAMES)


class _Emulated:
    """The emulated module, built when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if reason := cuda_emulation.why_not():
            pytest.skip(reason)
        return getattr(cuda_emulation.load(), name)


if cpu_module is not None:
    _native_cuda.modules[EMULATED] = _Emulated()


def names_of(op: str) -> list[str]:
    """The siblings to test for `op` and its family; without native operations, none of the compiled ones."""
    has_cuda = any(schema.FAMILY_OF[other] == schema.FAMILY_OF[op] for other in schema.CUDAS)
    return [*NAMES, EMULATED] if has_cuda and cpu_module is not None else list(NAMES)


def each_sibling_of(op: str) -> pytest.MarkDecorator:
    """`each_sibling` for operations of `op`'s family."""
    return pytest.mark.parametrize("sibling", names_of(op))


def fewer(sibling: str, usual: Any, emulated: Any) -> Any:
    """What to test with: `emulated` where the sibling runs on the emulator, else `usual`."""
    return emulated if sibling == EMULATED else usual


def implementation(op: str, name: str) -> Callable[..., Any]:
    """The sibling `name` of `op`; the reference where `op` has no CUDA form."""
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
