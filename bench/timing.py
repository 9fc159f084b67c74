"""Interleaved timing: alternatives run in turns, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from .rows import BY_KEY, MeasuredRow

Callback = Callable[[], Any]


def require_package(package: str) -> None:
    """Skip the benchmark with a message if a peer isn't installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install '.[bench]'")


def interleaved_medians(alternatives: Mapping[str, Callback], rounds: int) -> dict[str, float]:
    """Return the median seconds of each alternative over `rounds` rounds. Each round runs all once; no warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, function in alternatives.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def max_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest absolute difference of two tensors of equal shape."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max())


class RowCollector:
    """Collects the results of a run. quick: at most two rounds per row. full: time all of a peer's work."""

    def __init__(self, quick: bool, full: bool) -> None:
        self.quick = quick
        self.full = full
        self.measured: list[MeasuredRow] = []
        self.stages: dict[str, dict[str, float]] = {}
        self.memory_mb: dict[str, float] = {}
        self.growth: dict[str, dict[str, float]] = {}

    def rounds(self, requested: int) -> int:
        """Return how often each side runs: `requested`, or at most 2 in a quick run."""
        return min(requested, 2) if self.quick else requested

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
        """Print and store a row. seconds: medians of this package and of the peer.

        Raises AssertionError if `difference` exceeds `tolerance`: times are meaningless if the outputs disagree.
        """
        ours, theirs = seconds
        row = MeasuredRow(key, ours, theirs, ours / theirs, rounds, difference, tolerance, difference_of, note)
        print(
            f"\n{BY_KEY[key].work} | {ours:.4g} s | {BY_KEY[key].peer} {theirs:.4g} s | {row.ratio:.3f} x | "
            f"{difference_of} {difference:.2g}"
        )
        assert difference <= tolerance, f"{key}: {difference_of} is {difference:.3g}, tolerated is {tolerance:.3g}"
        self.measured.append(row)

    def as_dict(self) -> dict[str, Any]:
        """Return the part of the results file that this run collected."""
        return {
            "rows": {row.key: row.as_dict() for row in self.measured},
            "stages_s": self.stages,
            "memory_mb": self.memory_mb,
            "growth_s": self.growth,
        }
