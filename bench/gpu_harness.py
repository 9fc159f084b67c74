"""Measurement harness of `bench.gpu`. Cases run one at a time; a failing one is recorded and the rest continue."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

# Calls cycle through enough copies of their inputs that this many bytes lie between two uses of one copy: more than any
# GPU's cache holds.
COLD_BYTES = 160 << 20
MAX_COPIES = 16
# Calls shorter than `SHORT_CALL_S` seconds are also replayed in a CUDA graph of at least `GRAPH_CALLS` calls, as far as
# these fit into `GRAPH_DURATION_S` seconds. For longer calls the host's overhead is negligible.
SHORT_CALL_S, GRAPH_CALLS, GRAPH_DURATION_S = 10e-3, 8, 5e-3


class Skipped(Exception):
    """Raised by a case that can't run here, because a package or a backend is missing."""


@dataclass(frozen=True)
class Context:
    """Device and dtype of the measurement. tiny: use tiny sizes, for the harness's own test on the CPU."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool = False

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def randn(self, *shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
        """Return normally distributed numbers with standard deviation `scale`."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return (torch.randn(*shape, generator=generator, device=self.device) * scale).to(self.dtype)


@dataclass
class Workload:
    """A prepared case.

    inputs: arguments of `call`, one tuple per copy. flops, bytes: the minimum that the whole work requires, for the
    floor. fraction: fraction of the whole work that one call does. capture: whether a CUDA graph can capture a call; it
    can't if the call reads results on the host.
    """

    call: Callable[..., Any]
    inputs: Sequence[tuple[Any, ...]]
    flops: float = 0.0
    bytes: float = 0.0
    fraction: float = 1.0
    note: str = ""
    capture: bool = True


@dataclass
class Case:
    """One row of the table. make: allocates and fills the inputs; an exception fails only this case."""

    group: str
    name: str
    make: Callable[[Context], Workload]


@dataclass
class Check:
    """One check of correctness. make: returns the largest error and the allowed error."""

    group: str
    name: str
    make: Callable[[Context], tuple[float, float]]


@dataclass
class Row:
    group: str
    name: str
    status: str  # "ok", "failed" or "skipped"; for checks also "wrong"
    ms: float | None = None  # device time of a call replayed in a CUDA graph if there is one, else as `call_ms`
    spread_ms: float | None = None  # interquartile range
    call_ms: float | None = None  # a single call, including the host's overhead
    first_ms: float | None = None  # the first call, including loading and compilation
    tflops: float | None = None
    gb_per_s: float | None = None
    floor_ms: float | None = None
    peak_mib: float | None = None
    error: float | None = None
    allowed: float | None = None
    note: str = ""


@dataclass
class Ceilings:
    """Throughput of this device in a large matrix product and a large copy (bytes read plus bytes written)."""

    tflops: float
    gb_per_s: float

    def floor_ms(self, work: Workload) -> float | None:
        if not work.flops and not work.bytes:
            return None
        return 1e3 * max(work.flops / (self.tflops * 1e12), work.bytes / (self.gb_per_s * 1e9))


@dataclass
class Results:
    rows: list[Row] = field(default_factory=list)
    checks: list[Row] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values without empty fields, with numbers rounded to four significant digits."""

        def plain(row: Row) -> dict[str, Any]:
            return {
                key: float(f"{value:.4g}") if isinstance(value, float) else value
                for key, value in asdict(row).items()
                if value is not None and value != ""
            }

        return {"checks": [plain(row) for row in self.checks], "rows": [plain(row) for row in self.rows]}


def count_bytes(values: Iterable[Any]) -> int:
    """Return the total bytes of all tensors among the values, including those in nested tuples and lists."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.numel() * value.itemsize
        elif isinstance(value, (tuple, list)):
            total += count_bytes(value)
    return total


