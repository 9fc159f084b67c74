"""Rank correlation, and how far a mean may be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 1000


def average_ranks(values: Values) -> Values:
    """Ranks from 1, (N,); equal values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Values = (last - (counts - 1) / 2)[group.reshape(-1)]
    return ranks


def spearman(first: Values, second: Values) -> float:
    """Spearman's rank correlation of (N,) and (N,): Pearson's of their `average_ranks`; NaN if one is constant."""
    ranks = [average_ranks(values) - (len(values) + 1) / 2 for values in (first, second)]
    spread = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / spread if spread else float("nan")


def interval(
    images: Sequence[Values], statistic: Callable[[Values], float] | None, seed: int
) -> tuple[float, float] | None:
    """The 95 % interval of a statistic of objects by the bootstrap, or None for fewer than two images.

    images: the values of each image's objects, (n,) or (n, k). Whole images are drawn with replacement, because the
    objects of one are alike; the interval is the 2.5th to the 97.5th percentile of the statistic over `RESAMPLES`
    draws (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). statistic: of all values together, (N, ...);
    None is the mean of (n,), which is quicker. Draws whose statistic is NaN are left out.
    """
    filled = [values for values in images if len(values)]
    if len(filled) < 2:
        return None
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(filled), size=len(filled)) for _ in range(RESAMPLES))
    if statistic is None:
        sums, counts = np.array([values.sum() for values in filled]), np.array([len(values) for values in filled])
        found = np.array([sums[draw].sum() / counts[draw].sum() for draw in draws])
    else:
        found = np.array([statistic(np.concatenate([filled[index] for index in draw])) for draw in draws])
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
