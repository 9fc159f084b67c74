"""Tests the order of PyTorch's calls when a CUDA graph is captured, with success or failure, on stand-ins for them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from fastsam_core.models import cuda_graph
from fastsam_core.models.cuda_graph import record

BEFORE = ["clear workspaces", "side waits for current", "enter side"]
AFTER = ["leave side", "current waits for side", "clear workspaces"]
RECOVERY = ["end pool 7 on 0", "release pool 7 on 0", "begin spare", "zeros", "end spare"]


class Stream:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.priority = log, name, -1

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace PyTorch's functions by stand-ins that log their calls; steps of the first graph in `failing` fail."""
    calls: list[str] = []
    graphs: list[Any] = []

    class Graph:
        failing: tuple[str, ...] = ()

        def __init__(self) -> None:
            self.name = "spare" if graphs else "graph"
            graphs.append(self)

        def step(self, name: str) -> None:
            calls.append(f"{name} {self.name}")
            if name in self.failing and self.name == "graph":
                raise RuntimeError(f"{name} failed")

        def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
            assert capture_error_mode == "thread_local" and not gc.isenabled()
            assert pool == {"graph": (0, 7), "spare": (0, 8)}[self.name]
            self.step("begin")

        def capture_end(self) -> None:
            self.step("end")

        def reset(self) -> None:
            self.step("reset")

    @contextmanager
    def stream(which: Stream) -> Iterator[None]:
        calls.append(f"enter {which.name}")
        try:
            yield
        finally:
            calls.append(f"leave {which.name}")

    def side(priority: int) -> Stream:
        assert priority == -1
        return Stream(calls, "side")

    def end_pool(device: int, pool: Any) -> None:
        calls.append(f"end pool {pool[1]} on {device}")
        if "end pool" in Graph.failing:
            raise RuntimeError("not recording")

    cuda = {
        "CUDAGraph": Graph,
        "Stream": side,
        "stream": stream,
        "graph_pool_handle": lambda: (0, 7 + len(cuda_graph._pools)),
        "memory_snapshot": lambda: [{"segment_pool_id": pool} for pool in ((0, 0), *cuda_graph._pools)],
        "current_device": lambda: 0,
        "current_stream": lambda: Stream(calls, "current"),
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    internal = {
        "_cuda_clearCublasWorkspaces": lambda: calls.append("clear workspaces"),
        "_cuda_endAllocateToPool": end_pool,
        "_cuda_releasePool": lambda device, pool: calls.append(f"release pool {pool[1]} on {device}"),
    }
    for name, value in internal.items():
        monkeypatch.setattr(torch._C, name, value, raising=False)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: calls.append("zeros"))
    monkeypatch.setattr(cuda_graph, "_unfinished_graphs", [])
    monkeypatch.setattr(cuda_graph, "_pools", set())
    return calls


def fail(*steps: str) -> None:
    torch.cuda.CUDAGraph.failing = steps  # type: ignore[attr-defined]


def broken() -> list[str]:
    return [graph.name for graph in cuda_graph._unfinished_graphs]


def test_capture_calls_in_order(log: list[str]) -> None:
    result = torch.ones(2)

    def run() -> Any:
        log.append("run")
        return result

    graph, given = record(run)
    assert given is result and graph.name == "graph"
    assert log == [*BEFORE, "begin graph", "run", "end graph", *AFTER]
    assert gc.isenabled() and not broken()


def test_garbage_collection_stays_disabled_if_it_was(log: list[str]) -> None:
    gc.disable()
    try:
        record(lambda: torch.ones(1))
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_of_the_captured_function_ends_the_capture(log: list[str], error: type[BaseException]) -> None:
    def run() -> Any:
        raise error("of its own")

    with pytest.raises(error, match="of its own"):
        record(run)
    assert log == [*BEFORE, "begin graph", "end graph", "reset graph", *AFTER]
    assert gc.isenabled() and not broken() and not cuda_graph._capture_lock.locked()


def test_error_that_invalidates_the_capture_releases_its_pool(log: list[str]) -> None:
    def run() -> Any:
        raise ValueError("of its own")

    fail("end")
    with pytest.raises(ValueError, match="of its own"):
        record(run)
    assert log == [*BEFORE, "begin graph", "end graph", *RECOVERY, *AFTER]
    assert gc.isenabled() and broken() == ["graph"]


def test_no_capture_if_other_graphs_or_pools_exist(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: [{"segment_pool_id": (3, 0)}])
    with pytest.raises(RuntimeError, match="graphs or memory pools of its own"):
        record(lambda: torch.ones(1))
    assert not log


@pytest.mark.parametrize("step", ["begin", "end"])
def test_failed_capture_releases_its_pool(log: list[str], step: str) -> None:
    fail(step)
    with pytest.raises(RuntimeError, match=f"{step} failed"):
        record(lambda: torch.ones(1))
    steps = {"begin": ["begin graph"], "end": ["begin graph", "end graph"]}[step]
    assert log == [*BEFORE, *steps, *RECOVERY, *AFTER]
    assert gc.isenabled() and broken() == ["graph"]


def test_pool_that_is_already_closed_is_not_released_again(log: list[str]) -> None:
    fail("end", "end pool")
    with pytest.raises(RuntimeError, match="end failed"):
        record(lambda: torch.ones(1))
    assert [line for line in log if "pool" in line] == ["end pool 7 on 0"]
    assert log[-len(AFTER) - 4 :] == ["reset graph", *RECOVERY[2:], *AFTER]
    assert not broken()
