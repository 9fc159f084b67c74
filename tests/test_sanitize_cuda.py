"""The calls that `make sanitize-cuda` runs under compute-sanitizer on a GPU, made here on the emulator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import cuda_emulation
from siblings import EMULATED, NAMES

NATIVE = Path(__file__).parent / "native"
if not NATIVE.is_dir():
    pytest.skip("the script belongs to the source tree", allow_module_level=True)
sys.path.insert(0, str(NATIVE))

import check_cuda  # noqa: E402
import sanitize_cuda  # noqa: E402

pytestmark = [
    pytest.mark.skipif(bool(cuda_emulation.why_not()), reason=cuda_emulation.why_not()),
    pytest.mark.skipif(NAMES == ["reference"], reason="the compiled operations are off"),
]


def test_calls_launch_every_kernel() -> None:
    module = cuda_emulation.load()
    module.launched_kernels()
    sanitize_cuda.make_calls("cpu", EMULATED, quick=True)
    # many_rows_kernel needs more rows than the emulator can process quickly; probe_kernel is never launched.
    shown = {name.split("<")[0] for name in module.launched_kernels()} | {"many_rows_kernel", "probe_kernel"}
    assert shown == check_cuda.find_source_kernels()


def test_unknown_tool_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown tool helgrind; choose from memcheck, racecheck"):
        sanitize_cuda.main(["memcheck", "helgrind"])
