"""`Stopwatch`: adds up the time of the phases of a prediction, also on asynchronous devices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Timer that adds up milliseconds per phase, starting from those in `initial`. A nested phase pauses the outer one.

    On a CUDA device, which runs asynchronously, phases begin and end with recorded events, so that the host doesn't
    wait for the device until `speed` is read.
    """

    def __init__(self, initial: Mapping[str, float] | None = None) -> None:
        self._elapsed: dict[str, float] = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0, **(initial or {})}
        self._intervals: list[tuple[str, Any, Any]] = []  # (phase, begin, end), not yet added up
        self._phase: str | None = None
        self._phase_start: Any = None

    @property
    def speed(self) -> dict[str, float]:
        """Milliseconds per phase, counting phases that have ended. Waits for a CUDA device to reach their ends."""
        for phase, begin, end in self._intervals:
            self._elapsed[phase] += _elapsed_ms(begin, end)
        self._intervals.clear()
        return self._elapsed

    @contextmanager
    def phase(self, name: str, device: torch.device) -> Iterator[None]:
        """Time the body of the `with` statement. All phases of a stopwatch must use the same `device`."""
        outer = self._phase
        self._switch(name, device)
        try:
            yield
        finally:
            self._switch(outer, device)

    def _switch(self, name: str | None, device: torch.device) -> None:
        now = _timestamp(device)
        if self._phase is not None:
            self._intervals.append((self._phase, self._phase_start, now))
        self._phase, self._phase_start = name, now


def _timestamp(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _elapsed_ms(begin: Any, end: Any) -> float:
    if isinstance(begin, float):
        return 1000 * (end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end))
