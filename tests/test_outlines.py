"""Outlines along pixel edges: filled by pycocotools, as parts or joined to one ring, they give exactly the mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastsam_core import outlines
from label_examples import encoded, filled, masks

any_mask = st.tuples(st.integers(1, 16), st.integers(1, 16)).flatmap(lambda shape: masks(*shape))
RING = np.pad(np.pad(np.zeros((2, 3), bool), 2, constant_values=True), 1)
ISLAND = RING.copy()
ISLAND[4, 4] = True
CORNERS = np.eye(3, dtype=bool)


def traced(mask: np.ndarray) -> list[outlines.Outline]:
    return outlines.trace(outlines.runs_from_rle(encoded(mask)))


def contours(parts: list[outlines.Outline]) -> list[np.ndarray]:
    return [contour for part in parts for contour in (part.exterior, *part.holes)]


def shoelace(contour: np.ndarray) -> int:
    x, y = contour.T
    return int((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) // 2


@settings(max_examples=120, deadline=None)
@given(mask=any_mask)
@example(mask=RING)
@example(mask=ISLAND)
@example(mask=CORNERS)
@example(mask=CORNERS[:, ::-1])
@example(mask=np.ones((1, 1), bool))
def test_parts_are_8_connected_components_with_their_holes(mask: np.ndarray) -> None:
    parts = traced(mask)
    number, of_pixel = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    outside, _ = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=4)
    assert len(parts) == number - 1
    assert sum(len(part.holes) for part in parts) == outside - 2
    seen = set()
    for part in parts:
        # Each part has its own holes: exterior and holes joined to one ring fill exactly one component.
        drawn = filled([outlines.join([part.exterior, *part.holes])], *mask.shape)
        (component,) = set(of_pixel[drawn].tolist())
        np.testing.assert_array_equal(drawn, of_pixel == component)
        seen.add(component)
        assert shoelace(part.exterior) > 0 and all(shoelace(hole) < 0 for hole in part.holes)
        for contour in (part.exterior, *part.holes):
            steps = np.roll(contour, -1, axis=0) - contour
            # Horizontal and vertical steps alternate, so no vertex is superfluous or missing.
            assert ((steps == 0).sum(1) == 1).all() and ((steps[:, 0] == 0) != (np.roll(steps[:, 0], 1) == 0)).all()
    assert len(seen) == len(parts)


@settings(max_examples=120, deadline=None)
@given(mask=any_mask)
@example(mask=ISLAND)
def test_joined_ring_fills_the_mask(mask: np.ndarray) -> None:
    parts = traced(mask)
    if not parts:
        assert not mask.any()
        return
    ring = outlines.join(contours(parts))
    np.testing.assert_array_equal(filled([ring], *mask.shape), mask)
    assert (ring != np.roll(ring, 1, axis=0)).any(1).all()


@pytest.mark.parametrize("chained", [False, True], ids=["tree", "chain"])
@pytest.mark.parametrize(
    ("shape", "vertices"), [((90, 90), 4 * 1024), ((2, 400), 500), ((400, 2), 500), ((1, 300), 200), ((300, 1), 200)]
)
def test_joining_many_contours_fills_the_mask(
    shape: tuple[int, int], vertices: int, chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.random.default_rng(3).random(shape) < 0.5
    found = contours(traced(mask))
    assert len(found) > 20 and sum(map(len, found)) > vertices
    if chained:
        monkeypatch.setattr(outlines, "_JOINING_VERTICES", 1)
    np.testing.assert_array_equal(filled([outlines.join(found)], *shape), mask)


def test_bridges_of_thousands_of_parts_are_short() -> None:
    mask = np.zeros((300, 300), bool)
    mask[::6, ::6] = True
    found = contours(traced(mask))
    ring = outlines.join(found)
    lengths = np.abs(np.roll(ring, -1, axis=0) - ring).sum(1)
    bridges = lengths[lengths > 1]
    assert len(bridges) == 2 * (len(found) - 1)
    assert bridges.mean() < 2 * 6 and len(found) == 50 * 50 > outlines._JOINING_VERTICES
    np.testing.assert_array_equal(filled([ring], *mask.shape), mask)


def test_full_mask_is_one_rectangle() -> None:
    (part,) = traced(np.ones((3, 5), bool))
    assert sorted(part.exterior.tolist()) == [[0, 0], [0, 3], [5, 0], [5, 3]] and part.holes == []


def test_bridges_join_nearest_parts() -> None:
    mask = np.zeros((10, 40), bool)
    for left in (0, 10, 20, 36):
        mask[3:7, left : left + 4] = True
    ring = outlines.join(contours(traced(mask)))
    lengths = np.abs(np.roll(ring, -1, axis=0) - ring).sum(1)
    assert sorted(lengths[lengths > 4].tolist()) == [6, 6, 6, 6, 12, 12]


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=12))
@settings(max_examples=80, deadline=None)
def test_runs_of_length_zero_are_dropped(counts: list[int]) -> None:
    from fastsam_core import rle

    pixels = sum(counts)
    height = next(side for side in (4, 3, 2, 1) if pixels % side == 0)
    if not pixels:
        return
    code = rle.frPyObjects({"size": [height, pixels // height], "counts": counts}, 0, 0)
    runs = outlines.runs_from_rle(code)
    assert (runs.bottoms > runs.tops).all() and runs.area() == sum(counts[1::2])
    order = runs.columns * height + runs.tops
    assert (np.diff(order) > 0).all()
    np.testing.assert_array_equal(runs.paint(0, 0, pixels // height, height), rle.decode(code).astype(bool))


def test_tracing_a_huge_square_needs_no_dense_mask() -> None:
    side = 200_000
    code = outlines_of_square(side, 1000, 151_000)
    (part,) = outlines.trace(outlines.runs_from_rle(code))
    assert sorted(part.exterior.tolist()) == [[1000, 1000], [1000, 151_000], [151_000, 1000], [151_000, 151_000]]


def outlines_of_square(side: int, first: int, last: int) -> dict[str, object]:
    from fastsam_core import rle

    length = last - first
    counts = [first * side + first] + [length, side - length] * (length - 1) + [length]
    counts.append(side * side - sum(counts))
    return dict(rle.frPyObjects({"size": [side, side], "counts": counts}, 0, 0))


@settings(max_examples=100, deadline=None)
@given(mask=any_mask, tolerance=st.sampled_from([0.5, 1.0, 2.0]))
def test_simplify_keeps_all_points_within_tolerance(mask: np.ndarray, tolerance: float) -> None:
    for contour in contours(traced(mask)):
        kept = outlines.simplify(contour, tolerance)
        assert 3 <= len(kept) <= len(contour) and kept.dtype == contour.dtype
        assert {tuple(point) for point in kept.tolist()} <= {tuple(point) for point in contour.tolist()}
        closed = kept.astype(np.float32)[:, None]
        for x, y in contour.tolist():
            assert abs(cv2.pointPolygonTest(closed, (float(x), float(y)), True)) <= tolerance + 1e-4


def test_malformed_rle_raises_value_error() -> None:
    with pytest.raises(ValueError, match="malformed RLE"):
        outlines.runs_from_rle({"size": [2, 2], "counts": "1"})


@settings(max_examples=50, deadline=None)
@given(points=st.lists(arrays(np.float64, (4, 2), elements=st.integers(0, 40)), min_size=1, max_size=4))
def test_joined_ring_visits_every_vertex(points: list[np.ndarray]) -> None:
    ring = outlines.join(points)
    wanted = {tuple(point) for contour in points for point in contour.tolist()}
    assert {tuple(point) for point in ring.tolist()} == wanted or len(wanted) == 1
