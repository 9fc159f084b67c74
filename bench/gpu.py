"""Measure on a GPU: `python -m bench.gpu`, in under eight minutes. Results go to `bench/results/<gpu>-<date>.json`.

Checks of correctness run first, then each operation and segment everything from photo to RLE, compared with PyTorch,
and with torchvision and transformers if they are installed. Each group runs in a fresh process, so a hang or a broken
CUDA context affects only that group. The groups "first_..." measure the time of a process's first call. The exit code
is 2 without a GPU, 1 if a check fails.

FASTSAM_CUDA_KERNELS=0 measures PyTorch instead of this package's kernels. `--check` runs tiny sizes on the CPU, in this
process, to test the harness; it saves results only with `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from fastsam_core import ops
from fastsam_core._files import write_text

from . import gpu_cases, gpu_models, gpu_small
from .gpu_harness import Case, Ceilings, Check, Context, Results, Row, measure_ceilings, run_case, run_check, table
from .summarise import RESULTS, ROOT, commit

BUDGET_S = 460.0
# Time limits of the groups' processes, the most important group first.
TIME_LIMITS_S = {"decoder": 110, "everything": 90, "attention": 90, "small": 60, "encoder": 100}
FIRST_CALLS = (gpu_cases.ATTENTION[0], gpu_cases.ONE_PROMPT, gpu_small.SMALL[0], gpu_small.SMALL[3])
GROUPS: dict[str, tuple[Sequence[Check], Sequence[Case]]] = {
    "decoder": (gpu_cases.DECODER_CHECKS, gpu_cases.DECODER),
    "everything": ((), ()),
    "attention": (gpu_cases.ATTENTION_CHECKS, gpu_cases.ATTENTION),
    "small": (gpu_small.SMALL_CHECKS, gpu_small.SMALL),
    **{f"first_{case.group}": ((), [replace(case, group="first call")]) for case in FIRST_CALLS},
    "graphs": ((), gpu_models.GRAPHS),
    "encoder": ((), gpu_models.ENCODER),
}
REPORTED_OPS = ("attention", "decoder_second_pass", "mask_runs", "nms", "rle_encode")


def run_group(name: str, context: Context, ceilings: Ceilings, save: Callable[[Results], None]) -> Results:
    """Run a group's checks, then its cases. save: called after each with the results so far."""
    results = Results()
    checks, cases = GROUPS[name]
    with torch.inference_mode():
        for check in checks:
            results.checks.append(run_check(check, context))
            save(results)
        for case in cases:
            results.rows.append(run_case(case, context, ceilings))
            save(results)
    if name == "everything":
        gpu_models.everything(context, results)
        save(results)
    return results


def header(context: Context, ceilings: Ceilings) -> dict[str, Any]:
    """Return the header of the results: device, dtype, versions, kernels in use, measured ceilings, commit."""
    on_gpu = context.device.type == "cuda"
    tensor = torch.empty(1, dtype=context.dtype, device=context.device)
    return {
        "kind": "gpu",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(context.device) if on_gpu else platform.machine(),
        "dtype": str(context.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
        "kernels": {op: ops.why(op, tensor)["cuda"] or "serve" for op in REPORTED_OPS},
        "ceilings": {"tflops": float(f"{ceilings.tflops:.4g}"), "gb_per_s": float(f"{ceilings.gb_per_s:.4g}")},
        "commit": commit(),
    }


def run_in_subprocess(name: str, limit: float, ceilings: Ceilings) -> dict[str, Any]:
    """Run a group in a process of its own and return its results.

    If the process crashes or exceeds `limit` seconds, return the results it saved until then and a row with the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        results_path, log_path = Path(folder) / "kept.json", Path(folder) / "log"
        command = [sys.executable, "-m", "bench.gpu", "--group", name, "--out", str(results_path)]
        command += ["--ceilings", str(ceilings.tflops), str(ceilings.gb_per_s)]
        environment = {**os.environ, **({"FASTSAM_CUDA_GRAPHS": "1"} if name == "graphs" else {})}
        problem, start = "", time.perf_counter()
        with open(log_path, "wb") as output:
            try:
                process = subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=limit
                )
                problem = f"the process ended with {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                problem = f"stopped after {limit:.0f} s"
        results: dict[str, Any] = (
            json.loads(results_path.read_text()) if results_path.exists() else {"checks": [], "rows": []}
        )
        results["seconds"] = round(time.perf_counter() - start, 1)
        if problem:
            last_words = " ".join(log_path.read_text(errors="replace").split())[-300:]
            results["rows"].append(
                {"group": name, "name": "the rest", "status": "failed", "note": f"{problem}: {last_words}"}
            )
        return results


def run_groups(run: Callable[[str, float], dict[str, Any]], names: Sequence[str], budget: float) -> dict[str, Any]:
    """Run the groups one after the other within `budget` seconds and join their results.

    run: takes a group's name and a time limit in seconds, and returns the group's results.
    """
    start = time.perf_counter()
    merged: dict[str, Any] = {"checks": [], "rows": [], "seconds": {}}
    for name in names:
        remaining = budget - (time.perf_counter() - start)
        try:
            if remaining < 10:
                raise TimeoutError("no time was left for this group")
            results = run(name, min(remaining, TIME_LIMITS_S.get(name, 60)))
        except Exception as error:
            row = Row(name, "all", "failed", note=f"{type(error).__name__}: {error}")
            results = Results([row]).as_dict()
        merged["checks"] += results["checks"]
        merged["rows"] += results["rows"]
        merged["seconds"][name] = results.get("seconds")
        print(f"{name}: {len(results['rows'])} rows, {budget - remaining:.0f} s", file=sys.stderr, flush=True)
    return merged


def result_path(results: dict[str, Any]) -> Path:
    device = re.sub(r"[^a-z0-9]+", "-", results["device"].lower()).strip("-")
    return RESULTS / f"{device}-{results['date'][:10]}.json"


def write_results(path: Path, results: dict[str, Any]) -> None:
    write_text(path, json.dumps(results, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.gpu", description=__doc__)
    parser.add_argument("--check", action="store_true", help="tiny sizes on the CPU, to test the harness")
    parser.add_argument("--out", type=Path, help="where to keep the results")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="these groups alone")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    parser.add_argument("--ceilings", type=float, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.check and not torch.cuda.is_available():
        print("no GPU, or a PyTorch without CUDA: nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.check else "cuda")
    context = Context(device, torch.float32 if options.check else torch.bfloat16, options.check)
    if options.group:
        ceilings = Ceilings(*options.ceilings)
        run_group(options.group, context, ceilings, lambda results: write_results(options.out, results.as_dict()))
        return 0
    with torch.inference_mode():
        ceilings = measure_ceilings(context)

    def run_here(name: str, _: float) -> dict[str, Any]:
        return run_group(name, context, ceilings, lambda results: None).as_dict()

    run = run_here if options.check else lambda name, limit: run_in_subprocess(name, limit, ceilings)
    results = {**header(context, ceilings), **run_groups(run, options.only, BUDGET_S)}
    path = options.out or (None if options.check else result_path(results))
    if path is not None:
        write_results(path, results)
    print(table(results))
    if path is not None:
        print(f"kept as {path}")
    failed = [row for row in results["checks"] if row["status"] != "ok"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
