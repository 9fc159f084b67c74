"""`fastsam_core.rle` on every sibling has the same bytes, values, dtypes and shapes as `pycocotools.mask`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from fastsam_core import ops, rle
from siblings import names_of, use_sibling

NAMES = names_of("rle_encode")


@pytest.fixture(params=NAMES)
def sibling(request, monkeypatch):
    use_sibling(monkeypatch, request.param)
    return request.param


# The fixture `sibling` applies to a whole test, so hypothesis need not reset it for every example.
relaxed = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
sides = st.integers(1, 12)
bits = st.integers(0, 1)
# Without `fill`, hypothesis would set most pixels to one value.
masks = st.tuples(sides, sides, st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=bits, fill=st.nothing())
)


def disc(size=200, radius=70):
    y, x = np.ogrid[:size, :size]
    return ((y - size // 2) ** 2 + (x - size // 3) ** 2 < radius**2).astype(np.uint8)


def same_array(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours == theirs).all()


# ------------------------------------------------------------------------------------------------- equal to pycocotools


@relaxed
@given(mask=masks)
@example(mask=np.ones((1, 1, 1), np.uint8))
@example(mask=np.zeros((5, 7, 2), np.uint8))
@example(mask=np.stack([disc(), 1 - disc()], -1))
def test_encode_and_decode_match_pycocotools(sibling, mask):
    column_major = np.asfortranarray(mask)
    theirs = coco.encode(column_major)
    for layout in (column_major, np.ascontiguousarray(mask), mask.astype(bool), mask * 255, mask[::-1][::-1]):
        assert rle.encode(layout) == theirs
    assert rle.encode(column_major[:, :, 0]) == theirs[0]
    decoded = rle.decode(theirs)
    same_array(decoded, coco.decode(theirs))
    assert decoded.flags.f_contiguous
    single = rle.decode(theirs[0])
    same_array(single, coco.decode(theirs[0]))
    assert single.flags.f_contiguous
    text = [{"size": r["size"], "counts": r["counts"].decode()} for r in theirs]
    same_array(rle.decode(text), decoded)


@relaxed
@given(mask=masks)
def test_area_and_bbox_match_pycocotools(sibling, mask):
    encoded = coco.encode(np.asfortranarray(mask))
    same_array(rle.area(encoded), coco.area(encoded))
    same_array(rle.toBbox(encoded), coco.toBbox(encoded))
    assert rle.area(encoded[0]) == coco.area(encoded[0]) and isinstance(rle.area(encoded[0]), np.uint32)
    same_array(rle.toBbox(encoded[0]), coco.toBbox(encoded[0]))


@relaxed
@given(mask=masks)
def test_area_and_bbox_of_run_lengths_match_pycocotools(sibling, mask):
    encoded = coco.encode(np.asfortranarray(mask))
    runs = ops.rle_encode(torch.from_numpy(mask).permute(2, 0, 1))
    assert ops.rle_area(*runs).tolist() == coco.area(encoded).tolist()
    heights = torch.full((mask.shape[2],), mask.shape[0])
    assert ops.rle_to_bbox(*runs, heights).tolist() == coco.toBbox(encoded).tolist()


@relaxed
@given(shape=st.tuples(sides, sides), data=st.data())
def test_iou_and_merge_match_pycocotools(sibling, shape, data):
    pairs = [data.draw(arrays(np.uint8, (*shape, 3), elements=bits, fill=st.nothing())) for _ in range(2)]
    dt, gt = (coco.encode(np.asfortranarray(mask)) for mask in pairs)
    for crowd in ([0, 0, 0], [1, 0, 1], np.array([1, 1, 0], np.uint8), [True, False, False]):
        same_array(rle.iou(dt, gt, crowd), coco.iou(dt, gt, crowd))
    for intersect in (0, 1):
        assert rle.merge(dt + gt, intersect) == coco.merge(dt + gt, intersect)
        assert rle.merge(dt[:1], intersect) == coco.merge(dt[:1], intersect)


@pytest.mark.parametrize(
    "crowd",
    [
        (False, 7),
        [0.0, 0.5],
        np.array([0, 256]),
        np.array([0.0, 0.5]),
        np.array([0, 128], np.uint8),
        np.array([0, -128], np.int8),
        np.array([0, 9, 1], np.uint8)[::2],
        torch.tensor([False, True]),
    ],
    ids=repr,
)
def test_iou_takes_flags_of_any_type_and_layout(sibling, crowd):
    large, small = np.ones((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    small[:2] = 1
    assert rle.iou([rle.encode(small)], [rle.encode(large)] * 2, crowd).tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize(
    "crowd",
    [[0], (0, 1, 1), np.zeros(1, np.uint8), np.zeros(3, bool), np.zeros((2, 1), np.uint8), np.zeros(3)],
    ids=str,
)
def test_another_number_of_flags_raises_value_error(sibling, crowd):
    mask = rle.encode(np.ones((4, 6), np.uint8))
    with pytest.raises(ValueError, match="iscrowd must hold one flag per gt, 2"):
        rle.iou([mask], [mask, mask], crowd)


coordinates = st.one_of(
    st.integers(-15, 40).map(float),
    st.integers(-60, 160).map(lambda v: v / 4),
    st.floats(-15, 40, allow_nan=False, width=32),
)
box_arrays = arrays(np.float64, st.tuples(st.integers(1, 4), st.just(4)), elements=coordinates)
polygon_lists = st.lists(coordinates, min_size=6, max_size=16).map(lambda values: values[: len(values) // 2 * 2])


@relaxed
@given(polygons=st.lists(polygon_lists, min_size=1, max_size=3), height=sides, width=sides)
@example(polygons=[[1.0, 1, 3, 1, 3, 3], [0.0, 0, 40, 40]], height=9, width=9)  # the second is a line
@example(polygons=[[-5.0, -5, 30, -5, 30, 30, -5, 30]], height=7, width=8)  # all of the mask
def test_polygons_match_pycocotools(sibling, polygons, height, width):
    assert rle.frPyObjects(polygons, height, width) == coco.frPyObjects(polygons, height, width)
    if len(polygons[0]) > 4:
        assert rle.frPyObjects(polygons[0], height, width) == coco.frPyObjects(polygons[:1], height, width)[0]


@pytest.mark.parametrize("vertices", [3, 5])
def test_polygons_of_tenths_of_a_pixel_match_pycocotools(sibling, vertices):
    """Vertices at and beside all points at which COCO rounds: a fifth of a pixel is two of their steps."""
    polygons = np.random.default_rng(vertices).integers(-12, 45, (1000, 2 * vertices)) / 10
    assert rle.frPyObjects(list(polygons), 3, 4) == coco.frPyObjects(list(polygons), 3, 4)


@relaxed
@given(boxes=box_arrays, height=sides, width=sides)
def test_boxes_as_masks_match_pycocotools(sibling, boxes, height, width):
    theirs = coco.frPyObjects(boxes, height, width)
    assert rle.frPyObjects(boxes, height, width) == theirs
    assert rle.frPyObjects(boxes, float(height), np.float64(width)) == theirs
    assert rle.frPyObjects(boxes.tolist(), height, width) == theirs
    assert rle.frPyObjects(boxes[0].tolist(), height, width) == theirs[0]


@relaxed
@given(dt=box_arrays, gt=box_arrays)
def test_iou_of_boxes_matches_pycocotools(dt, gt):
    for crowd in ([0] * len(gt), [1] * len(gt)):
        theirs = coco.iou(dt, gt, crowd)
        same_array(rle.iou(dt, gt, crowd), theirs)
        same_array(rle.iou(dt.tolist(), gt, crowd), theirs)


def test_iou_of_boxes_smaller_than_a_pixel():
    dt, gt = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.25, 9]]), np.array([[0.25, 0.125, 0.5, 0.5]])
    same_array(rle.iou(dt, gt, [0]), coco.iou(dt, gt, [0]))
    assert rle.iou(dt, gt, [0])[0, 0] > 0.2


@relaxed
@given(mask=masks)
def test_uncompressed_runs_match_pycocotools(sibling, mask):
    flat = mask[:, :, 0].ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    raw = {"size": list(mask.shape[:2]), "counts": counts}
    assert rle.frPyObjects(raw, *mask.shape[:2]) == coco.frPyObjects(raw, *mask.shape[:2])
    assert rle.frPyObjects([raw, raw], *mask.shape[:2]) == coco.frPyObjects([raw, raw], *mask.shape[:2])
    assert rle.frPyObjects({**raw, "counts": np.array(counts)}, 1, 1) == rle.encode(mask[:, :, 0])
    # Input that is already compressed is validated and returned.
    compressed = coco.encode(np.asfortranarray(mask[:, :, 0]))
    assert rle.frPyObjects([compressed], 1, 1) == [compressed]


def test_inner_runs_of_length_zero_are_kept(sibling):
    raw = {"size": [4, 5], "counts": [3, 0, 2, 4, 0, 2, 9, 0]}
    packed = rle.frPyObjects(raw, 4, 5)
    assert packed == coco.frPyObjects(raw, 4, 5)
    same_array(rle.decode(packed), coco.decode(packed))
    assert rle.area(packed) == 6
    assert rle.toBbox(packed).tolist() == [1, 0, 2, 4]
    assert rle.toBbox(rle.frPyObjects({"size": [2, 2], "counts": [0, 0, 4]}, 2, 2)).tolist() == [0, 0, 0, 0]
    assert rle.merge([packed]) == coco.merge([packed])
    assert rle.merge([packed, packed]) == rle.encode(rle.decode(packed))
    assert rle.iou([packed], [packed], [0]).tolist() == [[1.0]]


def test_empty_lists_give_empty_results(sibling):
    assert rle.decode([]).shape == (0, 0, 0)
    assert rle.area([]).dtype == np.uint32 and rle.area([]).shape == (0,)
    assert rle.toBbox([]).dtype == np.float64 and rle.toBbox([]).shape == (0, 4)
    assert rle.iou([], [], []) == [] and rle.iou([], [rle.encode(disc())], [0]) == []
    assert rle.iou(np.zeros((0, 4)), np.zeros((2, 4)), [0, 0]) == []
    assert rle.merge([]) == {"size": [0, 0], "counts": b""} == coco.merge([])
    assert rle.encode(np.zeros((3, 4, 0), np.uint8)) == []
    assert rle.frPyObjects(np.zeros((0, 4)), 3, 3) == []


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_masks_without_pixels(sibling, shape):
    mask = np.zeros(shape, np.uint8, order="F")
    packed = rle.encode(mask)
    assert packed == coco.encode(mask) == {"size": list(shape), "counts": b"0"}
    for counts in (b"0", "", b"00"):
        empty = {"size": list(shape), "counts": counts}
        assert rle.decode(empty).shape == shape and rle.decode([empty]).shape == (*shape, 1)
        assert rle.area(empty) == 0
        assert rle.toBbox(empty).tolist() == [0, 0, 0, 0]
        assert rle.iou([empty], [empty], [0]).tolist() == [[0.0]]
        assert rle.merge([empty, empty])["size"] == list(shape)
        assert rle.to_masks([empty]).shape == (1, *shape)
    assert rle.frPyObjects([[0.0, 0, 3, 0, 3, 3]], *shape) == [packed]


def test_huge_masks_are_measured_and_decoding_raises_memory_error(sibling):
    side = 2**20
    counts = [side * 5 + 3, 10, side**2 - side * 5 - 13]
    large = rle.frPyObjects({"size": [side, side], "counts": counts}, side, side)
    assert rle.area(large) == 10
    assert rle.toBbox(large).tolist() == [5, 3, 1, 10]
    assert rle.iou([large], [large], [0]).tolist() == [[1.0]]
    assert rle.merge([large, large], True) == large
    full = rle.frPyObjects({"size": [side, side], "counts": [0, side**2]}, side, side)
    assert rle.area(full) == side**2 and rle.area([full]).dtype == np.uint64
    assert rle.toBbox(full).tolist() == [0, 0, side, side]
    assert rle.merge([large, full]) == full
    for function in (rle.decode, lambda r: rle.to_masks([r])):
        with pytest.raises(MemoryError, match="more than this machine has"):
            function(full)


def test_masks_just_below_2_to_62_pixels(sibling):
    height = 2**31
    pixels = height * (height - 1)  # just below 2^62
    raw = {"size": [height, height - 1], "counts": [0, pixels - 1, 0, 1]}
    packed = rle.frPyObjects(raw, 0, 0)
    assert rle.area(packed) == pixels
    assert rle.merge([packed, packed]) == rle.frPyObjects({**raw, "counts": [0, pixels]}, 0, 0)
    with pytest.raises(ValueError, match="more pixels"):
        rle.area({"size": [height, height], "counts": packed["counts"]})
    largest = rle.frPyObjects({"size": [1, 2**62 - 1], "counts": [0, 2**62 - 1]}, 0, 0)
    assert rle.area(largest) == 2**62 - 1 and rle.area(rle.complement(largest)) == 0
    assert rle.crop(largest, (2**61 - 1, 0, 3, 1)) == rle.encode(np.ones((1, 3), np.uint8))


# ----------------------------------------------------------------------------------------------- tensors in and out


def test_from_masks_and_to_masks_round_trip(sibling):
    rng = np.random.default_rng(3)
    dense = torch.from_numpy(rng.random((3, 17, 23)) < 0.4)
    theirs = coco.encode(np.asfortranarray(dense.numpy().transpose(1, 2, 0).astype(np.uint8)))
    expected = [{"size": r["size"], "counts": r["counts"].decode()} for r in theirs]
    strided = torch.zeros(3, 34, 23 * 2, dtype=torch.bool)[:, ::2, ::2].copy_(dense)
    column_major = dense.transpose(1, 2).contiguous().transpose(1, 2)
    expanded = dense[:1].expand(3, -1, -1)
    for layout in (
        dense,
        dense.numpy(),
        dense.to(torch.uint8) * 7,
        strided,
        column_major,
        dense.numpy()[:, ::-1][:, ::-1],
    ):
        assert rle.from_masks(layout) == expected
    assert rle.from_masks(expanded) == expected[:1] * 3
    assert rle.from_masks(dense.flip(2)[:, :, 5:9]) == rle.from_masks(dense.flip(2)[:, :, 5:9].contiguous())
    json.dumps(expected)
    back = rle.to_masks(expected)
    assert back.dtype == torch.bool and back.is_contiguous() and torch.equal(back, dense)
    assert rle.to_masks([]).shape == (0, 0, 0)
    assert rle.from_masks(torch.zeros(0, 4, 4, dtype=torch.bool)) == []


def test_encode_accepts_read_only_arrays(sibling):
    mask = disc()
    mask.flags.writeable = False
    assert rle.encode(mask) == coco.encode(np.asfortranarray(mask))


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (64, 64), (65, 129), (3, 20_000), (20_000, 3)])
def test_sizes_around_kernel_blocks(sibling, shape, density):
    mask = (np.random.default_rng(5).random(shape) < density).astype(np.uint8)
    theirs = coco.encode(np.asfortranarray(mask))
    assert rle.encode(mask) == rle.encode(np.asfortranarray(mask)) == theirs
    assert (rle.decode(theirs) == mask).all()
    assert (rle.to_masks([theirs])[0].numpy() == mask).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("cpu")])
def test_thread_counts_give_equal_results(name, monkeypatch):
    use_sibling(monkeypatch, name)
    dense = torch.from_numpy(np.random.default_rng(4).random((7, 700, 600)) < 0.02)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        packed = rle.from_masks(dense)
        polygons = ops.rle_from_polygon(
            torch.linspace(0, 599, 12_000, dtype=torch.float64).view(-1, 2), torch.tensor([0, 2000, 6000]), 700, 600
        )
        results.append((packed, rle.iou(packed, packed, [0] * 7).tolist(), polygons[0].tolist()))
        assert torch.equal(rle.to_masks(packed), dense)
        assert (rle.decode(packed).transpose(2, 0, 1) == dense.numpy()).all()
    assert results[0] == results[1] == results[2]
