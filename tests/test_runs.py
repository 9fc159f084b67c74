"""`MaskRuns`, masks as runs in columns, against pycocotools and dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from fastsam_core.runs import MaskRuns, encode_counts


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return np.random.RandomState(draw(st.integers(0, 2**31))).rand(height, width) < share


def _coco(mask):
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


@given(masks())
@settings(deadline=None)
def test_runs_match_the_mask_and_pycocotools(mask):
    height, width = mask.shape
    runs = MaskRuns.from_mask(mask)
    counts = runs.counts(height, width)

    assert (runs.paint(0, 0, width, height) == mask).all()
    assert runs.area() == mask.sum()
    assert encode_counts([counts], height, width) == [{"size": [height, width], "counts": _coco(mask)}]
    again = MaskRuns.from_counts(counts, height)
    for name in ("columns", "tops", "bottoms"):
        np.testing.assert_array_equal(getattr(again, name), getattr(runs, name))
        assert getattr(runs, name).dtype == np.int64
    if mask.any():
        rows, columns = np.nonzero(mask)
        assert runs.box() == (columns.min(), rows.min(), columns.max(), rows.max())
    else:
        assert runs.box() == (0, 0, 0, 0)


@given(masks(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
@settings(deadline=None)
def test_counts_of_a_mask_placed_in_a_larger_image(mask, left, top, right, bottom):
    image = np.pad(mask, ((top, bottom), (left, right)))
    counts = MaskRuns.from_mask(mask).counts(*image.shape, left, top)
    np.testing.assert_array_equal(counts, MaskRuns.from_mask(image).counts(*image.shape))
    moved = MaskRuns.from_mask(mask, left, top)
    np.testing.assert_array_equal(moved.counts(*image.shape), counts)


def test_paint_returns_a_window_of_the_image():
    mask = np.zeros((9, 8), bool)
    mask[2:5, 3:6] = [[1, 0, 1], [1, 1, 1], [0, 1, 0]]
    assert (MaskRuns.from_mask(mask).paint(2, 1, 7, 6) == mask[1:6, 2:7]).all()


def test_join_puts_columns_side_by_side():
    mask = np.random.RandomState(0).rand(6, 9) < 0.5
    parts = [MaskRuns.from_mask(mask[:, :4]), MaskRuns.from_mask(mask[:, 4:], left=4)]
    assert (MaskRuns.join(parts).paint(0, 0, 9, 6) == mask).all()
    assert MaskRuns.join([]).area() == 0


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((10, 10), np.uint8), ((200, 300), np.uint16), ((300, 300), np.uint32), ((70000, 70000), np.uint64)],
)
def test_counts_use_the_smallest_dtype_that_fits(size, dtype):
    counts = MaskRuns.join([]).counts(*size)
    assert counts.dtype == dtype
    assert counts.tolist() == [size[0] * size[1]]


def test_encoding_many_masks_in_groups_keeps_their_order(monkeypatch):
    monkeypatch.setattr("fastsam_core.runs._COUNTS_PER_ENCODE", 50)
    random = np.random.RandomState(1)
    images = [random.rand(11, 7) < random.rand() for _ in range(40)]
    counts = [MaskRuns.from_mask(mask).counts(11, 7) for mask in images]
    assert [rle["counts"] for rle in encode_counts(counts, 11, 7)] == [_coco(mask) for mask in images]
    assert encode_counts([], 11, 7) == []
