"""Count the instructions of the native operations with Valgrind. Other load on the machine doesn't change the counts.

    python -m bench.instructions [OUTPUT.json]

Each operation runs once under callgrind, and `ROUNDS` times without it to measure its seconds, on one thread. Only the
compiled module and NumPy are loaded, because importing PyTorch takes minutes under Valgrind. The instruction set is
AVX2, the newest that Valgrind supports.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Call = Callable[[], Any]

ISA = "avx2"
ROUNDS = 5
PANELS, HEADS, TOKENS, HEAD_DIM = 256, 8, 7, 16
ROWS, INNER = HEADS * TOKENS, HEADS * HEAD_DIM


def load_module(path: str) -> ModuleType:
    """Load the compiled module from its file, without importing the package (and PyTorch)."""
    spec = importlib.util.spec_from_file_location("_cpu", path)
    assert spec is not None and spec.loader is not None
    cpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cpu)
    cpu.force_isa(ISA)
    return cpu


def operations(cpu: Any) -> dict[str, tuple[Call, float]]:
    """Return each operation's call and its multiply-adds in millions (0 if these don't dominate), by description."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    def empty(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    def vectors() -> Any:
        return draw(1, HEADS, TOKENS, HEAD_DIM) / 4

    def square() -> Any:
        return draw(1, ROWS, ROWS) / 8

    gram = np.eye(ROWS, dtype=np.float32)[None] * 4
    values, state = draw(HEADS, PANELS * 16, 16), np.abs(draw(1, PANELS, 2 * ROWS + 2, 16)) / 4
    attended, coefficient_sum = empty(1, HEADS, TOKENS, HEAD_DIM), empty(1, ROWS, ROWS)
    first_image = draw(PANELS, 4 * INNER, 16), values, np.abs(draw(PANELS, 16)) + 4, 1e-5
    first = *first_image, vectors(), vectors(), gram, vectors(), square(), PANELS * 16, state, attended, coefficient_sum
    second_image = draw(PANELS, 6 * INNER, 16), values, np.abs(draw(PANELS, 2, 16)) + 4, 9.0, 1e-5
    biases = [draw(1, ROWS) / 4 for _ in range(3)]
    tokens = vectors(), square(), biases[0], vectors(), gram, biases[1], vectors(), square(), biases[2], gram
    attention_inputs = draw(1, HEADS, 4, HEAD_DIM) / 4, draw(1, HEADS * 4, 2 * ROWS + 2) / 8
    attention_outputs = empty(1, HEADS, 4, HEAD_DIM), empty(1, 2 * ROWS + 2, HEADS * 4)
    second = *second_image, *tokens, *attention_inputs, PANELS * 16, state, *attention_outputs
    zero = np.zeros(1, np.int64)
    upscaling = draw(1, 32), draw(PANELS, 256, 16), draw(256), draw(64), draw(64), 1e-6, draw(128, 64), draw(128)
    upscale = state, zero, draw(1, 256, 2 * ROWS + 2) / 8, zero, *upscaling, 64, 64, empty(1, 256, 256)

    y, x = np.mgrid[:256, :256].astype(np.float32)
    blobs = np.stack([60 - np.hypot(y - 80 - 6 * i, x - 100 - 4 * i) for i in range(16)]).astype(np.float32)
    axes = [_axis_weights(256, size) for size in (1200, 1800)]
    masks = np.stack([np.hypot(*np.mgrid[-600:600, -900:900]) < 200 + 20 * i for i in range(16)])
    counts, offsets = cpu.rle_encode(masks, 1)
    corners = rng.uniform(0, 2000, (10_000, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 200, (10_000, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 1, 10_000)
    photo = rng.integers(0, 255, (1200, 1800, 3), np.uint8)
    qkv = draw(1, 28, 28, 3 * 128)
    return {
        "linear, 216 x 768 to 768, GELU": (
            _bind(cpu.linear, draw(216, 768), draw(768, 768), draw(768), 1, None, None, 0.0, None, empty(216, 768)),
            216 * 768 * 768 / 1e6,
        ),
        "linear, 7 x 256 to 2,048": (
            _bind(cpu.linear, draw(7, 256), draw(2048, 256), draw(2048), 2, None, None, 0.0, None, empty(7, 2048)),
            7 * 256 * 2048 / 1e6,
        ),
        "attention, 28 x 28, 2 heads of 64, global": (
            _bind(cpu.attention, qkv, draw(55, 64), draw(55, 64), 2, 0, None, empty(1, 28, 28, 128)),
            2 * 784 * 784 * 128 / 1e6,
        ),
        "attention, 28 x 28, 2 heads of 64, windows of 14": (
            _bind(cpu.attention, qkv, draw(27, 64), draw(27, 64), 2, 14, draw(384), empty(1, 28, 28, 128)),
            2 * 4 * 196 * 196 * 128 / 1e6,
        ),
        "decoder, first pass of a prompt": (_bind(cpu.decoder_first_pass, *first), 0.0),
        "decoder, second pass of a prompt": (_bind(cpu.decoder_second_pass, *second), 0.0),
        "decoder, upscaling of a mask": (_bind(cpu.decoder_upscale, *upscale), 0.0),
        "mask runs, 16 blobs at 1800 x 1200": (
            _bind(cpu.mask_runs, blobs, *axes[0], *axes[1], 0.0, 1.0, 1200, 1800, 0, 0),
            0.0,
        ),
        "RLE encode, 16 discs at 1800 x 1200": (_bind(cpu.rle_encode, masks), 0.0),
        "RLE decode, 16 discs at 1800 x 1200": (
            _bind(cpu.rle_decode, counts, offsets, 1200, 1800, False, np.zeros(masks.shape, bool)),
            0.0,
        ),
        "RLE iou, 16 x 16 discs": (
            _bind(cpu.rle_iou, counts, offsets, counts, offsets, np.zeros(16, bool)),
            0.0,
        ),
        "NMS, 10,000 boxes": (_bind(cpu.nms, boxes, scores, None, 0.7), 0.0),
        "resize, 1800 x 1200 to 1024 x 683": (
            _bind(cpu.resize_image, photo, True, np.zeros((683, 1024, 3), np.uint8)),
            0.0,
        ),
    }


def _bind(function: Callable[..., Any], *arguments: Any) -> Call:
    return lambda: function(*arguments, 1)


def _axis_weights(cells: int, size: int) -> tuple[Any, Any]:
    """Return the first source cell (size,) and weights (size, 3) for bilinear upscaling of `cells` to `size` pixels."""
    position = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    base = position.astype(np.int64)
    fraction = (position - base).astype(np.float32)
    return base, np.stack([1 - fraction, fraction, 0 * fraction], 1)


def measure_seconds(cpu: Any) -> dict[str, dict[str, float]]:
    """Measure each operation's median seconds, without Valgrind."""
    results = {}
    for name, (call, multiply_adds) in operations(cpu).items():
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        results[name] = {"seconds": statistics.median(times), "multiply_adds_m": multiply_adds}
    return results


def run_instrumented(cpu: Any) -> None:
    """Run each operation under callgrind, which must be started with instrumentation off, and dump its counts."""
    pid = str(os.getpid())

    def control(*options: str) -> None:
        subprocess.run(["callgrind_control", *options, pid], check=True, stdout=subprocess.DEVNULL)

    # The first call does nothing. It measures the cost of controlling callgrind, which `count_instructions` subtracts.
    for number, call in enumerate([lambda: None, *(call for call, _ in operations(cpu).values())]):
        control("-z")
        control("-i", "on")
        call()
        control(f"--dump={number}")
        control("-i", "off")


def count_instructions(path: str, names: list[str]) -> dict[str, int]:
    """Run this module under callgrind and return the number of instructions of each operation."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        subprocess.run([*command, sys.executable, "-m", "bench.instructions", "--inside", path], check=True)
        return {
            name: _total_instructions(f"{folder}/out.{number}") - _total_instructions(f"{folder}/out.1")
            for number, name in enumerate(names, 2)
        }


def _total_instructions(file: str) -> int:
    (line,) = (line for line in Path(file).read_text().splitlines() if line.startswith("totals:"))
    return int(line.split()[1])


def main(argv: list[str]) -> int:
    if argv[:1] == ["--inside"]:
        run_instrumented(load_module(argv[1]))
        return 0
    if shutil.which("valgrind") is None:
        print("Valgrind is not installed: it is in most systems' package lists as valgrind", file=sys.stderr)
        return 2
    from fastsam_core._files import write_text
    from fastsam_core.ops._native import cpu_module

    if cpu_module is None or cpu_module.__file__ is None:
        print("the compiled operations are off; fastsam doctor says why", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {
        name: {**row} for name, row in measure_seconds(load_module(cpu_module.__file__)).items()
    }
    for name, instructions in count_instructions(cpu_module.__file__, list(results)).items():
        results[name]["instructions"] = instructions
    print(f"\n{'operation (AVX2, one thread)':<52} {'M instructions':>14} {'ms':>9} {'instr. / multiply-add':>22}")
    for name, row in results.items():
        multiply_adds = row["multiply_adds_m"]
        ratio = f"{row['instructions'] / 1e6 / multiply_adds:.3f}" if multiply_adds else ""
        print(f"{name:<52} {row['instructions'] / 1e6:>14.2f} {row['seconds'] * 1e3:>9.2f} {ratio:>22}")
    if argv:
        today = time.strftime("%Y-%m-%d", time.gmtime())
        report = {"kind": "instructions", "date": today, "isa": ISA, "threads": 1, "operations": results}
        write_text(argv[0], json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
