"""Tests of `mask_runs`: every sibling and instruction set gives the bits of a plain dense implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastsam_core import ops
from fastsam_core.postprocess import MaskResizer
from siblings import each_sibling_of, names_of

NAMES = names_of("mask_runs")
each_sibling = each_sibling_of("mask_runs")


def dense(logits, y_cells, y_weights, x_cells, x_weights):
    """Return all pixels (N, H, W) as float32: rows first, then columns, rounding after each operation."""
    full = np.clip(np.where(np.isnan(logits), np.float32(-1e30), logits), np.float32(-1e30), np.float32(1e30))
    for axis, first, weights in ((1, y_cells, y_weights), (2, x_cells, x_weights)):
        full = np.moveaxis(full, axis, -1)
        taps = [full[..., np.minimum(first + k, full.shape[-1] - 1)] * weights[:, k] for k in range(3)]
        full = np.moveaxis((taps[0] + taps[1]) + taps[2], -1, axis)
    return full


def check(sibling, logits, axes, threshold=0.0, offset=1.0, image_size=None, corner=(0, 0)):
    arrays = [array.numpy() for array in axes]
    full = dense(logits.numpy(), *arrays)
    height, width = full.shape[1:]
    left, top = corner
    image_size = image_size or (height, width)
    counts, offsets, boxes, sizes = ops.siblings("mask_runs")[sibling](
        logits, *axes, threshold, offset, *image_size, left, top
    )
    assert all(result.dtype == torch.int64 for result in (counts, offsets, boxes, sizes))
    masks = np.zeros((len(logits), *image_size), bool)
    masks[:, top : top + height, left : left + width] = full > np.float32(threshold)
    expected = ops.siblings("rle_encode")["reference"](torch.from_numpy(masks))
    assert torch.equal(offsets, expected[1])
    assert torch.equal(counts, expected[0])
    levels = (threshold, threshold + offset, threshold - offset)
    assert sizes.tolist() == np.stack([(full > np.float32(level)).sum((1, 2)) for level in levels], 1).tolist()
    for mask, box in zip(full > np.float32(threshold), boxes.tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        outer = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0, 0, 0, 0]
        assert box == outer


def random_axis(random, cells, size):
    """Return a random valid axis: cells may be skipped or repeated, and weights may be zero."""
    first = np.sort(random.randint(0, cells, size, np.int64))
    weights = random.rand(size, 3) * (random.rand(size, 3) < 0.8)
    weights[weights.sum(1) == 0] = 1
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return torch.from_numpy(first), torch.from_numpy(weights)


KINDS = ("blotches", "noise", "checkerboard", "steps", "full", "empty")


def logits_of(kind, random, n, rows, columns):
    y, x = np.mgrid[0:rows, 0:columns]
    values = {
        "blotches": lambda: 6 * np.sin(y / 5 + random.rand() * 9) * np.cos(x / 7 + random.rand() * 9),
        "noise": lambda: random.randn(rows, columns),
        "checkerboard": lambda: np.where((y + x) % 2, 3.0, -3.0),
        "steps": lambda: np.where(y // 9 % 2, 20.0, -20.0) * np.where(x > columns // 2, 1, -1),
        "full": lambda: np.full((rows, columns), 4.0),
        "empty": lambda: np.full((rows, columns), -4.0),
    }
    return torch.from_numpy(np.stack([values[kind]() for _ in range(n)]).astype(np.float32))


@each_sibling
@given(
    kind=st.sampled_from(KINDS),
    cells=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 140), st.integers(1, 60)),
    margins=st.tuples(*[st.integers(0, 3)] * 4),
    threshold=st.sampled_from([0.0, 0.0, -1.5, 2.25]),
    offset=st.sampled_from([1.0, 0.0, 3.0]),
    seed=st.integers(0, 10000),
)
@example("full", (5, 5), (64, 9), (0, 0, 0, 0), 0.0, 1.0, 0)
@example("steps", (40, 3), (140, 3), (0, 0, 0, 0), 0.0, 1.0, 0)
@example("noise", (1, 1), (1, 1), (1, 2, 3, 0), 0.0, 1.0, 0)
@example("noise", (3, 3), (40, 9), (0, 0, 0, 0), 0.0, 1.0, 0)
@example("noise", (300, 3), (140, 3), (0, 0, 0, 0), 0.0, 1.0, 0)
@settings(deadline=None, max_examples=60)
def test_random_axes_anywhere_in_an_image(sibling, kind, cells, size, margins, threshold, offset, seed):
    random = np.random.RandomState(seed)
    axes = *random_axis(random, cells[0], size[0]), *random_axis(random, cells[1], size[1])
    top, bottom, left, right = margins
    image_size = top + size[0] + bottom, left + size[1] + right
    check(sibling, logits_of(kind, random, 2, *cells), axes, threshold, offset, image_size, (left, top))


@each_sibling
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("input_hw", "original_hw"),
    [
        ((171, 256), (401, 601)),
        ((256, 171), (97, 33)),
        ((3, 256), (9, 700)),
        ((256, 256), (1, 1)),
        ((256, 2), (130, 1)),
    ],
)
def test_axes_that_enlarge_and_shrink(sibling, kind, input_hw, original_hw):
    resizer = MaskResizer(input_hw, original_hw, 256)
    axes = [tensor for axis in resizer._axes for tensor in axis]
    check(sibling, logits_of(kind, np.random.RandomState(0), 3, 64, 64), axes)


@each_sibling
@pytest.mark.parametrize("apart", [5, 6, 7])
def test_eight_pixels_that_read_just_so_many_cells_as_a_register_holds(sibling, apart):
    """Eight pixels read `apart` + 3 cells; up to eight of them are shuffled in one register."""
    random = np.random.RandomState(apart)
    y = torch.arange(56) * apart // 7, random_axis(random, 1, 56)[1]
    check(sibling, logits_of("noise", random, 2, 8 * apart + 1, 30), (*y, *random_axis(random, 30, 20)))


@each_sibling
def test_infinite_and_nan_logits(sibling):
    logits = logits_of("blotches", np.random.RandomState(1), 6, 16, 16)
    for one, value in zip(logits, (torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 0.0), strict=True):
        one[3, 8] = one[15, 15] = value
    resizer = MaskResizer((64, 60), (77, 72), 64)
    axes = [tensor for axis in resizer._axes for tensor in axis]
    check(sibling, logits, axes)
    check(sibling, torch.full((1, 16, 16), torch.nan), axes)
    check(sibling, torch.full((1, 16, 16), torch.inf), axes)


@each_sibling
def test_infinite_and_nan_thresholds(sibling):
    axes = [tensor for axis in MaskResizer((64, 60), (77, 72), 64)._axes for tensor in axis]
    logits = logits_of("blotches", np.random.RandomState(2), 2, 16, 16)
    for threshold, offset in ((torch.inf, 1.0), (-torch.inf, 1.0), (0.0, torch.inf), (torch.nan, 1.0)):
        check(sibling, logits, axes, threshold, offset)


@each_sibling
@pytest.mark.parametrize("threshold", [1e5, -1e5])
def test_thresholds_so_large_that_rounding_decides(sibling, threshold):
    """Cells just within the threshold give pixels beyond it, because the weights sum to slightly more than 1."""
    weights = torch.tensor([[1 + 9e-7, 0, 0]])
    axes = []
    for cells, size in ((20, 80), (40, 160)):
        axes += [torch.arange(size) * cells // size, weights.expand(size, 3).contiguous()]
    logits = torch.full((2, 20, 40), threshold * (1 - 2e-7))
    logits[1, ::2, ::3] = 0
    check(sibling, logits, axes, threshold, offset=0.0)


@each_sibling
def test_pixels_on_the_threshold_are_not_set(sibling):
    axes = [tensor for axis in MaskResizer((64, 60), (77, 72), 64)._axes for tensor in axis]
    for value in (0.0, -0.0, 1.0, -1.0, 1e-7, -1e-7):
        check(sibling, torch.full((1, 16, 16), value), axes)


@each_sibling
def test_zero_masks_and_strided_logits(sibling):
    axes = [tensor for axis in MaskResizer((64, 60), (77, 72), 64)._axes for tensor in axis]
    counts, offsets, boxes, sizes = ops.siblings("mask_runs")[sibling](torch.zeros(0, 16, 16), *axes, 0.0, 1.0, 77, 72)
    assert (counts.tolist(), offsets.tolist(), boxes.shape, sizes.shape) == ([], [0], (0, 4), (0, 3))
    storage = torch.randn(16, 16, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    check(sibling, storage.permute(2, 1, 0).detach(), axes)
    run = ops.siblings("mask_runs")[sibling]
    assert not run(storage.permute(2, 1, 0), *axes, 0.0, 1.0, 77, 72)[0].requires_grad


LOGITS = torch.zeros(1, 4, 5)
CELLS, WEIGHTS = torch.tensor([0, 1, 3]), torch.tensor([[0.5, 0.25, 0.25]] * 3)


@each_sibling
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(4, 5)}, r"\(N, h, w\) of torch.float32; got \(4, 5\)"),
        ({"logits": LOGITS.double()}, "torch.float64"),
        ({"y_cells": CELLS.int()}, "y_cells must be a 1-D tensor of torch.int64"),
        ({"y_cells": CELLS[:2]}, r"y_weights must be \(2, 3\)"),
        ({"x_weights": WEIGHTS.double()}, r"x_weights must be \(3, 3\) of torch.float32"),
        ({"x_cells": CELLS[:0], "x_weights": WEIGHTS[:0]}, "at least"),
        ({"y_cells": torch.tensor([0, 1, 4])}, r"y_cells must ascend, within 0..3"),
        ({"y_cells": torch.tensor([1, 0, 2])}, "y_cells must ascend"),
        ({"y_cells": torch.tensor([-1, 0, 2])}, "y_cells must ascend"),
        ({"y_cells": torch.tensor([0, 1, -(2**63)])}, "y_cells must ascend"),
        ({"x_weights": WEIGHTS * 2}, "x_weights must not be negative, and sum to 1"),
        ({"y_weights": WEIGHTS * 1.00001}, "y_weights must not be negative, and sum to 1"),
        ({"x_weights": WEIGHTS * torch.tensor([-1.0, 3, 3])}, "x_weights must not be negative"),
        ({"x_weights": WEIGHTS * torch.nan}, "x_weights must not be negative"),
        ({"offset": -1.0}, "offset must be 0 or more, got -1"),
        ({"offset": torch.nan}, "offset must be 0 or more, got nan"),
        ({"height": 2}, "must lie within the image"),
        ({"left": 1}, "must lie within the image"),
        ({"top": -1}, "must lie within the image"),
        ({"height": -5}, "can't be negative"),
        ({"height": 2**62, "width": 2**62}, "more pixels than the limit"),
    ],
)
def test_invalid_arguments_are_refused(sibling, change, message):
    arguments = {
        "logits": LOGITS,
        "y_cells": CELLS,
        "y_weights": WEIGHTS,
        "x_cells": CELLS,
        "x_weights": WEIGHTS,
        "threshold": 0.0,
        "offset": 1.0,
        "height": 3,
        "width": 3,
        "left": 0,
        "top": 0,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        ops.siblings("mask_runs")[sibling](**arguments)
