"""Runs one test body on every implementation of an operation that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastsam_core import _rle_dicts, ops
from fastsam_core.ops import schema
from fastsam_core.ops._native import cpu_module

# "reference", and "cpu[...]" for each instruction set where the native module is in use.
NAMES = list(ops.siblings("nms"))

each_sibling = pytest.mark.parametrize("sibling", NAMES)


def use_sibling(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let `fastsam_core.ops`, and with it `fastsam_core.rle`, call the implementation `name` for every operation."""
    for op in schema.SCHEMAS:
        monkeypatch.setattr(ops, op, ops.siblings(op)[name])
    # What reads dicts without an operation goes along.
    native = None if name == "reference" else ForcedIsa(name.removeprefix("cpu[").removesuffix("]"))
    monkeypatch.setattr(_rle_dicts, "native", native)


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
