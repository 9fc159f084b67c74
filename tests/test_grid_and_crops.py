"""Tests of segment everything's point grids and crop boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsam_core._limits import MAX_POINTS_PER_SIDE
from fastsam_core.everything.arguments import MAX_CROP_LAYERS, check_count, check_image_size, check_number, plan_crops
from fastsam_core.everything.crops import crop_boxes, is_near_crop_edge
from fastsam_core.everything.grid import checked_grids, layer_grids, point_grid


def test_grid_points_are_cell_centres_in_row_order():
    assert point_grid(1).tolist() == [[0.5, 0.5]]
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    grid = point_grid(32)
    assert grid.shape == (1024, 2)
    assert grid.dtype == np.float64
    np.testing.assert_allclose(grid[:32, 0], (np.arange(32) + 0.5) / 32, rtol=0, atol=1e-15)
    assert (grid[:32, 1] == 1 / 64).all()


def test_cached_grid_can_not_be_modified():
    with pytest.raises(ValueError, match="read-only"):
        point_grid(4)[0] = 1
    assert point_grid(4) is point_grid(4)


def test_limits_of_points_and_layers():
    assert len(layer_grids(MAX_POINTS_PER_SIDE, 0, 1)[0]) == MAX_POINTS_PER_SIDE**2
    with pytest.raises(ValueError, match=f"points per side must be at most {MAX_POINTS_PER_SIDE}, not 9999"):
        layer_grids(9999, 0, 1)
    with pytest.raises(ValueError, match=f"not {MAX_POINTS_PER_SIDE + 1}"):
        layer_grids(MAX_POINTS_PER_SIDE + 1, 0, 1)
    plan_crops((500, 500), 1, MAX_CROP_LAYERS, 0.0, 1, None)
    with pytest.raises(ValueError, match=f"crop_n_layers must be at most {MAX_CROP_LAYERS}, got"):
        plan_crops((500, 500), 1, MAX_CROP_LAYERS + 1, 0.0, 1, None)


def test_points_of_a_crop_are_in_pixels_from_its_corner():
    for crop in plan_crops((300, 500), 2, 1, 0.2, 1, None):
        height, width = crop.size
        assert (width, height) == (crop.box[2] - crop.box[0], crop.box[3] - crop.box[1])
        expected = [[x * width, y * height] for y in (0.25, 0.75) for x in (0.25, 0.75)]
        np.testing.assert_allclose(crop.points, expected, rtol=1e-15)


def test_downscale_factor_thins_the_grids_of_deeper_layers():
    assert [len(grid) for grid in layer_grids(32, 2, 2)] == [1024, 256, 64]
    assert [len(grid) for grid in layer_grids(10, 2, 1.5)] == [100, 36, 16]
    with pytest.raises(ValueError, match=r"points_stride=3 leaves crop layer 2 .* at crop_downscale_factor=2;"):
        layer_grids(3, 4, 2)


def test_crops_follow_from_the_arguments():
    crops = plan_crops((300, 500), 4, 1, 0.2, 2, None)
    assert [len(crop.points) for crop in crops] == [16, 4, 4, 4, 4]
    assert [crop.box for crop in crops] == [box for box, _ in crop_boxes((300, 500), 1, 0.2)]
    first, *others = plan_crops((300, 500), 4, 1, 0.2, 2, [[], [[0.5, 1.0]]])
    assert first.points.shape == (0, 2) and len(others) == 4
    assert all(crop.points.tolist() == [[crop.size[1] / 2, crop.size[0]]] for crop in others)


def test_numpy_scalars_are_arguments_as_well():
    expected = plan_crops((300, 500), 4, 1, 0.25, 2, None)
    size = np.array([300, 500], np.uint16)
    crops = plan_crops(size, np.int64(4), np.uint8(1), np.float32(0.25), np.int32(2), None)
    assert [crop.box for crop in crops] == [crop.box for crop in expected]
    assert all((crop.points == other.points).all() for crop, other in zip(crops, expected, strict=True))
    assert all(type(side) is int for side in check_image_size(size))
    number = check_number("ratio", np.float32(0.25))
    assert number == 0.25 and type(number) is float


def test_limits_of_numbers_are_inclusive():
    assert [check_number("n", value, -1, 1) for value in (-1, 1)] == [-1, 1]
    assert check_number("n", -1e300) == -1e300
    assert [check_count("n", value, value) for value in (-2, 0)] == [-2, 0]
    with pytest.raises(ValueError, match=r"^n must be at least -1, got -2$"):
        check_count("n", -2, -1)
    with pytest.raises(ValueError, match=r"^n must be between -1 and 1, got 2$"):
        check_number("n", 2, -1, 1)


def test_given_grids_are_copied_and_may_be_any_arrays():
    own = np.array([[0.1, 0.2], [1.0, 0.0]], np.float32)
    first, second = checked_grids([own, [(0.5, 0.5)]], 1)
    assert first.dtype == second.dtype == np.float64
    first[:] = 7
    assert own[1].tolist() == [1.0, 0.0]
    for empty in ([], [[]], np.zeros((0, 2))):
        assert checked_grids([empty], 0)[0].shape == (0, 2)
    doubles = np.array([[0.1, 0.2]])
    (copied,) = checked_grids([doubles], 0)
    assert copied.tolist() == doubles.tolist() and not np.shares_memory(copied, doubles)


@pytest.mark.parametrize(
    ("grids", "layers", "error", "message"),
    [
        ([[[0.5, 0.5]]], 1, ValueError, "one .* array per crop layer, 2 with crop_n_layers=1; got 1"),
        ([], 0, ValueError, "got 0"),
        ([[[0.5, 0.5, 0.5]]], 0, ValueError, r"point_grids\[0\] must have shape \(n, 2\), got \(1, 3\)"),
        ([[0.5, 0.5]], 0, ValueError, r"got \(2,\)"),
        ([np.zeros((0, 2, 2))], 0, ValueError, r"got \(0, 2, 2\)"),
        ([[[0.5, 1.1]]], 0, ValueError, r"fractions of width and height in \[0, 1\]"),
        ([[[0.5, -0.1]]], 0, ValueError, "fractions"),
        ([[[0.5, float("nan")]]], 0, ValueError, "fractions"),
        ([[["a", "b"]]], 0, ValueError, "array of numbers"),
        ([[[0.5, 0.5], [0.5]]], 0, ValueError, "array of numbers"),
        ([[[{}, {}]]], 0, ValueError, r"point_grids\[0\] must be an .* array of numbers: float\(\) argument"),
        ([[[10**400, 0.5]]], 0, ValueError, r"point_grids\[0\] must be an .* array of numbers: int too large"),
        ([[], [["a", "b"]]], 1, ValueError, r"point_grids\[1\] must be an .* array of numbers: could not convert"),
        ([[], [[0.5]]], 1, ValueError, r"point_grids\[1\] must have shape"),
        ([[], [[0.5, 0.5], [0.5, 2]]], 1, ValueError, r"point_grids\[1\] must hold fractions"),
        ([[], []], 0, ValueError, "1 with crop_n_layers=0; got 2"),
        ("grid", 0, TypeError, "list of .* arrays, got str"),
        (b"grid", 0, TypeError, "list of .* arrays, got bytes"),
        (4, 0, TypeError, "got int"),
    ],
)
def test_wrong_grids_are_refused(grids, layers, error, message):
    with pytest.raises(error, match=message):
        checked_grids(grids, layers)


def test_crop_boxes_of_a_known_image():
    # Worked out by hand: overlap int(480 * 512 / 1500) = 163, so crops are ceil((640 + 163) / 2) = 402 pixels wide.
    assert crop_boxes((480, 640), 1, 512 / 1500) == [
        ((0, 0, 640, 480), 0),
        ((0, 0, 402, 322), 1),
        ((0, 159, 402, 480), 1),
        ((239, 0, 640, 322), 1),
        ((239, 159, 640, 480), 1),
    ]
    assert crop_boxes((480, 640), 0, 0.3) == [((0, 0, 640, 480), 0)]


@given(height=st.integers(1, 700), width=st.integers(1, 700), layers=st.integers(0, 4), overlap=st.floats(0, 0.99))
@settings(deadline=None)
def test_crops_of_each_layer_lie_in_the_image_and_cover_it(height, width, layers, overlap):
    boxes = crop_boxes((height, width), layers, overlap)
    for layer in range(layers + 1):
        covered = np.zeros((height, width), bool)
        crops = [box for box, its_layer in boxes if its_layer == layer]
        assert len(crops) == 4**layer or min(height, width) < 4**layer
        for x0, y0, x1, y1 in crops:
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            covered[y0:y1, x0:x1] = True
        assert covered.all()
    assert [layer for _, layer in boxes] == sorted(layer for _, layer in boxes)


def near_edge(box, crop_box, image_size):
    return is_near_crop_edge(np.array([box, box]), crop_box, image_size).tolist()


@pytest.mark.parametrize(
    ("box", "near"),
    [
        ((130, 130, 180, 180), False),
        ((120, 130, 180, 180), True),  # 20 pixels count as near
        ((121, 130, 180, 180), False),
        ((130, 130, 280, 180), True),
        ((130, 130, 279, 180), False),
        ((130, 381, 180, 395), False),  # the crop's lower edge is the image's
        ((130, 90, 180, 120), True),
    ],
)
def test_boxes_within_20_pixels_of_a_crop_edge_are_near(box, near):
    assert near_edge(box, (100, 100, 300, 400), (400, 500)) == [near, near]


def test_crop_edges_at_the_image_border_do_not_count():
    assert near_edge((0, 0, 499, 399), (0, 0, 500, 400), (400, 500)) == [False, False]
    # Boxes near the image's border don't count as near a crop edge, even if the crop begins within the tolerance.
    crop_box = (10, 15, 300, 400)
    for left, top, near in ((12, 200, False), (20, 200, False), (21, 200, True), (200, 20, False), (200, 21, True)):
        assert near_edge((left, top, 250, 250), crop_box, (400, 500)) == [near, near]
