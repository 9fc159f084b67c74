"""Tests `bench.gpu` on the CPU: every case in tiny sizes, its table and result file, and how it handles failures."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import compare, gpu, gpu_harness, summarise
from bench.gpu_harness import (
    Case,
    Ceilings,
    Check,
    Context,
    Results,
    Row,
    Skipped,
    Workload,
    run_case,
    run_check,
    table,
)

CONTEXT = Context(torch.device("cpu"), torch.float32, tiny=True)
CEILINGS = Ceilings(tflops=0.1, gb_per_s=10.0)


def work(**changed: Any) -> Workload:
    x = torch.ones(1000)
    return Workload(**{"call": torch.neg, "inputs": [(x,), (x + 1,)], "flops": 1e6, "bytes": 8000.0, **changed})


@pytest.mark.once("what the cases call has tests of its own")
def test_every_case_runs_and_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.randint(256, (60, 90, 3)).byte().numpy()
    monkeypatch.setattr(gpu.gpu_models, "photo", lambda width, height: noise)
    path = tmp_path / "kept.json"
    assert gpu.main(["--check", "--out", str(path)]) == 0
    kept = json.loads(path.read_text())
    said = capsys.readouterr().out
    assert [row for row in kept["checks"] if row["status"] != "ok"] == []
    # Only cases that PyTorch on the CPU or this installation doesn't support may be left out.
    left = {row["name"]: row for row in kept["rows"] if row["status"] != "ok"}
    allowed = ("SDPA", "FlexAttention", "torchvision", "transformers")
    assert all(name.startswith(allowed) for name in left), left
    assert all(row["status"] == "skipped" or name.startswith("SDPA") for name, row in left.items()), left
    for row in kept["rows"]:
        assert row["name"][:40] in said
        if row["status"] == "ok" and not row["name"].startswith("masks matched"):
            assert row["ms"] > 0 and row["first_ms"] > 0, row
    everything = [row for row in kept["rows"] if row["group"] == "everything"]
    assert "mean IoU 1.0000" in everything[-1]["note"]
    assert kept["kind"] == "gpu" and kept["ceilings"]["tflops"] > 0 and set(kept["seconds"]) == set(gpu.GROUPS)
    assert gpu.result_path(kept).parent == summarise.RESULTS


def test_first_calls_are_those_of_this_package() -> None:
    assert all(case.name.startswith("ours") for case in gpu.FIRST_CALLS)


def test_without_a_gpu_exits_with_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_failures_are_recorded_and_other_cases_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(context: Context) -> Any:
        raise RuntimeError("some\nlong  story")

    def skips(context: Context) -> Any:
        raise Skipped("some package is not installed")

    checks = [Check("g", "a", fails), Check("g", "b", lambda c: (0.2, 0.1)), Check("g", "c", lambda c: (0.1, 0.1))]
    checks.append(Check("g", "d", lambda c: (float("nan"), 0.1)))
    broken = work(call=lambda x: 1 // 0)
    cases = [
        Case("g", "1", fails),
        Case("g", "2", skips),
        Case("g", "3", lambda c: broken),
        Case("g", "4", lambda c: work()),
    ]
    monkeypatch.setitem(gpu.GROUPS, "small", (checks, cases))
    kept: list[int] = []
    found = gpu.run_group("small", CONTEXT, CEILINGS, lambda results: kept.append(len(results.checks + results.rows)))
    assert [row.status for row in found.checks] == ["failed", "wrong", "ok", "wrong"]
    assert [row.status for row in found.rows] == ["failed", "skipped", "failed", "ok"]
    assert found.checks[0].note == "RuntimeError: some long story" and "ZeroDivisionError" in found.rows[2].note
    assert kept == list(range(1, 9))


def test_wrong_result_sets_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(gpu.GROUPS, "small", ([Check("g", "off", lambda c: (2.0, 1.0))], []))
    assert gpu.main(["--check", "--only", "small"]) == 1
    assert "WRONG    g: off: error 2, allowed 1" in capsys.readouterr().out


def test_row_has_time_rates_and_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_harness, "measure_seconds", lambda device, run: run() is None or 2e-3)
    row = run_case(Case("g", "n", lambda c: work(fraction=0.5, note="half")), CONTEXT, CEILINGS)
    assert row.ms == pytest.approx(4.0) and row.tflops == pytest.approx(1e6 / 4e-3 / 1e12) and row.note == "half"
    assert row.gb_per_s == pytest.approx(8000 / 4e-3 / 1e9)
    assert row.floor_ms == pytest.approx(1e3 * 1e6 / 1e11)  # the arithmetic takes longer than moving 8000 bytes
    assert CEILINGS.floor_ms(work(flops=0, bytes=0)) is None
    assert run_check(Check("g", "c", lambda c: (1.0, 2.0)), CONTEXT).status == "ok"


def test_graph_of_calls_alternates_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[float] = []
    replays: list[int] = []

    class Graph:
        def replay(self) -> None:
            replays.append(len(called))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    monkeypatch.setattr(gpu_harness, "measure_seconds", lambda device, run: run() or 8e-4)
    made = work(call=lambda x: called.append(float(x[0])))
    assert gpu_harness.measure_graph_replays(made, 1e-4, CONTEXT) == ([pytest.approx(1e-4)] * 2, "")
    assert called == [1.0, 2.0] * 4 and replays == [8] * 3
    called.clear()
    gpu_harness.measure_graph_replays(made, 8e-3, CONTEXT)  # long calls: the graph holds the minimum of one per input
    assert called == [1.0, 2.0]
    broken = work(call=lambda x: 1 // 0)
    assert gpu_harness.measure_graph_replays(broken, 1e-4, CONTEXT)[0] == []
    assert gpu_harness.measure_graph_replays(broken, 1e-4, CONTEXT)[1].startswith("ZeroDivisionError")


@pytest.mark.parametrize(
    ("capture", "call", "ms", "note"),
    [
        (True, 1e-3, 0.5, ""),
        (True, 2e-2, 20.0, ""),  # calls this long are not captured in a graph
        (False, 1e-3, 1.0, "with the host's part: not in a CUDA graph"),
    ],
)
def test_row_has_gpu_time_and_call_time(
    capture: bool, call: float, ms: float, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(torch.device("cuda"), torch.float32, tiny=True)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    monkeypatch.setattr(gpu_harness, "measure_seconds", lambda device, run: run() is None or call)
    monkeypatch.setattr(gpu_harness, "measure_graph_replays", lambda work, call, context: ([5e-4] * 3, ""))
    row = run_case(Case("g", "n", lambda c: work(capture=capture)), context, CEILINGS)
    assert (row.status, row.note) == ("ok", note)
    assert (row.ms, row.call_ms) == (pytest.approx(ms), pytest.approx(1e3 * call))
    assert row.tflops == pytest.approx(1e6 / (1e-3 * ms) / 1e12)


def test_inputs_alternate_and_exceed_caches() -> None:
    seen: list[float] = []
    run_case(Case("g", "n", lambda c: work(call=lambda x: seen.append(float(x[0])))), CONTEXT, CEILINGS)
    assert set(seen) == {1.0, 2.0}
    big = torch.empty(50 << 20, dtype=torch.uint8)
    assert len(gpu_harness.rotating_inputs(lambda seed: (big, (big, 3)))) == 3
    assert len(gpu_harness.rotating_inputs(lambda seed: (torch.empty(1),))) == gpu_harness.MAX_COPIES
    assert len(gpu_harness.rotating_inputs(lambda seed: (big,), tiny=True)) == 2


def test_groups_share_the_time_limit() -> None:
    asked: list[tuple[str, float]] = []

    def run(name: str, limit: float) -> dict[str, Any]:
        asked.append((name, limit))
        if name == "attention":
            raise OSError("no such process")
        time.sleep(0.02)
        return {**Results([Row(name, "r", "ok", ms=1.0)]).as_dict(), "seconds": 0.02}

    found = gpu.run_groups(run, ["decoder", "attention", "small"], 50.0)
    assert [row["status"] for row in found["rows"]] == ["ok", "failed", "ok"]
    assert "OSError: no such process" in found["rows"][1]["note"]
    assert [name for name, _ in asked] == ["decoder", "attention", "small"] and asked[2][1] + 0.02 <= asked[0][1] <= 50
    late = gpu.run_groups(run, ["decoder"], 5.0)
    assert late["rows"][0]["note"] == "TimeoutError: no time was left for this group"


def test_process_that_dies_or_hangs_affects_only_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    command = gpu.subprocess.run

    def instead(code: str) -> Any:
        return lambda args, **how: command([args[0], "-c", code, *args[5:]], **how)

    kept = 'import sys; open(sys.argv[2], \'w\').write(\'{"checks": [], "rows": [{"name": "kept"}]}\');'
    monkeypatch.setattr(
        gpu.subprocess, "run", instead(kept + "print('last words'); sys.stdout.flush(); import os; os.abort()")
    )
    died = gpu.run_in_subprocess("small", 30, CEILINGS)
    assert [row["name"] for row in died["rows"]] == ["kept", "the rest"]
    assert "ended with -6: last words" in died["rows"][1]["note"]
    monkeypatch.setattr(gpu.subprocess, "run", instead("import time; time.sleep(60)"))
    hung = gpu.run_in_subprocess("small", 0.5, CEILINGS)
    assert "stopped after" in hung["rows"][0]["note"]


def test_table_has_a_line_for_each_row() -> None:
    rows = [Row("g", "fine", "ok", ms=1.5, floor_ms=0.5, tflops=3.0), Row("g", "bad", "failed", note="why")]
    checks = [Row("g", "right", "ok", error=1e-3, allowed=2e-3), Row("g", "died", "failed", note="of what")]
    lines = table(Results(rows, checks).as_dict()).splitlines()
    assert lines[0].startswith("ok") and "error 0.001, allowed 0.002" in lines[0]
    assert lines[1].startswith("FAILED") and "of what" in lines[1]
    assert "1.5" in lines[4] and "0.5" in lines[4] and "failed: why" in lines[5]


def test_gpu_results_are_ignored_by_cpu_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summarise, "RESULTS", tmp_path)
    (tmp_path / "gpu.json").write_text('{"kind": "gpu", "date": "2030-01-01"}')
    (tmp_path / "cpu.json").write_text('{"date": "2026-01-01"}')
    assert [path.name for path in summarise.saved_results()] == ["cpu.json"]
    assert all(results.get("kind") != "gpu" for results in compare.committed())
