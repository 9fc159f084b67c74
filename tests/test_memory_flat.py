"""Tests that a thousand calls of a native operation don't enlarge the process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from fastsam_core import ops
from op_examples import COVERED, EXAMPLES

STATUS = Path("/proc/self/status")
WARM_UP, CALLS = 60, 1000
# The allocator's fluctuations are below 2 MB; a leak of 16 KB per call makes 16 MB.
BOUND_KB = 8 * 1024

needs_native = pytest.mark.skipif(not ops.available_isas(), reason="no native operations")
needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="this system does not say how large a process is")


def resident_kb() -> int:
    gc.collect()
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))


@needs_native
@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("op", COVERED)
def test_resident_memory_does_not_grow(op: str) -> None:
    arguments = EXAMPLES[op]()
    run = ops.siblings(op)[f"cpu[{ops.isa()}]"]
    torch.set_num_threads(2)
    for _ in range(WARM_UP):
        run(*arguments)
    at_first = resident_kb()
    for _ in range(CALLS):
        run(*arguments)
    grown = resident_kb() - at_first
    assert grown < BOUND_KB, f"{CALLS} calls of {op} took {grown} KB"
