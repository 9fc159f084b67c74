"""Tests of `Masks` and contours: equal results from run lengths and pixels, which are decoded only on request."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import scene
from fastsam_core import Predictor, contours, ops
from fastsam_core.results import Masks
from fastsam_core.rle import from_masks

SHAPE = (scene.HEIGHT, scene.WIDTH)
# Without `fill`, hypothesis would set most pixels to one value.
SMALL = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)), fill=st.nothing())


def of_runs() -> Masks:
    drawn = scene.masks()
    return Masks.from_runs(*ops.rle_encode(torch.from_numpy(drawn)), drawn.sum((1, 2)), SHAPE)


@pytest.fixture(params=["rle", "runs", "tensor", "array"])
def masks(request: pytest.FixtureRequest) -> Masks:
    drawn = scene.masks()
    if request.param == "runs":
        return of_runs()
    held = {"rle": from_masks(drawn), "tensor": torch.from_numpy(drawn), "array": drawn}
    return Masks(held[request.param], SHAPE)


def filled(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    if len(ring):
        cv2.fillPoly(canvas, [ring.astype(np.int32)], 1)
    return canvas.astype(bool)


def test_every_representation_gives_the_same_results(masks: Masks) -> None:
    drawn = scene.masks()
    assert masks.shape == drawn.shape and len(masks) == 4
    np.testing.assert_array_equal(np.asarray(masks.data), drawn)
    assert masks.rle == from_masks(drawn)
    assert masks.area.dtype == torch.int64
    assert masks.area.tolist() == drawn.sum((1, 2)).tolist()
    assert masks.boxes.tolist() == [[6, 4, 49, 39], [12, 10, 23, 19], [52, 2, 61, 43], [0, 0, 0, 0]]
    for i, ((x, y), crop) in enumerate(masks.crops()):
        np.testing.assert_array_equal(masks.pixels(i), drawn[i])
        np.testing.assert_array_equal(crop, drawn[i, y : y + crop.shape[0], x : x + crop.shape[1]])
        assert crop.sum() == drawn[i].sum()
        assert all(side.any() for side in (crop[:1], crop[-1:], crop[:, :1], crop[:, -1:])) or i == 3
    corner, crop = masks.crop(3)
    assert corner == (0, 0) and crop.shape == (0, 0)  # an empty mask


def test_rle_masks_are_decoded_once_to_bool() -> None:
    masks = Masks(from_masks(scene.masks()), SHAPE)
    assert isinstance(masks.data, torch.Tensor) and masks.data.dtype == torch.bool
    assert masks.data is masks.data


@pytest.mark.parametrize("first", ["data", "rle", "area", "boxes"])
def test_runs_give_the_same_results_in_any_order_of_access(first: str) -> None:
    masks, expected = of_runs(), Masks(from_masks(scene.masks()), SHAPE)
    getattr(masks, first)
    for other in (masks, masks.to("cpu"), masks.cpu(), copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
        assert other.is_rle and other.shape == expected.shape and other.rle == expected.rle
        assert torch.equal(torch.as_tensor(other.data), torch.as_tensor(expected.data))
        assert other[1:3].rle == expected[1:3].rle and other.boxes.tolist() == expected.boxes.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_logits_above_zero_are_inside(dtype: torch.dtype) -> None:
    expected = Masks(scene.masks(), SHAPE)
    logits = torch.as_tensor(scene.masks()).to(dtype) * 14 - 7
    masks = Masks(logits, SHAPE)
    assert masks.rle == expected.rle and masks.boxes.tolist() == expected.boxes.tolist()
    assert masks.area.tolist() == expected.area.tolist() and np.array_equal(masks.pixels(0), expected.pixels(0))
    cleaned, keep = Predictor.remove_small_regions(logits, 0)
    assert torch.equal(cleaned, torch.as_tensor(scene.masks())[keep])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", ["reversed", "read-only", "uint16", "big-endian", "columns"])
def test_arrays_of_any_layout_are_measured_and_converted(layout: str) -> None:
    drawn = scene.masks()
    array = drawn.astype({"uint16": np.uint16, "big-endian": ">f4"}.get(layout, bool))
    if layout == "reversed":
        array = array[:, ::-1, ::-1]
        drawn = array.copy()
    elif layout == "columns":
        array = np.asfortranarray(array)
    array.setflags(write=layout != "read-only")
    masks, expected = Masks(array, SHAPE), Masks(torch.from_numpy(drawn), SHAPE)
    assert masks.area.dtype == torch.int64 and masks.area.tolist() == expected.area.tolist()
    assert masks.rle == expected.rle and masks.boxes.tolist() == expected.boxes.tolist()
    assert [ring.tolist() for ring in masks.xy] == [ring.tolist() for ring in expected.xy]
    if layout != "big-endian":  # which PyTorch can't represent
        moved = masks.to("cpu").data
        assert isinstance(moved, torch.Tensor) and (moved.numpy() == drawn).all()


def test_bfloat16_becomes_float32_in_numpy() -> None:
    logits = torch.as_tensor(scene.masks()).to(torch.bfloat16) * 14 - 7
    array = Masks(logits, SHAPE).numpy().data
    assert array.dtype == np.float32 and (array == np.where(scene.masks(), 7, -7)).all()


def test_many_runs_are_stored_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_runs()._runs is not None
    monkeypatch.setattr("fastsam_core.masks._MAX_UNCOMPRESSED_COUNTS", 10)
    masks = of_runs()
    assert masks._runs is None and masks.rle == from_masks(scene.masks())


def test_join_keeps_the_order() -> None:
    rles = from_masks(scene.masks())
    joined = Masks.join([of_runs(), Masks(rles[:1], SHAPE), of_runs()[2:]])
    assert joined.rle == [*rles, rles[0], *rles[2:]]
    assert joined.area.tolist() == Masks(joined.rle, SHAPE).area.tolist()
    alone = of_runs()
    assert Masks.join([alone]) is alone


def test_only_data_decodes_rle_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("all masks were expanded")

    monkeypatch.setattr("fastsam_core.rle.to_masks", refuse)
    masks = Masks(from_masks(scene.masks()), SHAPE)
    assert masks.pixels(1).shape == SHAPE
    for chosen in (masks, masks[1:], masks.cpu(), masks.numpy(), masks.to("cpu")):
        assert chosen.is_rle
        assert len(chosen.xy) == len(chosen.xyn) == len(chosen.polygons) == len(chosen) == len(chosen.area)
        assert chosen.shape[1:] == SHAPE and len(chosen.rle) == len(chosen) and "RLE" in repr(chosen)
    with pytest.raises(AssertionError):
        _ = masks.data


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (1, [1]),
        (-1, [3]),
        (-4, [0]),
        (np.int64(2), [2]),
        (torch.tensor(2), [2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        ([2, 0], [2, 0]),
        ([], []),
        ([True, False, False, True], [0, 3]),
        (torch.tensor([3, -4, -3]), [3, 0, 1]),
        (torch.tensor([False, True, True, False]), [1, 2]),
        (np.array([1, 1]), [1, 1]),
        (np.zeros(4, bool), []),
    ],
)
def test_indexing_keeps_the_first_dimension_and_representation(masks: Masks, index: Any, rows: list[int]) -> None:
    chosen = masks[index]
    assert chosen.is_rle == masks.is_rle
    assert type(chosen.data) is type(masks.data)
    assert chosen.shape == (len(rows), *SHAPE)
    np.testing.assert_array_equal(np.asarray(chosen.data), scene.masks()[rows])
    assert chosen.area.tolist() == scene.masks()[rows].sum((1, 2)).tolist()


@pytest.mark.parametrize("index", [4, -5, [0, 4], torch.tensor([-5]), [True, False]])
def test_indices_out_of_range_are_index_errors(masks: Masks, index: Any) -> None:
    with pytest.raises(IndexError):
        masks[index]


@pytest.mark.parametrize("index", [(0, 1), None, ..., [0.5], np.zeros((1, 4), int), "a"])
def test_indices_of_other_types_are_type_errors(masks: Masks, index: Any) -> None:
    with pytest.raises(TypeError):
        masks[index]


def test_slices_of_dense_masks_are_views() -> None:
    data = torch.from_numpy(scene.masks())
    assert Masks(data, SHAPE)[1:3].data.data_ptr() == data[1:].data_ptr()


def test_numpy_cpu_and_to_convert_masks() -> None:
    for masks in (Masks(from_masks(scene.masks()), SHAPE), Masks(torch.from_numpy(scene.masks()), SHAPE)):
        array = masks.numpy()
        assert isinstance(array.data, np.ndarray) and array.data.dtype == bool
        assert isinstance(array.cpu().data, np.ndarray)
        assert isinstance(array.to("cpu").data, torch.Tensor)
        assert masks.to(torch.float32).data.dtype == torch.float32
        assert masks.to(torch.float32).area.tolist() == masks.area.tolist()
    assert Masks(from_masks(scene.masks()), SHAPE, device="meta").data.device.type == "meta"
    assert Masks(from_masks(scene.masks()), SHAPE).to("meta")[0].data.device.type == "meta"


def test_dtype_of_decoded_pixels_is_kept() -> None:
    masks = Masks(from_masks(scene.masks()), SHAPE, dtype=torch.uint8)
    for other in (masks, masks[1:], masks.cpu(), masks.to("cpu"), Masks.join([masks, masks]), copy.deepcopy(masks)):
        assert other.is_rle and other.data.dtype == torch.uint8
        np.testing.assert_array_equal(np.asarray(other.data)[-1], scene.masks()[-1])
    assert masks.numpy().data.dtype == np.uint8
    assert masks.to(torch.bool).data.dtype == torch.bool and masks.area.tolist() == masks.to(torch.bool).area.tolist()


def test_assigned_data_replaces_cached_results(masks: Masks) -> None:
    drawn = scene.masks()
    assert len(masks.xy) == len(masks.rle) == 4  # fills the caches
    masks.data = masks.data[1:3]
    np.testing.assert_array_equal(np.asarray(masks.data), drawn[1:3])
    assert masks.rle == from_masks(drawn[1:3]) and masks.area.tolist() == drawn[1:3].sum((1, 2)).tolist()
    np.testing.assert_array_equal(masks.xy[0], Masks(drawn, SHAPE).xy[1])
    assert masks.shape == (2, *SHAPE) and len(masks.xy) == len(masks.boxes) == len(masks[:]) == 2
    with pytest.raises(ValueError, match="resize them to the image first"):
        masks.data = torch.zeros(1, 4, 5)
    masks.data = []
    assert len(masks) == 0


def test_one_mask_may_be_two_dimensional() -> None:
    masks = Masks(scene.masks()[0], SHAPE)
    assert repr(masks) == "Masks(1 x 48 x 64, held as bool)" and masks.rle == Masks(scene.masks()[:1], SHAPE).rle


def test_zero_masks() -> None:
    for masks in (Masks([], SHAPE), Masks(torch.zeros(0, *SHAPE), SHAPE)):
        assert masks.shape == (0, *SHAPE) and tuple(masks.data.shape) == (0, *SHAPE)
        assert masks.xy == masks.xyn == masks.polygons == masks.rle == list(masks) == []
        assert masks.area.shape == (0,) and masks.boxes.shape == (0, 4)
        assert len(masks[[]]) == len(masks[:]) == 0


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (torch.zeros(2, 3), ValueError),
        (torch.zeros(1, 48, 63), ValueError),
        (torch.zeros(1, 1, 48, 64), ValueError),
        (np.zeros((64, 48)), ValueError),
        ([{"size": [64, 48], "counts": "PP3"}], ValueError),
        ([{"counts": "PP3"}], ValueError),
        ([{"size": [48, 64]}], ValueError),
        ([{"size": [48, 64], "counts": "1"}], ValueError),
        ([{"size": [48, 64], "counts": "\u00e9"}], ValueError),
        ([{"size": [48, 64], "counts": b"\xff"}], ValueError),
        ([{"size": [48, 64], "counts": [3000, 1]}], ValueError),
        ([{"size": [48, 64], "counts": None}], ValueError),
        ([{"size": None, "counts": "PP3"}], ValueError),
        ([np.zeros((48, 64))], TypeError),
        ("masks", TypeError),
        (None, TypeError),
    ],
)
def test_malformed_masks_are_refused(data: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Masks(data, SHAPE)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5,), "ab", "12", None, (-1, 2), (4.5, 5), (float("inf"), 5)])
def test_malformed_image_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="orig_shape"):
        Masks([], shape)


def test_image_shapes_may_be_tensors_and_have_channels() -> None:
    assert Masks([], torch.tensor([48, 64])).orig_shape == Masks([], (48.0, 64, 3)).orig_shape == SHAPE  # type: ignore[arg-type]


def test_counts_may_be_bytes_or_run_lengths_and_sizes_arrays() -> None:
    text = from_masks(scene.masks())[1]
    runs = np.flatnonzero(np.diff(scene.masks()[1].ravel(order="F").astype(int), prepend=0, append=2))
    lengths = np.diff(runs, prepend=0).tolist()
    data = text["counts"].encode()
    for counts in (data, bytearray(data), lengths, tuple(lengths), np.array(lengths), torch.tensor(lengths)):
        for size in (SHAPE, np.array(SHAPE), torch.tensor(SHAPE)):
            assert Masks([{"size": size, "counts": counts}], SHAPE).rle == [text]


def test_copies_and_pickles_keep_run_lengths() -> None:
    masks = Masks(from_masks(scene.masks()), SHAPE)
    small = len(pickle.dumps(masks))
    _ = masks.data
    assert len(pickle.dumps(masks)) == small
    for other in (pickle.loads(pickle.dumps(masks)), copy.copy(masks), copy.deepcopy(masks)):
        assert other.is_rle and torch.equal(other.data, masks.data)


# --- contours ---


def test_xy_is_the_outer_ring_in_pixel_indices(masks: Masks) -> None:
    assert masks.xy[0].dtype == np.float32
    assert {tuple(point) for point in masks.xy[0].tolist()} == {(6, 4), (49, 4), (49, 39), (6, 39)}
    np.testing.assert_allclose(masks.xyn[0], masks.xy[0] / [64, 48])
    ring = masks.xy.pop(0)
    assert masks.xy[0] is ring  # cached, although it was popped from a copy of the list
    np.testing.assert_array_equal(filled(masks.xy[1], SHAPE)[10:20, 12:24], True)  # the hole is lost
    assert masks.xy[3].shape == (0, 2) and masks.polygons[3] == []


def test_parts_are_joined_at_their_nearest_points() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 1:6] = True
    mask[2:8, 9:12] = True
    mask[2:7, 15:18] = True
    ring = contours.ring(mask)
    steps = np.linalg.norm(np.diff(np.vstack([ring, ring[:1]]), axis=0), axis=1)
    for left, right in ((5, 9), (11, 15)):
        between = [
            (tuple(a), tuple(b))
            for a, b in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True)
            if (a[0] <= left) != (b[0] <= left)
        ]
        assert len(between) == 2 and between[0] == between[1][::-1]
        assert {x for pair in between for x, _ in pair} == {left, right}
    assert sorted(steps)[-1] <= 5
    assert ring[0].tolist() != ring[-1].tolist()  # it isn't closed by a repeated point


@settings(deadline=None, max_examples=100)
@given(SMALL, st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_ring_encloses_the_area_of_its_parts(mask: np.ndarray, offset: tuple[int, int]) -> None:
    ring = contours.ring(mask, offset)
    assert ring.dtype == np.float32 and ring.shape[1:] == (2,)
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = {tuple((point + offset).tolist()) for part in found for point in part.reshape(-1, 2)}
    assert {tuple(point) for point in ring.astype(int).tolist()} == corners
    area = cv2.contourArea(ring.reshape(-1, 1, 2)) if len(ring) else 0.0
    assert area == pytest.approx(sum(cv2.contourArea(part) for part in found))


@settings(deadline=None, max_examples=100)
@given(SMALL)
def test_polygons_rebuild_the_mask(mask: np.ndarray) -> None:
    rebuilt = np.zeros(mask.shape, bool)
    for part in contours.polygons(mask):
        whole = filled(part.exterior, mask.shape)
        for hole in part.holes:
            border = np.zeros(mask.shape, np.uint8)
            cv2.polylines(border, [hole.astype(np.int32)], True, 1)
            whole &= ~(filled(hole, mask.shape) & ~border.astype(bool))
        rebuilt |= whole
    np.testing.assert_array_equal(rebuilt, mask)


@pytest.mark.parametrize(("first", "second"), [(30, 40), (1500, 1300), (5, 400_000)])
def test_nearest_pair_equals_brute_force(first: int, second: int) -> None:
    def circle(count: int, x: float) -> np.ndarray:
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + 0.3
        return np.stack([x + 100 * np.cos(angle), 100 * np.sin(angle)], 1)

    one, other = circle(first, 0), circle(second, 230)
    i, j = contours.nearest_pair(one, other)
    best = min(np.linalg.norm(other - point, axis=1).min() for point in one)
    assert np.linalg.norm(one[i] - other[j]) == pytest.approx(best, abs=1e-3)


def test_mask_of_many_single_pixels_gives_one_ring() -> None:
    mask = np.zeros((60, 60), bool)
    mask[::2, ::2] = True
    ring = contours.ring(mask)
    assert {tuple(point) for point in ring.astype(int).tolist()} == {tuple(p) for p in np.argwhere(mask.T).tolist()}
