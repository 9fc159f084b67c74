"""Runs every kernel on a GPU under CUDA's compute-sanitizer: `make sanitize-cuda`.

Three tools run by default, one after the other: memcheck (accesses outside allocations), racecheck (shared memory) and
synccheck (barriers). A fourth, initcheck (reads of uninitialised global memory), runs only if named, because it must
watch PyTorch's kernels too, and reports their findings as well. On success, the last line of output is
"sanitize-cuda: clean"; a finding ends the run with the tool's report.

    python tests/native/sanitize_cuda.py [the tools to run]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from decoder_arguments import arguments_in, chain_of
from fastsam_core import ops
from fastsam_core.ops import _native_cuda, schema
from fastsam_core.ops._decoder.cuda import mask_factors
from op_examples import COVERED, example
from siblings import carry, why_no_gpu

OUR_KERNELS = ["--kernel-name", "kernel_substring=fastsam"]  # matches the namespace in mangled names
TOOLS = {
    "memcheck": OUR_KERNELS,
    "racecheck": ["--racecheck-report=all", *OUR_KERNELS],
    "synccheck": OUR_KERNELS,
    "initcheck": [],
}
DEFAULT_TOOLS = ("memcheck", "racecheck", "synccheck")
ERROR_EXIT_CODE = 9  # exit status of a run in which a tool has found something
HALVES = (torch.float16, torch.bfloat16)
# Operations of the decoder that have float32 kernels too.
FLOAT32_OPS = ("decoder_first_token_to_image", "decoder_first_pass", "decoder_second_pass", "decoder_upscale")
# Sizes with few prompts, and with so many that each block takes several and the products of their tokens fill a GPU.
# The grid's last panel of 16 cells is incomplete.
FEW = {"heads": 8, "prompts": 2, "tokens": 8, "dim": 256, "grid": (5, 29)}
MANY = {**FEW, "prompts": 100, "tokens": 7}
HIDDEN_SIZES = (2048, 256)  # hidden widths of the tokens' MLP and the IoU head in SAM
# Height, width, window (0: global), channels per head. wgmma kernels for Hopper run global attention of 33 to 64
# columns.
ATTENTION = [(14, 14, 0, 64), (9, 40, 0, 64), (20, 30, 14, 80), (20, 30, 7, 32), (9, 70, 0, 64), (9, 64, 0, 80)]


def iter_calls(sibling: str, quick: bool = False) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield operations and CPU arguments that make this sibling launch each form of each of its kernels.

    quick: yield only the examples of `op_examples` and one case of attention.
    """
    for op in COVERED:
        if op in schema.CUDAS:
            yield op, example(op, sibling)
    if quick:
        yield "attention", _attention(*ATTENTION[1], torch.bfloat16)
        return
    for dtype in HALVES:
        for op in COVERED:
            for sizes in (FEW, MANY) if op.startswith("decoder_") else ():
                yield op, arguments_in(dtype, op, **sizes, hidden=HIDDEN_SIZES)
        for stride in (1, 2):
            for gelu in (False, True):
                arguments = [tensor.to(dtype) for tensor in example("depthwise3x3")[:3]]
                yield "depthwise3x3", (*arguments, stride, gelu, arguments[2])
    for op in FLOAT32_OPS:
        for sizes in (FEW, {**MANY, "prompts": 2}):
            yield op, arguments_in(torch.float32, op, **sizes)
    for dtype in (torch.float32, *HALVES):
        for shape in ATTENTION:
            yield "attention", _attention(*shape, dtype)
        for channels in (96, 320):  # rows that leave some lanes of a warp without elements
            arguments = [tensor[..., :channels].to(dtype).contiguous() for tensor in example("add_norm_into")[:4]]
            yield "add_norm_into", (*arguments, 1e-6)
    boxes, scores = example("nms")[:2]
    yield "nms", (boxes.double().repeat(2, 1), scores.repeat(2), 0.5)  # more than a chunk
    # Noise in every cell: columns with so many changes that their runs are written in parallel.
    logits, *axes = example("mask_runs")
    yield "mask_runs", (logits.sign() * 9, *axes)


def _attention(height: int, width: int, window: int, dim: int, dtype: torch.dtype) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(3)
    shapes = (1, height, width, 6 * dim), *((2 * (window or side) - 1, dim) for side in (height, width)), (6 * dim,)
    qkv, rows, columns, padding = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return qkv, rows, columns, 2, window, padding if window else None


def make_calls(device: str, sibling: str, quick: bool = False) -> int:
    """Call every operation of `iter_calls` and the decoder's fused calls on `device`; return the number of calls."""
    _native_cuda.use_unvalidated = True
    count = 0
    for op, arguments in iter_calls(sibling, quick):
        ops.siblings(op)[sibling](*(carry(argument, device) for argument in arguments))
        count += 1
    for dtype in HALVES[:1] if quick else HALVES:
        prompts, factors = (
            [carry(argument, device) for argument in arguments_in(dtype, op, **FEW)]
            for op in ("decoder_prompts", "decoder_mask_factors")
        )
        _native_cuda.sibling_wrappers[sibling](_decode)(prompts, factors)
        count += 2
    return count


def _decode(prompts: Any, factors: Any) -> None:
    """Run the decoder's calls that bypass the operations."""
    chain, arguments = chain_of(prompts)
    chain(*arguments)
    mask_factors(*factors, packed=True)


def main(tools: list[str]) -> None:
    """Run the tools; exit with an error at the first finding."""
    if unknown := [tool for tool in tools if tool not in TOOLS]:
        raise SystemExit(f"unknown tool {unknown[0]}; choose from {', '.join(TOOLS)}")
    if reason := why_no_gpu():
        raise SystemExit(f"compute-sanitizer needs a GPU and the CUDA kernels: {reason}")
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        raise SystemExit(
            "compute-sanitizer is needed, from the CUDA toolkit or PyPI's nvidia-cuda-sanitizer-api: put it on PATH"
        )
    for tool in tools or DEFAULT_TOOLS:
        command = [sanitizer, "--tool", tool, f"--error-exitcode={ERROR_EXIT_CODE}", *TOOLS[tool]]
        command += [sys.executable, __file__, "--calls"]
        print("+", " ".join(command), flush=True)
        # Without PyTorch's caching allocator each tensor is its own allocation, so reads beside it are reported.
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        if status := subprocess.run(command, env=environment).returncode:
            raise SystemExit(
                f"{tool} " + ("has found something" if status == ERROR_EXIT_CODE else f"ended with {status}")
            )
    print("sanitize-cuda: clean")


if __name__ == "__main__":
    if sys.argv[1:] == ["--calls"]:
        count = make_calls("cuda", "cuda")
        torch.cuda.synchronize()
        print(f"{count} calls made")
    else:
        main(sys.argv[1:])
