"""Stopwatch: time per phase, with nested phases and without synchronising the GPU until times are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastsam_core import stopwatch
from fastsam_core.stopwatch import Stopwatch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace time.perf_counter by a clock that a test sets, in seconds."""
    now = [10.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_nested_phase_pauses_the_outer_phase(clock: list[float]) -> None:
    watch = Stopwatch({"inference": 0.5})
    with watch.phase("postprocess", CPU):
        clock[0] += 1
        with watch.phase("inference", CPU):
            clock[0] += 2
        clock[0] += 4
    clock[0] += 8
    with pytest.raises(KeyError), watch.phase("preprocess", CPU):
        clock[0] += 16
        raise KeyError
    for _ in range(2):
        assert watch.speed == {"preprocess": 16_000, "inference": 2000.5, "postprocess": 5000}


def test_gpu_is_synchronised_only_when_times_are_read(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    waits = 0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: Any) -> None:
            assert stream == ("stream of", CUDA)
            self.at = clock[0]

        def synchronize(self) -> None:
            nonlocal waits
            waits += 1

        def elapsed_time(self, end: Event) -> float:
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ("stream of", device))
    watch = Stopwatch()
    with watch.phase("postprocess", CUDA):
        clock[0] += 1
        with watch.phase("inference", CUDA):
            clock[0] += 2
    assert waits == 0
    assert watch.speed == {"preprocess": 0, "inference": 2000, "postprocess": 1000}
    assert waits > 0
