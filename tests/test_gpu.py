"""Tests of the CUDA kernels on a GPU: `pytest -m gpu`, which also runs the tests of `siblings.ON_GPU`.

They cover what the emulator can't show: equal bits from 20 calls, PyTorch's current stream and device, several
streams at once, memory, and whether a GPU behaves as the emulator assumes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cuda_emulation
from fastsam_core import ops
from fastsam_core.ops import schema
from op_examples import COVERED, EXAMPLES, flat_bytes, written
from siblings import carry

NATIVE = Path(__file__).parent / "native"
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc")
CUDA_OPS = [op for op in COVERED if op in schema.CUDAS]

pytestmark = pytest.mark.gpu
each_op = pytest.mark.parametrize("op", CUDA_OPS)


def on_gpu(op: str, device: str = "cuda") -> tuple[Any, ...]:
    return tuple(carry(argument, device) for argument in EXAMPLES[op]())


def bits(op: str, run: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """Return the bytes of the result and of the written arguments."""
    result = run(*arguments)
    return flat_bytes(carry((result, *(arguments[i] for i in sorted(written(op)))), "cpu"))


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("program", ["cuda_warp_test", "cuda_mma_test", "cuda_wgmma_test"])
def test_gpu_passes_the_emulators_test_programs(tmp_path: Path, program: str) -> None:
    target = "-arch=native"
    if program == "cuda_wgmma_test":
        if torch.cuda.get_device_capability() != (9, 0):
            pytest.skip("wgmma is Hopper's alone")
        target = "-gencode=arch=compute_90a,code=sm_90a"
    flags = ["-std=c++17", target, f"-I{cuda_emulation.ROOT / 'csrc'}", f"-I{NATIVE}"]
    subprocess.run([str(NVCC), *flags, str(NATIVE / f"{program}.cu"), "-o", str(tmp_path / program)], check=True)
    done = subprocess.run([tmp_path / program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stderr


@each_op
def test_dispatcher_sends_gpu_tensors_to_the_kernels(op: str) -> None:
    arguments = on_gpu(op)
    tensor = next(argument for argument in arguments if isinstance(argument, torch.Tensor))
    served = [name for name, reason in ops.why(op, tensor).items() if not reason]
    expected = bits(op, ops.siblings(op)[served[0]], on_gpu(op))
    assert bits(op, getattr(ops, op), arguments) == expected
    with torch.no_grad():  # some operations then bypass the dispatcher
        assert bits(op, getattr(ops, op), on_gpu(op)) == expected


@each_op
def test_equal_bits_over_repeats_streams_and_devices(op: str) -> None:
    run = ops.siblings(op)["cuda"]
    expected = bits(op, run, on_gpu(op))
    for repeat in range(20):
        assert bits(op, run, on_gpu(op)) == expected, f"call {repeat}"
    with torch.cuda.stream(torch.cuda.Stream()):
        assert bits(op, run, on_gpu(op)) == expected
    for device in range(1, torch.cuda.device_count()):
        assert bits(op, run, on_gpu(op, f"cuda:{device}")) == expected


@each_op
def test_equal_bits_on_several_streams_at_once(op: str) -> None:
    run = ops.siblings(op)["cuda"]
    expected = bits(op, run, on_gpu(op))
    streams = [torch.cuda.Stream() for _ in range(4)]
    arguments = [on_gpu(op) for _ in streams]
    torch.cuda.synchronize()
    results = []
    for stream, given in zip(streams, arguments, strict=True):
        with torch.cuda.stream(stream):
            results.append(run(*given))
    torch.cuda.synchronize()
    for result, given in zip(results, arguments, strict=True):
        assert bits(op, lambda *_, result=result: result, given) == expected


@each_op
def test_kernels_run_in_order_on_the_current_stream(op: str) -> None:
    run = ops.siblings(op)["cuda"]
    expected = bits(op, run, on_gpu(op))
    final = on_gpu(op)
    late = tuple(torch.zeros_like(a) if isinstance(a, torch.Tensor) else a for a in final)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # some tens of milliseconds
        for to, value in zip(late, final, strict=True):
            if isinstance(to, torch.Tensor):
                to.copy_(value)
        assert bits(op, run, late) == expected


@each_op
def test_memory_does_not_grow_over_calls(op: str) -> None:
    run, arguments = ops.siblings(op)["cuda"], on_gpu(op)
    for _ in range(20):
        run(*arguments)
    torch.cuda.synchronize()
    allocated, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    for _ in range(1000):
        run(*arguments)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == allocated
    # Free memory is meaningful only if no other process uses the GPU.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        assert free - torch.cuda.mem_get_info()[0] < 8 << 20


@each_op
def test_compiled_code_gives_the_same_bits(op: str) -> None:
    def call(*arguments: Any) -> Any:
        return getattr(ops, op)(*arguments)

    torch._dynamo.reset()  # the number of recompilations per function is limited
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    # Older PyTorch needs this option for results whose length depends on the data.
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        assert bits(op, compiled, on_gpu(op)) == bits(op, call, on_gpu(op))
