"""Removal of small holes and islands from masks, compared with a flood fill of the whole mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsam_core import ops
from siblings import each_sibling, names_of


def regions(mask):
    """Return the 8-connected regions of `mask`, each a list of (row, column), ordered by first pixel."""
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


def first_block(region):
    """Return the index of the first 2 x 2 block with a pixel of the region. OpenCV scans blocks row by row."""
    return min(y // 2 * 1000 + x // 2 for y, x in region)


def cleaned(mask, min_area):
    """Apply the documented rule: fill small background regions, then drop small islands, but never all of them."""
    mask = mask.copy()
    for region in regions(~mask):
        if len(region) < min_area:
            mask[tuple(np.transpose(region))] = True
    islands = regions(mask)
    small = [island for island in islands if len(island) < min_area]
    if islands and len(small) == len(islands):
        small.remove(max(islands, key=lambda island: (len(island), -first_block(island))))
    for island in small:
        mask[tuple(np.transpose(island))] = False
    return mask


def apply(sibling, mask, min_area):
    counts, offsets = ops.rle_encode(torch.from_numpy(mask)[None])
    found, ends, changed = ops.siblings("mask_remove_small_regions")[sibling](counts, offsets, *mask.shape, min_area)
    assert found.dtype == ends.dtype == torch.int64 and changed.dtype == torch.bool
    if not changed:
        assert torch.equal(found, counts)
    result = ops.rle_decode(found, ends, *mask.shape)
    assert torch.equal(found, ops.rle_encode(result)[0])
    return result[0].numpy(), bool(changed)


@each_sibling
@given(
    height=st.integers(1, 16),
    width=st.integers(1, 16),
    margins=st.tuples(*[st.integers(0, 3)] * 4),
    share=st.sampled_from([0.0, 0.15, 0.4, 0.6, 0.85, 1.0]),
    min_area=st.one_of(st.integers(1, 12), st.sampled_from([2.5, 40, 90, 150, 1000])),
    seed=st.integers(0, 10000),
)
@settings(deadline=None, max_examples=200)
def test_matches_flood_fill_of_the_whole_mask(sibling, height, width, margins, share, min_area, seed):
    top, bottom, left, right = margins
    mask = np.pad(np.random.RandomState(seed).rand(height, width) < share, ((top, bottom), (left, right)))
    expected = cleaned(mask, min_area)
    result, changed = apply(sibling, mask, min_area)
    assert (result == expected).all()
    assert changed or (mask == expected).all()


def ring():
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:20] = True
    mask[14:16, 14:16] = False
    mask[25:27, 30:33] = True
    return mask


@each_sibling
@pytest.mark.parametrize(
    ("min_area", "area", "changed"), [(4, 102, False), (5, 106, True), (7, 100, True), (np.nan, 102, False)]
)
def test_hole_and_island_are_removed_below_min_area(sibling, min_area, area, changed):
    result, has_changed = apply(sibling, ring(), min_area)
    assert result.sum() == area
    assert has_changed is changed


@each_sibling
def test_the_largest_island_stays_when_all_are_small(sibling):
    result, changed = apply(sibling, ring()[22:], 50)
    assert changed is True  # as in the reference, whose order of output depends on it
    assert (result == ring()[22:]).all()
    mask = np.zeros((20, 60), bool)
    mask[2:4, 2:4] = mask[10:13, 30:33] = True
    result, changed = apply(sibling, mask, 50)
    assert changed is True
    assert result.sum() == 9
    assert result[10:13, 30:33].all()


@each_sibling
def test_background_outside_the_masks_box_counts_towards_area(sibling):
    # The mask separates the last column, 10 pixels, from the rest of the background.
    mask = np.zeros((10, 101), bool)
    mask[:, 99] = True
    result, _ = apply(sibling, mask, 10)
    assert result.sum() == 10
    result, _ = apply(sibling, mask, 11)
    assert result[:, 99:].all()
    assert result.sum() == 20


@each_sibling
@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 5), (4, 0), (4, 5), (7, 9)])
def test_background_on_all_sides_of_the_mask_is_one_region(sibling, top, left):
    mask = np.zeros((10, 11), bool)
    mask[top : top + 3, left : left + 2] = True
    assert apply(sibling, mask, 104)[0].sum() == 6
    assert apply(sibling, mask, 105)[0].all()


@each_sibling
def test_first_block_decides_between_equally_large_islands(sibling):
    mask = np.zeros((8, 12), bool)
    mask[3, 5] = mask[2, 9] = True  # (2, 9) is met first by rows, (3, 5) by blocks
    result, _ = apply(sibling, mask, 9)
    assert np.argwhere(result).tolist() == [[3, 5]]


@each_sibling
@pytest.mark.parametrize("width", [5, 6])
def test_blocks_are_ordered_by_row_at_even_and_odd_widths(sibling, width):
    mask = np.zeros((4, width), bool)
    mask[0, width - 1] = mask[2, 0] = True
    result, _ = apply(sibling, mask, 2)
    assert np.argwhere(result).tolist() == [[0, width - 1]]


@each_sibling
def test_first_block_counts_not_the_first_column(sibling):
    rows = (
        "...x..",
        "...x.o",
        ".xxx.o",
        ".xxx.o",
        ".xxx.o",
        ".....o",
        "oooooo",
    )
    letters = np.array([list(row) for row in rows])
    assert (letters == "x").sum() == (letters == "o").sum() == 11
    result, _ = apply(sibling, letters != ".", 12)
    assert (result == (letters == "x")).all()


@each_sibling
def test_batch_matches_single_masks_and_may_be_empty(sibling):
    random = np.random.RandomState(0)
    masks = random.rand(300, 20, 60) < random.rand(300, 1, 1)
    run = ops.siblings("mask_remove_small_regions")[sibling]
    found, ends, changed = run(*ops.rle_encode(torch.from_numpy(masks)), 20, 60, 6.0)
    result = ops.rle_decode(found, ends, 20, 60).numpy()
    for i in range(0, 300, 30):
        one, differs = apply(sibling, masks[i], 6)
        assert (result[i] == one).all() and bool(changed[i]) is differs
    found, ends, changed = run(found[:0], ends[:1], 20, 60, 6.0)
    assert (len(found), ends.tolist(), len(changed)) == (0, [0], 0)


@each_sibling
@pytest.mark.parametrize(
    ("counts", "size"), [([3, 0, 0, 6], (3, 3)), ([0, 9, 0], (3, 3)), ([0], (0, 3)), ([0, 0], (3, 0)), ([], (0, 3))]
)
def test_masks_without_small_regions_keep_their_run_lengths(sibling, counts, size):
    runs, offsets = torch.tensor(counts, dtype=torch.int64), torch.tensor([0, len(counts)])
    found, ends, changed = ops.siblings("mask_remove_small_regions")[sibling](runs, offsets, *size, 2.0)
    assert found.tolist() == counts and ends.tolist() == offsets.tolist() and changed.tolist() == [False]


@each_sibling
@pytest.mark.parametrize(
    ("counts", "offsets", "size", "message"),
    [
        ([3, 2], [0, 2], (2, 3), "sum to 5, but its size has 6"),
        ([3, -1, 4], [0, 3], (2, 3), "run lengths must be from 0"),
        ([6], [0, 2], (2, 3), "offsets must rise from 0 to 1"),
        ([6], [1, 1], (2, 3), "offsets must rise from 0 to 1"),
        ([6], [0, 1], (-2, -3), "can't be negative; got -2 x -3"),
        ([6], [0, 1], (2, 2**40), "sum to 6, but its size has 2199023255552"),
        ([6], [0, 1], (2**40, 2**40), "more pixels than the limit"),
    ],
)
def test_malformed_runs_are_refused(sibling, counts, offsets, size, message):
    with pytest.raises(ValueError, match=message):
        ops.siblings("mask_remove_small_regions")[sibling](torch.tensor(counts), torch.tensor(offsets), *size, 2.0)


@pytest.mark.parametrize("sibling", [name for name in names_of("mask_remove_small_regions") if name.startswith("cpu")])
def test_more_columns_than_fit_into_memory_are_refused(sibling):
    with pytest.raises(MemoryError, match="more than this machine has"):
        ops.siblings("mask_remove_small_regions")[sibling](torch.tensor([0]), torch.tensor([0, 1]), 0, 2**50, 2.0)
