"""Holes and islands, against a search over the whole picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsam_core.everything.small_regions import remove_small_regions
from fastsam_core.runs import MaskRuns


def regions(mask):
    """The 8-connected regions of `mask`, each a list of (row, column), by their first pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    for seed in sorted(left):
        if seed not in left:
            continue
        left.discard(seed)
        region, todo = [], [seed]
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(region)
    return found


def cleaned(mask, min_area):
    """The rule, as it is said: fill small background regions, then drop small islands, but not all of them."""
    mask = mask.copy()
    for region in regions(~mask):
        if len(region) < min_area:
            mask[tuple(np.transpose(region))] = True
    islands = regions(mask)
    small = [island for island in islands if len(island) < min_area]
    if islands and len(small) == len(islands):
        small.remove(max(islands, key=len))
    for island in small:
        mask[tuple(np.transpose(island))] = False
    return mask


def apply(mask, min_area):
    height, width = mask.shape
    runs = MaskRuns.from_mask(mask)
    result, changed = remove_small_regions(runs, mask.shape, min_area)
    if not changed:
        assert result is runs
    return result.paint(0, 0, width, height), changed


@given(
    height=st.integers(1, 16),
    width=st.integers(1, 16),
    margins=st.tuples(*[st.integers(0, 3)] * 4),
    share=st.sampled_from([0.0, 0.15, 0.4, 0.6, 0.85, 1.0]),
    min_area=st.one_of(st.integers(1, 12), st.sampled_from([2.5, 40, 90, 150, 1000])),
    seed=st.integers(0, 10000),
)
@settings(deadline=None, max_examples=200)
def test_same_as_a_search_over_the_whole_picture(height, width, margins, share, min_area, seed):
    top, bottom, left, right = margins
    mask = np.pad(np.random.RandomState(seed).rand(height, width) < share, ((top, bottom), (left, right)))
    expected = cleaned(mask, min_area)
    result, changed = apply(mask, min_area)
    assert (result == expected).all()
    assert changed or (mask == expected).all()


def ring():
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:20] = True
    mask[14:16, 14:16] = False
    mask[25:27, 30:33] = True
    return mask


@pytest.mark.parametrize(("min_area", "area", "changed"), [(4, 102, False), (5, 106, True), (7, 100, True)])
def test_a_ring_and_a_speck(min_area, area, changed):
    result, has_changed = apply(ring(), min_area)
    assert result.sum() == area
    assert has_changed is changed


def test_the_largest_island_stays_when_all_are_small():
    result, changed = apply(ring()[22:], 50)
    assert changed is True  # as in the reference, whose order of output depends on it
    assert (result == ring()[22:]).all()
    mask = np.zeros((20, 60), bool)
    mask[2:4, 2:4] = mask[10:13, 30:33] = True
    result, changed = apply(mask, 50)
    assert changed is True
    assert result.sum() == 9
    assert result[10:13, 30:33].all()


def test_the_background_beyond_the_mask_counts_with_its_whole_size():
    # The mask cuts off the last column, 10 pixels, and leaves 990 elsewhere.
    mask = np.zeros((10, 101), bool)
    mask[:, 99] = True
    result, _ = apply(mask, 10)
    assert result.sum() == 10
    result, _ = apply(mask, 11)
    assert result[:, 99:].all()
    assert result.sum() == 20