def rotating_inputs(make: Callable[[int], tuple[Any, ...]], tiny: bool = False) -> list[tuple[Any, ...]]:
    """Return enough copies of arguments that none is still in a cache at its next use, at most `MAX_COPIES`.

    make: returns the arguments for a seed.
    """
    inputs = [make(0)]
    copies = 1 + math.ceil(COLD_BYTES / max(1, count_bytes(inputs[0])))
    return inputs + [make(seed) for seed in range(1, 2 if tiny else min(MAX_COPIES, copies))]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_seconds(device: torch.device, run: Callable[[], Any]) -> float:
    """Return the seconds of one call, measured by CUDA events on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def measure(work: Workload, context: Context, ceilings: Ceilings, row: Row) -> None:
    """Fill in a row: time and peak memory of the first call, then medians of repeated calls and of graph replays."""
    device = context.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    work.call(*work.inputs[0])
    synchronize(device)
    row.first_ms = 1e3 * (time.perf_counter() - start)
    if device.type == "cuda":
        row.peak_mib = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    for arguments in work.inputs[:3]:
        work.call(*arguments)
    synchronize(device)
    next_inputs = islice(cycle(work.inputs), 3, None)  # skip the copies that were just used
    call_times = measure_repeatedly(context, lambda: measure_seconds(device, partial(work.call, *next(next_inputs))))
    call_seconds = statistics.median(call_times)
    row.call_ms, row.note = 1e3 * call_seconds / work.fraction, work.note
    times = call_times
    if device.type == "cuda" and call_seconds < SHORT_CALL_S:
        times, reason = (
            measure_graph_replays(work, call_seconds, context) if work.capture else ([], "not in a CUDA graph")
        )
        if not times:
            times, row.note = call_times, "; ".join(filter(None, (row.note, f"with the host's part: {reason}")))
    seconds = statistics.median(times) / work.fraction
    ordered = sorted(times)
    row.ms = 1e3 * seconds
    row.spread_ms = 1e3 * (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]) / work.fraction
    row.floor_ms = ceilings.floor_ms(work)
    row.tflops = work.flops / seconds / 1e12 if work.flops else None
    row.gb_per_s = work.bytes / seconds / 1e9 if work.bytes else None


def measure_repeatedly(context: Context, measure_once: Callable[[], float]) -> list[float]:
    """Return the seconds of repeated calls: at least 5, then up to 0.4 s in total or 200 calls."""
    times: list[float] = []
    while len(times) < 2 if context.tiny else len(times) < 5 or (sum(times) < 0.4 and len(times) < 200):
        times.append(measure_once())
    return times


def measure_graph_replays(work: Workload, call_seconds: float, context: Context) -> tuple[list[float], str]:
    """Measure a call by replaying a CUDA graph of several calls, which excludes the host's overhead.

    call_seconds: approximate seconds of one call. The graph cycles through the inputs, so that they don't stay in
    caches. Returns the seconds per call of each replay; if the capture fails, an empty list and the reason.
    """
    rounds = min(-(-GRAPH_CALLS // len(work.inputs)), int(GRAPH_DURATION_S / call_seconds / len(work.inputs)))
    captured_inputs = list(work.inputs) * max(1, rounds)
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for arguments in captured_inputs:
                work.call(*arguments)
        graph.replay()
        synchronize(context.device)
    except Exception as error:
        return [], f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    replay_times = measure_repeatedly(context, lambda: measure_seconds(context.device, graph.replay))
    return [seconds / len(captured_inputs) for seconds in replay_times], ""


def attempt(row: Row, run: Callable[[], None], context: Context) -> Row:
    """Run a case or check and record in the row if it is skipped or fails. GPU memory is released afterwards."""
    try:
        run()
    except Skipped as reason:
        row.status, row.note = "skipped", str(reason)
    except Exception as error:
        row.status, row.note = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
    finally:
        if context.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
    return row


def run_check(check: Check, context: Context) -> Row:
    row = Row(check.group, check.name, "ok")

    def run() -> None:
        row.error, row.allowed = check.make(context)
        if not row.error <= row.allowed:  # NaN never passes
            row.status = "wrong"

    return attempt(row, run, context)


def run_case(case: Case, context: Context, ceilings: Ceilings) -> Row:
    row = Row(case.group, case.name, "ok")
    return attempt(row, lambda: measure(case.make(context), context, ceilings, row), context)


def measure_ceilings(context: Context) -> Ceilings:
    """Measure the device's throughput with a product of large matrices and a large copy."""
    side, count = context.size(8192, 64), context.size(1 << 30, 1 << 16)
    a, b = context.randn(side, side), context.randn(side, side, seed=1)
    source = torch.ones(count, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)

    def best(run: Callable[[], Any]) -> float:
        run()
        return min(measure_seconds(context.device, run) for _ in range(context.size(10, 2)))

    product, copy = best(lambda: a @ b), best(lambda: target.copy_(source))
    return Ceilings(2 * side**3 / product / 1e12, 2 * count / copy / 1e9)


def table(results: dict[str, Any]) -> str:
    """Return text for the terminal: the checks, then each row with its floor."""

    def format_number(value: float | None, digits: str) -> str:
        return "-" if value is None else format(value, digits)

    lines = []
    for row in results["checks"]:
        mark = "ok" if row["status"] == "ok" else row["status"].upper()
        detail = f"error {row['error']:.3g}, allowed {row['allowed']:.3g}" if "error" in row else row.get("note", "")
        lines.append(f"{mark:8} {row['group']}: {row['name']}: {detail}")
    headings = ("ms", "call ms", "floor", "TFLOP/s", "GB/s", "first ms", "peak MiB")
    lines += ["", f"{'':56}" + "".join(f"{head:>10}" for head in headings)]
    for row in results["rows"]:
        name = f"{row['group']}: {row['name']}"[:55]
        if row["status"] != "ok":
            lines.append(f"{name:56}  {row['status']}: {row.get('note', '')}")
            continue
        keys = (("ms", ".4g"), ("call_ms", ".4g"), ("floor_ms", ".3g"), ("tflops", ".3g"), ("gb_per_s", ".4g"))
        values = [
            format_number(row.get(key), digits) for key, digits in (*keys, ("first_ms", ".4g"), ("peak_mib", ".5g"))
        ]
        note = f"  {row['note']}" if row.get("note") else ""
        lines.append(f"{name:56}" + "".join(f"{value:>10}" for value in values) + note)
    return "\n".join(lines)
