"""Rank correlation, and bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

NUM_RESAMPLES = 1000


def average_ranks(values: Values) -> Values:
    """Return ranks from 1, (N,). Equal values all get the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Values = (last - (counts - 1) / 2)[group.reshape(-1)]
    return ranks


def spearman(first: Values, second: Values) -> float:
    """Return Spearman's rank correlation of (N,) and (N,), i.e. Pearson's of their `average_ranks`.

    NaN if either is constant.
    """
    ranks = [average_ranks(values) - (len(values) + 1) / 2 for values in (first, second)]
    spread = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / spread if spread else float("nan")


def bootstrap_interval(
    images: Sequence[Values], statistic: Callable[[Values], float] | None, seed: int
) -> tuple[float, float] | None:
    """Return the 95 % interval of a statistic over objects by the bootstrap, or None if there is none.

    Whole images are drawn with replacement, because objects of the same image are not independent. The interval is the
    2.5th to the 97.5th percentile of the statistic over `NUM_RESAMPLES` draws (Efron and Tibshirani, "An Introduction
    to the Bootstrap", 1993). Draws whose statistic is NaN are left out. There is no interval for fewer than two images
    with objects, or if all draws are NaN.

    images: the values of each image's objects, (n,) or (n, k). statistic: function of all values concatenated, (N,) or
    (N, k); None takes the mean of (n,), which is faster. seed: of the draws.
    """
    nonempty = [values for values in images if len(values)]
    if len(nonempty) < 2:
        return None
    rng = np.random.default_rng(seed)
    resamples = (rng.integers(len(nonempty), size=len(nonempty)) for _ in range(NUM_RESAMPLES))
    if statistic is None:
        sums, counts = np.array([values.sum() for values in nonempty]), np.array([len(values) for values in nonempty])
        estimates = np.array([sums[resample].sum() / counts[resample].sum() for resample in resamples])
    else:
        estimates = np.array(
            [statistic(np.concatenate([nonempty[index] for index in resample])) for resample in resamples]
        )
    estimates = estimates[~np.isnan(estimates)]
    if not len(estimates):
        return None
    low, high = np.percentile(estimates, [2.5, 97.5])
    return float(low), float(high)
