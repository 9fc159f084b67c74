"""How `bench.gpu` measures: one case at a time, each by itself, so that what fails is recorded and the rest goes on."""

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

# Inputs are taken in turns from so many copies that this much lies between two uses of one: more than any GPU's cache.
COLD_BYTES = 160 << 20
MOST_COPIES = 16
# Calls that take no longer are also replayed in a CUDA graph of at least so many, if they fit into GRAPH_S; of longer
# ones the host's part is lost in the rest.
SMALL_S, GRAPH_CALLS, GRAPH_S = 10e-3, 8, 5e-3


class Skipped(Exception):
    """What a case raises that can't be run here: a package or a back end that isn't there."""


@dataclass(frozen=True)
class Context:
    """device, dtype: what is measured on and in. tiny: sizes for the harness's own test, on the CPU."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool = False

    def size(self, usual: int, tiny: int) -> int:
        return tiny if self.tiny else usual

    def draw(self, *shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
        """Normally distributed numbers."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return (torch.randn(*shape, generator=generator, device=self.device) * scale).to(self.dtype)


@dataclass
class Work:
    """A case made ready. inputs: arguments of `call`, one tuple for each copy.

    flops, bytes: the fewest that the work takes, for the floor. share: of the whole work that one call does. capture:
    whether a CUDA graph can hold a call, which nothing that is read on the host is part of.
    """

    call: Callable[..., Any]
    inputs: Sequence[tuple[Any, ...]]
    flops: float = 0.0
    bytes: float = 0.0
    share: float = 1.0
    note: str = ""
    capture: bool = True


@dataclass
class Case:
    """One row of the table. make: allocates and draws; what it raises fails this case alone."""

    group: str
    name: str
    make: Callable[[Context], Work]


@dataclass
class Check:
    """make: gives the largest error and the largest that is allowed."""

    group: str
    name: str
    make: Callable[[Context], tuple[float, float]]


@dataclass
class Row:
    group: str
    name: str
    status: str  # "ok", "failed", "skipped", of checks also "wrong"
    ms: float | None = None  # the device's time, from a CUDA graph where there is one, else that of `call_ms`
    spread_ms: float | None = None  # between the quartiles
    call_ms: float | None = None  # one call by itself, the host's part included
    first_ms: float | None = None  # the first call, with everything that it loads and compiles
    tflops: float | None = None
    gb_per_s: float | None = None
    floor_ms: float | None = None
    peak_mib: float | None = None
    error: float | None = None
    allowed: float | None = None
    note: str = ""


@dataclass
class Ceilings:
    """What this device reached in a large product and a large copy (read and written bytes both count)."""

    tflops: float
    gb_per_s: float

    def floor_ms(self, work: Work) -> float | None:
        if not work.flops and not work.bytes:
            return None
        return 1e3 * max(work.flops / (self.tflops * 1e12), work.bytes / (self.gb_per_s * 1e9))


@dataclass
class Results:
    rows: list[Row] = field(default_factory=list)
    checks: list[Row] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without what is not known, numbers cut to what they mean."""

        def plain(row: Row) -> dict[str, Any]:
            return {
                key: float(f"{value:.4g}") if isinstance(value, float) else value
                for key, value in asdict(row).items()
                if value is not None and value != ""
            }

        return {"checks": [plain(row) for row in self.checks], "rows": [plain(row) for row in self.rows]}


def bytes_of(values: Iterable[Any]) -> int:
    """Of all tensors among the values, and in tuples of them."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.numel() * value.itemsize
        elif isinstance(value, (tuple, list)):
            total += bytes_of(value)
    return total


def rotated(make: Callable[[int], tuple[Any, ...]], tiny: bool = False) -> list[tuple[Any, ...]]:
    """Arguments in as many copies as keep each out of the caches until its next turn. make: of a seed."""
    inputs = [make(0)]
    copies = 1 + math.ceil(COLD_BYTES / max(1, bytes_of(inputs[0])))
    return inputs + [make(seed) for seed in range(1, 2 if tiny else min(MOST_COPIES, copies))]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, run: Callable[[], Any]) -> float:
    """Of one call, on the device's own clock where it has one."""
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


