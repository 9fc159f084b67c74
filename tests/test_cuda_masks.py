"""Tests the CUDA kernels of masks and run lengths on the emulator, at the borders of blocks, tiles and column parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cuda_emulation
from fastsam_core import ops
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._masks.cuda import MeasuredMasks, ResamplingAxes, split_measurements
from fastsam_core.ops._native import cpu_module
from siblings import EMULATED, threads_backwards
from test_mask_ops import KINDS, check, logits_of, random_axis

pytestmark = [
    pytest.mark.skipif(bool(cuda_emulation.why_not()), reason=cuda_emulation.why_not() or "available"),
    pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off"),
]

# Rows of pixels in a tile of one column: see csrc/masks/masks_layout.cuh and csrc/rle/rle_tile.cuh.
MASK_TILE, RLE_TILE = 9216 // 4 * 3 * 32, 8192 * 32


@pytest.fixture(params=["forward", "backward"])
def order(request: pytest.FixtureRequest) -> Iterator[str]:
    with threads_backwards() if request.param == "backward" else nullcontext():
        yield str(request.param)


def even_axis(cells: int, size: int) -> tuple[Tensor, Tensor]:
    place = np.arange(size) * max(cells - 1, 1) / size
    share = (place % 1).astype(np.float32)
    weights = np.stack([1 - share, share, np.zeros(size, np.float32)], 1)
    return torch.from_numpy(place.astype(np.int64)), torch.from_numpy(weights)


# --------------------------------------------------------------------------------------------------------- mask_runs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("cells", "size"),
    [
        ((20, 70), (64, 150)),  # three parts, whole words
        ((20, 70), (65, 150)),  # a word of one pixel
        ((3, 2), (40, 700)),  # one part of several tiles
        ((200, 40), (33, 41)),  # more rows of cells under a warp than fit into shared memory
        ((5, 33), (31, 33)),  # a part of one column
        ((20, 256), (40, 300)),  # as many columns of cells as a decoder gives
        ((30, 40), (1100, 50)),  # more bands than a warp has lanes
    ],
)
def test_mask_runs_at_borders_of_parts_and_tiles(
    kind: str, cells: tuple[int, int], size: tuple[int, int], order: str
) -> None:
    random = np.random.RandomState(0)
    axes = *even_axis(cells[0], size[0]), *even_axis(cells[1], size[1])
    check(EMULATED, logits_of(kind, random, 2, *cells), axes)
    # Less than the image's height, so that no run continues in the next column.
    check(EMULATED, logits_of(kind, random, 1, *cells), axes, image_size=(size[0] + 1, size[1] + 3), corner=(2, 1))
    # The image's height, but less than its width.
    check(EMULATED, logits_of(kind, random, 1, *cells), axes, image_size=(size[0], size[1] + 3), corner=(1, 0))


def test_mask_runs_of_columns_taller_than_a_tile() -> None:
    random = np.random.RandomState(1)
    logits = torch.from_numpy(random.choice([-3.0, 0.2, 3.0], (2, 9, 1)).astype(np.float32))
    logits[1] = 5.0  # one run from the first pixel to the last
    check(EMULATED, logits, (*even_axis(9, MASK_TILE + 1), *even_axis(1, 2)))


@pytest.mark.parametrize("cells", range(4, 9))
def test_mask_runs_of_single_rows_of_cells_above_the_threshold(cells: int) -> None:
    """A band of 32 pixels has `cells` cells and reads two or three more, which are looked at eight at a time."""
    first = torch.arange(96) * cells // 31
    weights = torch.tensor([[0.5, 0.25, 0.25]])
    rows = 3 * cells + 4
    logits = torch.full((rows, rows, 2), -4.0)
    logits[range(rows), range(rows)] = 100
    check(EMULATED, logits, (first, weights.expand(96, 3).contiguous(), *even_axis(2, 3)), offset=0.0)


def test_mask_runs_that_end_with_a_band() -> None:
    """Bands are set or clear without a mixed one between them, because no two pixels read the same cell."""
    weights = torch.tensor([[0.5, 0.25, 0.25]]).expand(160, 3).contiguous()
    logits = torch.full((4, 4 * 160, 33), -4.0)
    for i, rows in enumerate((32, 64, 96, 128)):
        logits[i, : 4 * rows] = 4
    axes = torch.arange(160) * 4, weights, *even_axis(33, 200)
    check(EMULATED, logits, axes)
    check(EMULATED, logits.flip(1), (torch.arange(160) * 4 + 1, weights, *even_axis(33, 200)))


def test_mask_runs_of_uniform_bands_beside_mixed_ones(order: str) -> None:
    """Clear, set and mixed bands in all orders; columns with more changes than one thread writes, and with fewer."""
    axes = *even_axis(200, 400), *even_axis(34, 140)
    rows = np.arange(200)[:, None] + np.zeros((1, 34))
    stripes = np.where(rows % 2, 3.0, -3.0)
    masks = [
        np.where(rows < 110, stripes, 5.0),
        np.where(rows < 110, stripes, -5.0),
        np.where((rows < 40) | (rows > 150), 5.0, stripes),
        np.where(rows < 100, 5.0, -5.0),
        np.where((rows > 20) & (rows < 120), -5.0, 5.0),
        np.where(rows < 100, 5000.0, -5000.0),  # too large for the bound on rounding errors
        np.where(np.arange(34) < 33, -5.0, 5.0) + 0 * rows,
        np.where(np.arange(34) < 33, 5.0, -5.0) + 0 * rows,
    ]
    logits = torch.from_numpy(np.stack(masks).astype(np.float32))
    check(EMULATED, logits, axes)
    check(EMULATED, logits, axes, image_size=(401, 143), corner=(2, 1))


def test_mask_runs_of_many_blocks_and_masks() -> None:
    random = np.random.RandomState(2)
    axes = *random_axis(random, 12, 20), *random_axis(random, 70, 20)
    check(EMULATED, logits_of("noise", random, 100, 12, 70), axes)


def test_bad_axes_are_refused() -> None:
    run = ops.siblings("mask_runs")[EMULATED]
    cells, weights = even_axis(40, 60)
    for wrong in (2**62, -(2**62)):
        broken = cells.clone()
        broken[30] = wrong
        with pytest.raises(ValueError, match=r"x_cells must ascend, within 0..39"):
            run(torch.ones(3, 40, 40), cells, weights, broken, weights, 0.0, 1.0, 60, 60)
        with pytest.raises(ValueError, match=r"y_cells must ascend, within 0..39"):
            run(torch.ones(0, 40, 40), broken, weights, cells, weights, 0.0, 1.0, 60, 60)


def test_bad_axes_measure_empty_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, weights = even_axis(40, 60)
    broken = cells.flip(0)
    # Fills new memory with the largest value of its dtype, so that zeros can't be there by accident.
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        module, numbers = cuda_emulation.load(), torch.empty(24, dtype=torch.int64)
        with _native_cuda.use_module(module):
            axes = ResamplingAxes(cells, weights, broken, weights, (40, 40))
            MeasuredMasks(torch.ones(3, 40, 40), axes, 0.0, 1.0, (60, 60, 0, 0), numbers, module, 0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert axes.error.item() == axes.fetch().host_error[0] == module.MASK_BAD_COLUMNS
    lengths, boxes, sizes = split_measurements(numbers)
    assert lengths.tolist() == [1] * 3 and not boxes.any() and not sizes.any()


# ------------------------------------------------------------------------------------------------------- run lengths


def both(op: str, *arguments: Any) -> list[list[Tensor]]:
    results = [ops.siblings(op)[name](*arguments) for name in ("reference", EMULATED)]
    return [list(result) if isinstance(result, tuple) else [result] for result in results]


def same(op: str, *arguments: Any) -> None:
    theirs, ours = both(op, *arguments)
    for a, b in zip(theirs, ours, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
        assert 1 in a.shape or a.stride() == b.stride()


SHAPES = [(3, 32, 64), (2, 33, 65), (1, 1, 200), (2, 200, 1), (1, 257, 129), (40, 2, 3)]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda masks: masks,
    "columns": lambda masks: masks.transpose(1, 2).contiguous().transpose(1, 2),
    "part of a larger one": lambda masks: torch.nn.functional.pad(masks, (1, 2, 3, 4))[:, 3:-4, 1:-2],
    "every other row": lambda masks: masks.repeat_interleave(2, 1)[:, ::2],
    "masks last": lambda masks: masks.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "one mask for all": lambda masks: masks[:1].expand(3, -1, -1),
    "one column for all": lambda masks: masks[:, :, :1].expand(-1, -1, 70),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_rle_encode_of_any_layout(shape: tuple[int, int, int], share: float, layout: str) -> None:
    rng = np.random.default_rng(3)
    masks = torch.from_numpy((rng.random(shape) < share) * rng.integers(1, 256, shape)).to(torch.uint8)
    same("rle_encode", LAYOUTS[layout](masks))


def test_rle_encode_of_more_masks_than_a_block_has_threads(order: str) -> None:
    """The offsets are summed by one block of 256 threads, in several rounds."""
    same("rle_encode", torch.from_numpy(np.random.default_rng(6).random((520, 2, 3)) < 0.5))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rle_operations_equal_reference(shape: tuple[int, int, int], share: float, order: str) -> None:
    masks = torch.from_numpy(np.random.default_rng(4).random(shape) < share)
    counts, offsets = ops.rle_encode(masks)
    for column_major in (False, True):
        same("rle_decode", counts, offsets, *shape[1:], column_major)
    same("rle_area", counts, offsets)
    same("rle_to_bbox", counts, offsets, torch.full((shape[0],), shape[1]))
    few = offsets[:21]
    same("rle_iou", counts, offsets, counts[: few[-1]], few, torch.arange(len(few) - 1) % 3 == 0)


@pytest.mark.parametrize("height", [RLE_TILE, RLE_TILE + 1])
def test_rle_of_masks_taller_than_a_tile(height: int) -> None:
    masks = torch.zeros(1, height, 2, dtype=torch.bool)
    masks[0, 100:-3, 0] = masks[0, -1, 0] = masks[0, :5, 1] = masks[0, RLE_TILE - 1 :, 1] = True
    same("rle_encode", masks)
    same("rle_encode", LAYOUTS["columns"](masks.flip(2)))  # a run crosses from tile to tile in the first column
    counts, offsets = ops.rle_encode(masks)
    for column_major in (False, True):
        same("rle_decode", counts, offsets, height, 2, column_major)


def test_rle_with_empty_runs() -> None:
    counts = torch.tensor([0, 0, 3, 0, 0, 2, 0, 0, 7, 0, 0, 0, 12, 0, 0])
    offsets = torch.tensor([0, 11, 15, 15])
    same("rle_area", counts, offsets)
    same("rle_to_bbox", counts, offsets, torch.tensor([4, 3, 2]))
    for column_major in (False, True):
        same("rle_decode", counts, offsets[:3], 4, 3, column_major)
    same("rle_iou", counts, offsets[:3], counts[11:], torch.tensor([0, 4]), torch.tensor([True]))


def test_rle_of_many_runs() -> None:
    rng = np.random.default_rng(5)
    lists = [rng.integers(0, 4, n) for n in (255, 256, 257, 1000, 3)]
    total = max(int(runs.sum()) for runs in lists) + 5
    lists = [np.append(runs, total - runs.sum()) for runs in lists]
    counts = torch.from_numpy(np.concatenate(lists))
    offsets = torch.from_numpy(np.cumsum([0, *map(len, lists)]))
    same("rle_area", counts, offsets)
    same("rle_to_bbox", counts, offsets, torch.full((5,), 7))
    same("rle_iou", counts, offsets, counts, offsets, torch.zeros(5, dtype=torch.bool))
    same("rle_decode", counts, offsets, 1, total)


LARGE = 2**62 - 1


@pytest.mark.parametrize(
    ("counts", "offsets", "message"),
    [
        ([1, 2], [0, 1], "offsets must rise from 0 to 2"),
        ([1, 2], [1, 2], "offsets must rise from 0 to 2"),
        ([1, 2], [0, 2, 1, 2], "offsets must rise from 0 to 2"),
        ([1, 2], [0, 2**62, 2], "offsets must rise from 0 to 2"),
        ([1, 2], [0, -5, 2], "offsets must rise from 0 to 2"),
        ([1], [0], "offsets must rise from 0 to 1"),
        ([1, -2], [0, 2], "run lengths must be from 0"),
        ([1, LARGE + 1], [0, 2], "run lengths must be from 0"),
        ([1, LARGE], [0, 2], "sum to more than"),
        ([LARGE] * 1000, [0, 1000], "sum to more than"),
    ],
    ids=str,
)
def test_malformed_runs_are_refused(counts: list[int], offsets: list[int], message: str) -> None:
    runs = torch.tensor(counts), torch.tensor(offsets)
    n = len(offsets) - 1
    for op, more in (("rle_area", ()), ("rle_decode", (1, 3)), ("rle_to_bbox", (torch.ones(n, dtype=torch.int64),))):
        with pytest.raises(ValueError, match=message):
            ops.siblings(op)[EMULATED](*runs, *more)
    good = torch.tensor([1, 2]), torch.tensor([0, 2])
    with pytest.raises(ValueError, match=message):
        ops.siblings("rle_iou")[EMULATED](*good, *runs, torch.zeros(n, dtype=torch.bool))


def test_wrong_sizes_are_refused() -> None:
    runs = torch.tensor([1, 2, 1, 2]), torch.tensor([0, 2, 4])
    with pytest.raises(ValueError, match=r"the runs of mask 0 sum to 3, but its size has 4 pixels"):
        ops.siblings("rle_decode")[EMULATED](*runs, 2, 2)
    with pytest.raises(ValueError, match="of height 0"):
        ops.siblings("rle_to_bbox")[EMULATED](*runs, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"same size; got pixel counts \[3, 5\]"):
        ops.siblings("rle_iou")[EMULATED](*runs, torch.tensor([5]), torch.tensor([0, 1]), torch.tensor([False]))
    for height, width in ((2**31, 1), (1, 2**31)):
        with pytest.raises(ValueError, match="2147483583 or more pixels a side"):
            ops.siblings("rle_encode")[EMULATED](torch.zeros(1, 1, 1, dtype=torch.bool).expand(1, height, width))
    logits, weights = torch.zeros(1, 1, 1), torch.tensor([[1.0, 0, 0]])
    cells = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="must have 1 to 2147483583 cells a side"):
        ops.siblings("mask_runs")[EMULATED](logits[:, :0], cells, weights, cells, weights, 0.0, 1.0, 1, 1)
