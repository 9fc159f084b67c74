"""Set operations, crops and shifts of RLE masks on every sibling, against the same on dense arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastsam_core import ops, rle
from siblings import NAMES, each_sibling_of, fewer, use_sibling


@pytest.fixture(params=NAMES)
def sibling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use_sibling(monkeypatch, request.param)
    return str(request.param)


relaxed = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
pairs = st.tuples(st.integers(0, 9), st.integers(0, 9)).flatmap(
    lambda shape: arrays(np.bool_, (2, 3, *shape), fill=st.nothing())
)
near = st.integers(-12, 12)

SETS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "union": (rle.union, np.logical_or),
    "intersection": (rle.intersection, np.logical_and),
    "difference": (rle.difference, lambda a, b: a & ~b),
    "symmetric_difference": (rle.symmetric_difference, np.logical_xor),
}


def window_of(mask: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    reach = 60
    wide = np.pad(mask, reach)
    return wide[reach + y : reach + y + height, reach + x : reach + x + width]


@relaxed
@given(masks=pairs)
def test_set_operations_match_dense_masks(sibling: str, masks: np.ndarray) -> None:
    a, b = rle.from_masks(masks[0]), rle.from_masks(masks[1])
    for ours, dense in SETS.values():
        assert ours(a, b) == rle.from_masks(dense(*masks))
        assert ours(a[0], b[0]) == rle.from_masks(dense(*masks))[0]
    assert rle.complement(a) == rle.from_masks(~masks[0])
    assert rle.complement(rle.complement(b[0])) == b[0]


@relaxed
@given(masks=pairs, window=st.tuples(near, near, st.integers(0, 20), st.integers(0, 20)), data=st.data())
def test_crop_paste_and_translate_match_dense_masks(
    sibling: str, masks: np.ndarray, window: tuple[int, int, int, int], data: st.DataObject
) -> None:
    given_masks = masks[0]
    packed = rle.from_masks(given_masks)
    expected = [window_of(mask, *window) for mask in given_masks]
    assert rle.crop(packed, window) == rle.from_masks(np.stack(expected))
    assert rle.crop(packed[0], window) == rle.from_masks(np.stack(expected))[0]
    several = np.array(data.draw(st.lists(st.tuples(near, near, st.just(4), st.just(3)), min_size=3, max_size=3)))
    expected = [window_of(mask, *one) for mask, one in zip(given_masks, several.tolist(), strict=True)]
    assert rle.crop(packed, several) == rle.from_masks(np.stack(expected))
    assert rle.crop(packed, torch.from_numpy(several)) == rle.from_masks(np.stack(expected))
    runs = [{"size": [3, 4], "counts": counts} for counts in rle.crop_runs(packed, several)]
    np.testing.assert_array_equal(rle.decode(rle.frPyObjects(runs, 3, 4)).transpose(2, 0, 1), np.stack(expected))
    # Pasting and translating move the mask the other way.
    x, y, width, height = window
    expected = [window_of(mask, -x, -y, width, height) for mask in given_masks]
    assert rle.paste(packed, (x, y), (height, width)) == rle.from_masks(np.stack(expected))
    expected = [window_of(mask, -x, -y, mask.shape[1], mask.shape[0]) for mask in given_masks]
    assert rle.translate(packed, (x, y)) == rle.from_masks(np.stack(expected))


def test_paste_of_a_crop_restores_the_mask(sibling: str) -> None:
    masks = np.random.default_rng(0).random((5, 30, 40)) < 0.02
    packed = rle.from_masks(masks)
    boxes = rle.toBbox(packed).astype(int)
    crops = rle.crop(packed, boxes)
    assert [one["size"] for one in crops] == boxes[:, [3, 2]].tolist()
    assert rle.paste(crops, boxes[:, :2], (30, 40)) == packed


def test_counts_keep_the_type_of_the_first_argument(sibling: str) -> None:
    text = rle.from_masks(np.eye(4, dtype=bool)[None])[0]
    data = {**text, "counts": text["counts"].encode()}
    assert isinstance(rle.union(text, data)["counts"], str)
    assert isinstance(rle.union(data, text)["counts"], bytes)
    assert isinstance(rle.crop([data], (0, 0, 2, 2))[0]["counts"], bytes)
    assert rle.union([], []) == rle.crop([], (0, 0, 2, 2)) == rle.complement([]) == []
    assert rle.translate([], (1, 2)) == rle.paste([], (1, 2), (3, 4)) == rle.crop_runs([], (0, 0, 2, 2)) == []
    assert rle.crop([], []) == rle.translate([], []) == rle.paste([], [], (3, 4)) == rle.crop_runs([], []) == []


def test_inner_runs_of_length_zero_are_dropped(sibling: str) -> None:
    packed = rle.frPyObjects({"size": [4, 5], "counts": [3, 0, 2, 4, 0, 2, 9, 0]}, 4, 5)
    plain = rle.encode(rle.decode(packed))
    assert rle.union(packed, packed) == rle.intersection(packed, packed) == rle.crop(packed, (0, 0, 5, 4)) == plain
    assert rle.area(rle.symmetric_difference(packed, plain)) == 0


def test_huge_masks_are_cropped_and_pasted(sibling: str) -> None:
    side = 2**20
    whole = {"size": [side, side], "counts": [side * 5 + 3, 10, side**2 - side * 5 - 13]}
    large = rle.frPyObjects(whole, 0, 0)
    assert rle.area(rle.crop(large, (5, 0, 1, 8))) == 5
    assert rle.crop(rle.paste(rle.crop(large, (5, 3, 1, 10)), (5, 3), (side, side)), (0, 0, side, side)) == large
    assert rle.area(rle.difference(large, large)) == 0


def test_only_the_columns_of_the_window_are_split(sibling: str) -> None:
    width = 2**40
    whole = rle.frPyObjects({"size": [2, width], "counts": [1, 2 * width - 1]}, 0, 0)
    assert rle.area(rle.crop(whole, (-1, 0, 3, 1))) == 1
    assert rle.area(rle.crop(whole, (width - 3, 1, 9, 5))) == 3
    assert rle.area(rle.crop(whole, (-1, 0, width, 2))) == 2 * width - 3
    assert rle.area(rle.crop(whole, (2**60, 0, 2**60, 1))) == rle.area(rle.crop(whole, (-(2**60), 1, 2**60, 2))) == 0
    with pytest.raises(ValueError, match="cut"):
        rle.translate(whole, (0, 1))


@pytest.mark.parametrize("kind", ["blobs", "two parts", "noise", "mixed"])
@each_sibling_of("rle_iou")
def test_iou_matches_dense_masks(sibling: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sibling(monkeypatch, sibling)
    rng = np.random.default_rng(5)
    y, x = np.ogrid[:90, :130]
    masks = np.zeros((13, 90, 130), bool)
    for number, mask in enumerate(masks):
        for _ in range(2 if kind == "two parts" else 1):
            cy, cx, radius = rng.uniform(0, 90), rng.uniform(0, 130), rng.uniform(3, 60)
            mask |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        if kind == "noise" or (kind == "mixed" and number % 2):
            mask &= rng.random((90, 130)) < 0.5
    masks[3] = True
    masks[4] = False
    masks[5] = x % 2 == 0
    packed, crowd = rle.from_masks(masks), rng.random(13) < 0.3
    flat = masks.reshape(13, -1).astype(np.int64)
    shared = flat @ flat.T
    area = flat.sum(1)
    whole = np.where(crowd[None], area[:, None], area[:, None] + area[None] - shared)
    expected = np.divide(shared, whole, out=np.zeros(shared.shape), where=shared > 0)
    assert (rle.iou(packed, packed, crowd) == expected).all()
    assert (rle.iou(packed, list(packed), crowd.tolist()) == expected).all()
    counts, offsets = ops.rle_encode(torch.from_numpy(masks))
    flags = torch.from_numpy(crowd)
    for n in (12, 13):  # pairs of rows are computed together
        runs = counts[: offsets[n]], offsets[: n + 1]
        assert (ops.rle_iou(*runs, *runs, flags[:n]).numpy() == expected[:n, :n]).all()
    assert (ops.rle_iou(counts, offsets, counts.clone(), offsets.clone(), flags).numpy() == expected).all()


@each_sibling_of("rle_iou")
def test_iou_of_every_pair_of_small_masks(sibling: str) -> None:
    """Masks of 3 x 3 pixels have every kind of span: within a column, across columns, and up to their edges."""
    flat = (np.arange(512)[:, None] >> np.arange(9)) & 1
    shared, area = flat @ flat.T, flat.sum(1)
    union = area[:, None] + area[None] - shared
    expected = np.divide(shared, union, out=np.zeros(shared.shape), where=shared > 0)
    counts, offsets = ops.rle_encode(torch.from_numpy(flat.reshape(512, 3, 3)).bool())
    iou, crowd = ops.siblings("rle_iou")[sibling], torch.zeros(512, dtype=torch.bool)
    # One at a time: the height of the columns is guessed from all masks of the first list.
    for mask in range(0, 512, fewer(sibling, 1, 64)):
        begin, end = offsets[mask], offsets[mask + 1]
        found = iou(counts[begin:end], offsets[mask : mask + 2] - begin, counts, offsets, crowd)
        assert (found[0].numpy() == expected[mask]).all()


@each_sibling_of("rle_iou")
def test_iou_of_lists_that_share_memory(sibling: str) -> None:
    iou, no = ops.siblings("rle_iou")[sibling], torch.zeros(3, dtype=torch.bool)
    counts, offsets = torch.tensor([4, 0, 4, 1, 3]), torch.tensor([0, 1, 3, 5])  # nothing, everything, all but a pixel
    first = [[0, 0, 0], [0, 1, 0.75], [0, 0.75, 1]]
    assert iou(counts, offsets, counts, offsets, no).tolist() == first
    assert iou(counts, offsets, counts[:3], offsets[:3], no[:2]).tolist() == [row[:2] for row in first]
    assert iou(counts[:3], offsets[:3], counts, offsets, no).tolist() == first[:2]
    others = torch.tensor([0, 2, 3, 5])  # nothing, nothing, all but a pixel
    assert iou(counts, offsets, counts, others, no).tolist() == [[0, 0, 0], [0, 0, 0.75], [0, 0, 1]]
    nothing = counts[:0], offsets[:1]
    assert iou(*nothing, counts, offsets, no).shape == (0, 3) and iou(counts, offsets, *nothing, no[:0]).shape == (3, 0)


@pytest.mark.parametrize(("dt", "gt"), [([4], [5]), ([4, 5], [4]), ([4, 5], [5]), ([4], [4, 5]), ([], [4, 5])])
@each_sibling_of("rle_iou")
def test_iou_of_masks_of_different_sizes_is_refused(sibling: str, dt: list[int], gt: list[int]) -> None:
    runs = (torch.tensor(dt, dtype=torch.int64), torch.arange(len(dt) + 1))
    others = (torch.tensor(gt), torch.arange(len(gt) + 1), torch.zeros(len(gt), dtype=torch.bool))
    with pytest.raises(ValueError, match="must all have the same size"):
        ops.siblings("rle_iou")[sibling](*runs, *others)


@pytest.mark.parametrize(("height", "width"), [(2**20, 2200), (2**22, 1200)])
@each_sibling_of("rle_iou")
def test_iou_of_columns_whose_pixels_exceed_32_bits(
    sibling: str, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sibling(monkeypatch, sibling)
    runs = [{"size": [height, width], "counts": [above, height - above] * width} for above in (1, 2)]
    first, second = rle.frPyObjects(runs, height, width)
    assert rle.iou([first], [second], [False]) == (height - 2) / (height - 1)
    assert rle.iou([second], [first], [True]) == 1


GOOD = {"size": [4, 5], "counts": b"92203"}
MALFORMED = [
    lambda: rle.union([GOOD], [GOOD, GOOD]),
    lambda: rle.union(GOOD, {"size": [5, 4], "counts": b"92203"}),
    lambda: rle.union(GOOD, {"size": [4, 5], "counts": b"9220"}),
    lambda: rle.complement({"size": [4, 5], "counts": b"9220"}),
    lambda: rle.crop(GOOD, (0, 0, -1, 3)),
    lambda: rle.crop(GOOD, (0, 0, 3)),
    lambda: rle.crop(GOOD, (0.5, 0, 3, 3)),
    lambda: rle.crop([GOOD, GOOD], [[0, 0, 3, 3]] * 3),
    lambda: rle.crop(GOOD, (0, 0, 2**40, 2**40)),
    lambda: rle.crop(GOOD, (-(2**62), 0, 3, 3)),
    lambda: rle.crop(GOOD, (0, 0, 2**61, 0)),
    lambda: rle.crop(GOOD, (2**62, 0, 3, 3)),
    lambda: rle.paste(GOOD, (0, 0), (4,)),
    lambda: rle.paste(GOOD, (0, 0), (-4, 4)),
    lambda: rle.paste(GOOD, (0, 0), (2**40, 2**40)),
    lambda: rle.translate(GOOD, (True, False)),
    lambda: ops.rle_combine(*RUNS, *RUNS, 1),
    lambda: ops.rle_combine(*RUNS, *RUNS, 16),
    lambda: ops.rle_combine(*RUNS, RUNS[0], torch.tensor([0, 1, 2]), 2),
    lambda: ops.rle_combine(*RUNS, RUNS[0].repeat(2), torch.tensor([0, 2, 4]), 2),
    lambda: ops.rle_combine(*RUNS, RUNS[0] + 1, RUNS[1], 2),
    lambda: ops.rle_crop(*RUNS, torch.tensor([3]), torch.tensor([[0, 0, 1, 1]])),
    lambda: ops.rle_crop(*RUNS, torch.tensor([0]), torch.tensor([[0, 0, 1, 1]])),
    lambda: ops.rle_crop(*RUNS, torch.tensor([2, 2]), torch.tensor([[0, 0, 1, 1]])),
    lambda: ops.rle_crop(*RUNS, torch.tensor([2]), torch.tensor([0, 0, 1, 1])),
]
RUNS = torch.tensor([4, 6]), torch.tensor([0, 2])


@pytest.mark.parametrize("call", MALFORMED)
def test_bad_input_raises_value_error(sibling: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):
        call()


def test_single_masks_and_lists_do_not_mix() -> None:
    with pytest.raises(TypeError, match="single"):
        rle.union(GOOD, [GOOD])
    with pytest.raises(TypeError):
        rle.crop("92203", (0, 0, 1, 1))