def measure(work: Work, context: Context, ceilings: Ceilings, row: Row) -> None:
    """Fill in a row: the first call, then medians of as many as go into some tenths of a second, 5 at least."""
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
    turns = islice(cycle(work.inputs), 3, None)  # not those of the last three calls
    calls = repeated(context, lambda: seconds_of(device, partial(work.call, *next(turns))))
    call = statistics.median(calls)
    row.call_ms, row.note = 1e3 * call / work.share, work.note
    spent = calls
    if device.type == "cuda" and call < SMALL_S:
        spent, reason = replayed(work, call, context) if work.capture else ([], "not in a CUDA graph")
        if not spent:
            spent, row.note = calls, "; ".join(filter(None, (row.note, f"with the host's part: {reason}")))
    seconds = statistics.median(spent) / work.share
    ordered = sorted(spent)
    row.ms = 1e3 * seconds
    row.spread_ms = 1e3 * (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]) / work.share
    row.floor_ms = ceilings.floor_ms(work)
    row.tflops = work.flops / seconds / 1e12 if work.flops else None
    row.gb_per_s = work.bytes / seconds / 1e9 if work.bytes else None


def repeated(context: Context, once: Callable[[], float]) -> list[float]:
    """Seconds of as many as go into four tenths of one, 5 at least."""
    spent: list[float] = []
    while len(spent) < 2 if context.tiny else len(spent) < 5 or (sum(spent) < 0.4 and len(spent) < 200):
        spent.append(once())
    return spent


def replayed(work: Work, call: float, context: Context) -> tuple[list[float], str]:
    """Seconds of a call in a CUDA graph of several, which the host has no part in; none, with the reason, if it fails.

    call: about how many seconds one takes. The inputs take turns in the graph, so that each is out of the caches.
    """
    rounds = min(-(-GRAPH_CALLS // len(work.inputs)), int(GRAPH_S / call / len(work.inputs)))
    turns = list(work.inputs) * max(1, rounds)
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for arguments in turns:
                work.call(*arguments)
        graph.replay()
        synchronize(context.device)
    except Exception as error:
        return [], f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    each = repeated(context, lambda: seconds_of(context.device, graph.replay))
    return [seconds / len(turns) for seconds in each], ""


def attempt(row: Row, run: Callable[[], None], context: Context) -> Row:
    """Run, and say in the row how it ended. Memory is given back before the next case."""
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


def ceilings_of(context: Context) -> Ceilings:
    """Measured now, on a product of large matrices and a copy."""
    side, count = context.size(8192, 64), context.size(1 << 30, 1 << 16)
    a, b = context.draw(side, side), context.draw(side, side, seed=1)
    source = torch.ones(count, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)

    def best(run: Callable[[], Any]) -> float:
        run()
        return min(seconds_of(context.device, run) for _ in range(context.size(10, 2)))

    product, copy = best(lambda: a @ b), best(lambda: target.copy_(source))
    return Ceilings(2 * side**3 / product / 1e12, 2 * count / copy / 1e9)


def table(results: dict[str, Any]) -> str:
    """For the terminal: checks, then each row beside its floor."""

    def number(value: float | None, digits: str) -> str:
        return "-" if value is None else format(value, digits)

    lines = []
    for row in results["checks"]:
        mark = "ok" if row["status"] == "ok" else row["status"].upper()
        of = f"error {row['error']:.3g}, allowed {row['allowed']:.3g}" if "error" in row else row.get("note", "")
        lines.append(f"{mark:8} {row['group']}: {row['name']}: {of}")
    heads = ("ms", "call ms", "floor", "TFLOP/s", "GB/s", "first ms", "peak MiB")
    lines += ["", f"{'':56}" + "".join(f"{head:>10}" for head in heads)]
    for row in results["rows"]:
        name = f"{row['group']}: {row['name']}"[:55]
        if row["status"] != "ok":
            lines.append(f"{name:56}  {row['status']}: {row.get('note', '')}")
            continue
        keys = (("ms", ".4g"), ("call_ms", ".4g"), ("floor_ms", ".3g"), ("tflops", ".3g"), ("gb_per_s", ".4g"))
        values = [number(row.get(key), digits) for key, digits in (*keys, ("first_ms", ".4g"), ("peak_mib", ".5g"))]
        note = f"  {row['note']}" if row.get("note") else ""
        lines.append(f"{name:56}" + "".join(f"{value:>10}" for value in values) + note)
    return "\n".join(lines)
