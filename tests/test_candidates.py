"""Tests the candidate masks of segment everything: run lengths use little memory and are freed early."""

from __future__ import annotations

import numpy as np
import pytest

from fastsam_core.everything import candidates


@pytest.mark.parametrize(
    "largest", [[255, 256, 65535, 65536, 2**32 - 1, 2**32, 0, 7], [70000, 65536], [9], []], ids=str
)
def test_counts_are_stored_in_the_smallest_dtype(largest: list[int]) -> None:
    masks = [np.arange(n % 3 + 1)[::-1] % 5 for n in range(len(largest))]
    for mask, most in zip(masks, largest, strict=True):
        mask[-1] = most
    offsets = np.cumsum([0, *map(len, masks)])
    made = candidates.compact_counts(np.concatenate([np.zeros(0, np.int64), *masks]), offsets)
    assert [(mask.dtype, mask.tolist()) for mask in made] == [
        (np.min_scalar_type(int(mask.max())), mask.tolist()) for mask in masks
    ]


@pytest.mark.parametrize("most", [4096, 4097])
def test_few_int32_counts_are_not_copied(most: int) -> None:
    counts = np.full(2 * most, 200, np.int32)
    made = candidates.compact_counts(counts, np.array([0, 5, 2 * most]))
    assert [mask.dtype for mask in made] == [np.uint32 if most == 4096 else np.uint8] * 2
    assert [mask.tolist() for mask in made] == [[200] * 5, [200] * (2 * most - 5)]
    assert [np.shares_memory(mask, counts) for mask in made] == [most == 4096] * 2


def test_taken_candidates_do_not_keep_others_alive() -> None:
    counts = candidates.compact_counts(np.arange(1000), np.array([0, 1, 1000]))
    columns = (np.zeros((2, *shape), dtype) for _, (_, *shape), dtype in candidates._COLUMNS)
    taken = candidates.Candidates(counts, *columns).take(np.array([0])).counts
    assert [mask.tolist() for mask in taken] == [[0]]
    assert [(array.tolist(), array.base) for array in taken.arrays] == [([0], None)]


def test_counts_of_several_arrays_are_joined_and_taken() -> None:
    lists = [[1, 2], [300], [4, 5, 6], [70_000, 8]]
    given = [np.array([1, 2, 300, 4, 5, 6]), np.array([70_000, 8])]
    parts = [
        candidates.compact_counts(given[0], np.array([0, 2, 3, 6])),
        candidates.compact_counts(given[1], np.array([0, 2])),
    ]
    none = candidates.PackedCounts.join([])
    joined = candidates.PackedCounts.join([none, parts[0].take(np.array([2])), *parts, none])
    assert len(joined) == 5 and len(none) == 0
    assert [mask.tolist() for mask in joined] == [lists[2], *lists]
    assert [mask.tolist() for mask in joined.take(np.array([4, 0, 2]))] == [lists[3], lists[2], lists[1]]
