"""Tests of evaluation measures, against values worked out by hand and independent implementations."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastsam_core import rle
from fastsam_core.evaluate.baselines import disc_mask, grabcut_mask
from fastsam_core.evaluate.boundary import boundary_f, boundary_mask
from fastsam_core.evaluate.clicks import innermost_pixel, next_click, squared_distances
from fastsam_core.evaluate.recall import UNMATCHED, average_recall, matched_ranks
from fastsam_core.evaluate.statistics import average_ranks, bootstrap_interval, spearman
from label_examples import encoded, masks

small_masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: masks(*size))


def mask(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


# --- clicks ---


def slow_squares(region: np.ndarray) -> np.ndarray:
    """Compare every pixel with every pixel outside, including a frame around the image."""
    framed = np.pad(region, 1)
    outside = np.argwhere(~framed)
    found = np.zeros(framed.shape)
    for place in np.argwhere(framed):
        found[tuple(place)] = ((outside - place) ** 2).sum(1).min()
    return found[1:-1, 1:-1]


@settings(max_examples=50, deadline=None)
@given(region=small_masks)
def test_distances_are_exact(region: np.ndarray) -> None:
    np.testing.assert_array_equal(squared_distances(region), slow_squares(region))


def test_innermost_pixel_of_a_slice_beside_an_earlier_click() -> None:
    region = np.kron([[0], [1]], np.ones((3, 3))).astype(bool)[:4, :2]
    assert innermost_pixel(region, [(0, 3)]) == ((1, 3), 1.0)


@settings(max_examples=50, deadline=None)
@given(region=small_masks, data=st.data())
def test_innermost_equals_brute_force(region: np.ndarray, data: st.DataObject) -> None:
    height, width = region.shape
    pixels = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    taken = data.draw(st.lists(pixels, max_size=4))
    squares = slow_squares(region)
    for x, y in taken:
        squares[y, x] = 0
    # Ties: the topmost, then the leftmost pixel.
    best = max((squares[y, x], -y, -x) for y in range(height) for x in range(width))
    expected = ((-best[2], -best[1]), best[0]) if best[0] else (None, 0)
    assert innermost_pixel(region, taken) == expected


def test_innermost_by_hand() -> None:
    # A 5 x 3 block in the corner of the image, whose border counts as outside: three pixels are equally far in.
    region = np.zeros((6, 9), bool)
    region[0:3, 0:5] = True
    assert innermost_pixel(region) == ((1, 1), 4)
    assert innermost_pixel(region, [(1, 1)]) == ((2, 1), 4)
    assert innermost_pixel(np.ones((5, 5), bool)) == ((2, 2), 9)
    assert innermost_pixel(np.zeros((3, 3), bool)) == (None, 0)
    # The larger of two parts, although the other one comes first.
    region[5:, 8] = True
    region[0:3, 0:5] = False
    region[2:6, 2:6] = True
    assert innermost_pixel(region)[0] == (3, 3)


def test_next_click_goes_to_the_larger_error() -> None:
    truth, predicted = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    truth[2:9, 2:9] = True  # 7 x 7 missing: its centre is 4 pixels in
    predicted[12:17, 12:17] = True  # 5 x 5 too much: its centre is 3 pixels in
    assert next_click(truth, predicted) == ((5, 5), True)
    # Now the missing part is the smaller error.
    predicted[2:9, 2:9] = True
    predicted[7:9, 7:9] = False
    assert next_click(truth, predicted) == ((14, 14), False)
    assert next_click(truth, truth) is None
    # Of equal errors, the false positive comes first. No pixel is clicked twice.
    truth, predicted = mask("#..."), mask("...#")
    assert next_click(truth, predicted) == ((3, 0), False)
    assert next_click(truth, predicted, [(3, 0)]) == ((0, 0), True)
    assert next_click(truth, predicted, [(3, 0), (0, 0)]) is None


# --- boundary F ---


def slow_boundary(one: np.ndarray) -> np.ndarray:
    height, width = one.shape
    found = np.zeros_like(one)
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside = [(min(j, height - 1), min(i, width - 1)) for j, i in neighbours]
            found[y, x] = any(one[place] != one[y, x] for place in inside)
    return found


def slow_f(predicted: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    ours, wanted = np.argwhere(slow_boundary(predicted)), np.argwhere(slow_boundary(truth))
    if not len(ours) or not len(wanted):
        return float(len(ours) == len(wanted))
    near = ((ours[:, None] - wanted[None]) ** 2).sum(2) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), tolerance=st.sampled_from([0.0075, 0.1, 0.2]))
def test_boundary_f_equals_brute_force(data: st.DataObject, tolerance: float) -> None:
    size = data.draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    predicted, truth = data.draw(masks(*size)), data.draw(masks(*size))
    np.testing.assert_array_equal(boundary_mask(truth), slow_boundary(truth))
    assert boundary_f(predicted, truth, tolerance) == pytest.approx(slow_f(predicted, truth, tolerance), abs=1e-12)


def test_boundary_f_by_hand() -> None:
    # The diagonal is 500 pixels; 0.0075 of it is 3.75, rounded up to 4.
    truth = np.zeros((300, 400), bool)
    truth[100:200, 100:200] = True
    assert boundary_f(truth, truth) == 1
    for shift, expected in ((4, 1.0), (5, 0.0)):
        moved = np.zeros_like(truth)
        moved[100 - shift : 200 + shift, 100 - shift : 200 + shift] = True
        # 4 pixels outside, all of the outline but its corners is within reach of the true one; 5 pixels outside, none.
        assert boundary_f(moved, truth) == pytest.approx(expected, abs=0.05)
    # Precision 1, recall 1/2: the prediction is one of two equal objects.
    both = truth.copy()
    both[100:200, 250:350] = True
    assert boundary_f(truth, both) == pytest.approx(2 / 3)
    nothing, everything = np.zeros_like(truth), np.ones_like(truth)
    assert boundary_f(nothing, truth) == boundary_f(everything, truth) == 0
    assert boundary_f(nothing, everything) == boundary_f(nothing, nothing) == 1


# --- average recall ---


def coco_recall(images: list[tuple[np.ndarray, np.ndarray]], most: int) -> float:
    """Return pycocotools' AR@most; images: (proposals (P, H, W) with the best first, true masks) of each."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides: list[list[dict[str, Any]]] = [[], []]
    for image_id, pair in enumerate(images, 1):
        for side, found in zip(sides, pair, strict=True):
            for place, one in enumerate(found):
                code = encoded(one)
                entry = {"id": len(side) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
                side.append({**entry, "segmentation": code, "area": float(one.sum()), "score": 1 / (1 + place)})
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for side in sides:
            one = COCO()
            entries = [{"id": number, "height": 24, "width": 30} for number in range(1, len(images) + 1)]
            one.dataset = {"images": entries, "annotations": side, "categories": [{"id": 1, "name": "object"}]}
            one.createIndex()
            sets.append(one)
        evaluation = COCOeval(sets[1], sets[0], "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [most]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["recall"].mean())


def our_recall(images: list[tuple[np.ndarray, np.ndarray]], most: int) -> float:
    shares = []
    for proposals, truths in images:
        codes = [[encoded(one) for one in side] for side in (proposals, truths)]
        ious = np.asarray(rle.iou(codes[0], codes[1], [0] * len(truths))).reshape(len(proposals), len(truths))
        shares.append(average_recall(matched_ranks(ious), most))
    return float(np.concatenate(shares).mean())


def boxes_of(rng: np.random.Generator, count: int) -> np.ndarray:
    found = np.zeros((count, 24, 30), bool)
    for one in found:
        y, x, high, wide = rng.integers(0, [16, 20, 9, 11])
        one[y : y + 3 + high, x : x + 3 + wide] = True
    return found


COUNTS = st.tuples(st.integers(0, 30), st.integers(0, 5))  # of proposals and of objects


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(COUNTS, min_size=1, max_size=3),
)
def test_average_recall_equals_pycocotools(seed: int, counts: list[tuple[int, int]]) -> None:
    assume(any(truths for _, truths in counts) and any(proposals for proposals, _ in counts))
    rng = np.random.default_rng(seed)
    images = []
    for proposals, truths in counts:
        true = boxes_of(rng, truths)
        near = np.array([np.roll(one, rng.integers(-2, 3, 2), (0, 1)) for one in true]).reshape(-1, 24, 30)
        proposed = np.concatenate([near, boxes_of(rng, proposals)])
        images.append((proposed[rng.permutation(len(proposed))], true))
    for most in (1, 3, 100):
        assert our_recall(images, most) == pytest.approx(coco_recall(images, most), abs=1e-12)


def test_proposal_matches_the_last_of_equally_fitting_objects() -> None:
    left, right = np.zeros((2, 24, 30), bool)
    left[2:8, 2:8] = right[2:8, 10:16] = True
    # The first proposal covers both objects (IoU 0.5 with each), the second is one of them.
    for second, expected in ((left, (10 + 1) / 20), (right, 9 / 20 + 1 / 20)):
        images = [(np.array([left | right, second]), np.array([left, right]))]
        assert our_recall(images, 100) == coco_recall(images, 100) == pytest.approx(expected)


def test_average_recall_by_hand() -> None:
    # The first proposal has an IoU of 0.74 with the first object: five of ten thresholds. The third matches the second
    # object at all ten.
    ious = np.array([[0.74, 0.0], [0.3, 0.4], [0.6, 0.95]])
    ranks = matched_ranks(ious)
    assert ranks.shape == (2, 10)
    assert ranks[0].tolist() == [0] * 5 + [UNMATCHED] * 5
    assert ranks[1].tolist() == [2] * 10
    assert average_recall(ranks, 1).tolist() == [0.5, 0.0]
    assert average_recall(ranks, 3).tolist() == [0.5, 1.0]
    # Each object is matched once, and each proposal matches one: the second proposal gets the object that fits it less.
    ranks = matched_ranks(np.array([[0.9, 0.6], [0.9, 0.6]]), np.array([0.5]))
    assert ranks.tolist() == [[0], [1]]
    # Without proposals nothing is matched.
    assert average_recall(matched_ranks(np.zeros((0, 2))), 1000).tolist() == [0, 0]
    assert matched_ranks(np.zeros((4, 0))).shape == (0, 10)


# --- statistics ---


def test_spearman_by_hand() -> None:
    assert average_ranks(np.array([3.0, 1, 3, 9])).tolist() == [2.5, 1, 2.5, 4]
    up = np.array([1.0, 2, 3, 4])
    assert spearman(up, up**3) == pytest.approx(1) and spearman(up, -up) == pytest.approx(-1)
    # Without ties, 1 - 6 sum(d^2) / (n (n^2 - 1)), with d = 1, 1, 1, 1.
    assert spearman(up, np.array([2.0, 1, 4, 3])) == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert math.isnan(spearman(up, np.ones(4)))


@settings(max_examples=50, deadline=None)
@given(pairs=arrays(np.int64, st.tuples(st.integers(2, 12), st.just(2)), elements=st.integers(0, 4)))
def test_ranks_and_correlation_equal_their_definitions(pairs: np.ndarray) -> None:
    ranks = []
    for values in pairs.T.astype(float):
        # A value's mean rank: the number of smaller values, plus half of one more than the number of equal ones.
        expected = [(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values]
        assert average_ranks(values).tolist() == expected
        ranks.append(np.array(expected))
    if all(np.ptp(values) for values in ranks):
        assert spearman(*pairs.T.astype(float)) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    else:
        assert math.isnan(spearman(*pairs.T.astype(float)))


def test_bootstrap_intervals() -> None:
    rng = np.random.default_rng(1)
    images = [rng.normal(size=(5, 1)).ravel() for _ in range(200)]
    between = bootstrap_interval(images, None, seed=3)
    assert between is not None and between == bootstrap_interval(images, None, seed=3) != bootstrap_interval(
        images, None, seed=4
    )
    # For the mean of 1,000 standard normal values: 1.96 / sqrt(1000) on either side.
    mean = float(np.concatenate(images).mean())
    assert between[0] < mean < between[1] and between[1] - between[0] == pytest.approx(2 * 0.062, rel=0.2)
    # A statistic of all values gives the same; images without values don't count.
    assert bootstrap_interval(images, lambda values: float(values.mean()), seed=3) == pytest.approx(between, abs=1e-12)
    assert bootstrap_interval([*images, np.zeros(0)], None, seed=3) == between
    assert bootstrap_interval(images[:1], None, seed=3) is None
    # If objects of one image are alike, the number of images counts, not that of objects.
    copies = [np.repeat(values[:1], 5) for values in images]
    wider = bootstrap_interval(copies, None, seed=3)
    assert wider is not None and wider[1] - wider[0] > 1.7 * (between[1] - between[0])
    assert bootstrap_interval([np.zeros((2, 2)), np.ones((2, 2))], lambda pairs: float("nan"), seed=0) is None


# --- baselines ---


def test_disc_has_a_tenth_of_the_mean_side_as_radius() -> None:
    # The radius is 0.1 * sqrt(40 * 90) = 6.
    drawn = disc_mask((40, 90), (20, 10))
    y, x = np.mgrid[:40, :90]
    np.testing.assert_array_equal(drawn, np.hypot(x - 20, y - 10) <= 6)
    assert drawn[10, 26] and not drawn[10, 27] and disc_mask((40, 90), (0, 0)).sum() < drawn.sum()


def test_grabcut_finds_a_bright_block() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (60, 80, 3)).astype(np.uint8)
    truth = np.zeros((60, 80), bool)
    truth[20:40, 30:60] = True
    image[truth] += 150
    box = (25, 15, 64, 44)
    found = grabcut_mask(image, box)
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    np.testing.assert_array_equal(found, grabcut_mask(image, box))
    for seed in (2**31, 2**70):  # OpenCV takes 31 bits
        np.testing.assert_array_equal(found, grabcut_mask(image, box, seed))
    # Large images are scaled down to run it; the mask still has the image's size.
    large = np.kron(image, np.ones((12, 12, 1), np.uint8))
    enlarged = grabcut_mask(large, (25 * 12, 15 * 12, 65 * 12 - 1, 45 * 12 - 1))
    wanted = np.kron(truth, np.ones((12, 12), bool))
    assert enlarged.shape == wanted.shape and (enlarged & wanted).sum() / (enlarged | wanted).sum() > 0.9
    assert grabcut_mask(image, (0, 0, 79, 59)).all()
    assert grabcut_mask(image, (3, 3, 3, 3)).shape == (60, 80)
    assert grabcut_mask(np.zeros((1, 1, 3), np.uint8), (0, 0, 0, 0)).all()
    assert grabcut_mask(image, (0, 0, 79, 58)).shape == (60, 80)
