"""Runs one test body on every implementation of an operation that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastsam_core import ops
from fastsam_core.ops import schema

# "reference", and "cpu[...]" for each instruction set where the native module is in use.
NAMES = list(ops.siblings("nms"))

each_sibling = pytest.mark.parametrize("sibling", NAMES)


def use_sibling(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let `fastsam_core.ops`, and with it `fastsam_core.rle`, call the implementation `name` for every operation."""
    for op in schema.SCHEMAS:
        monkeypatch.setattr(ops, op, ops.siblings(op)[name])


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with these environment variables on top of this one's."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
