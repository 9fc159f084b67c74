"""Two or more ways of doing one thing, timed in turns, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from .rows import BY_KEY, Measured

Work = Callable[[], Any]


def need(package: str) -> None:
    """Skip the benchmark, and say so, where a peer is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install '.[bench]'")


def medians(ways: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Median seconds of each way over `rounds` rounds in which every way runs once, without a warm-up."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def max_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest absolute difference; shapes must agree."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max())


class Rows:
    """The rows of a run. quick: fewer rounds; full: no part of a peer's work is left out."""

    def __init__(self, quick: bool, full: bool) -> None:
        self.quick = quick
        self.full = full
        self.measured: list[Measured] = []
        self.stages: dict[str, dict[str, float]] = {}
        self.memory_mb: dict[str, float] = {}
        self.growth: dict[str, dict[str, float]] = {}

    def rounds(self, wanted: int) -> int:
        """How often each side runs."""
        return min(wanted, 2) if self.quick else wanted

    def add(
        self,
        key: str,
        seconds: tuple[float, float],
        rounds: int,
        *,
        difference: float,
        tolerance: float,
        difference_of: str = "max abs difference of the outputs",
        note: str = "",
    ) -> None:
        """Keep a row and print it. The run fails if the outputs disagree: then the times mean nothing."""
        ours, theirs = seconds
        row = Measured(key, ours, theirs, ours / theirs, rounds, difference, tolerance, difference_of, note)
        print(
            f"\n{BY_KEY[key].work} | {ours:.4g} s | {BY_KEY[key].peer} {theirs:.4g} s | {row.ratio:.3f} x | "
            f"{difference_of} {difference:.2g}"
        )
        assert difference <= tolerance, f"{key}: {difference_of} is {difference:.3g}, tolerated is {tolerance:.3g}"
        self.measured.append(row)

    def as_dict(self) -> dict[str, Any]:
        """What the results file keeps."""
        return {
            "rows": {row.key: row.as_dict() for row in self.measured},
            "stages_s": self.stages,
            "memory_mb": self.memory_mb,
            "growth_s": self.growth,
        }
