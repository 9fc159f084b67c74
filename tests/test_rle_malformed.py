"""`fastsam_core.rle` raises errors for malformed masks on every sibling: runs, sizes, types and shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastsam_core import rle
from siblings import names_of, use_sibling

NAMES = names_of("rle_encode")


@pytest.fixture(params=NAMES)
def sibling(request, monkeypatch):
    use_sibling(monkeypatch, request.param)
    return request.param


GOOD = {"size": [4, 5], "counts": b"92203"}

EVERY_FUNCTION = {
    "decode": rle.decode,
    "decode a list": lambda r: rle.decode([GOOD, r]),
    "area": rle.area,
    "toBbox": rle.toBbox,
    "iou dt": lambda r: rle.iou([r], [GOOD], [0]),
    "iou gt": lambda r: rle.iou([GOOD], [r], [1]),
    "iou with nothing": lambda r: rle.iou([r], [], []),
    "merge": lambda r: rle.merge([r]),
    "merge two": lambda r: rle.merge([GOOD, r], True),
    "frPyObjects": lambda r: rle.frPyObjects(r, 4, 5),
    "to_masks": lambda r: rle.to_masks([r]),
}

MALFORMED = {
    "too short": {"size": [4, 5], "counts": b"9220"},
    "no runs": {"size": [4, 5], "counts": b""},
    "too long": {"size": [4, 5], "counts": b"922031"},
    "sums to more": {"size": [4, 4], "counts": b"92203"},
    "negative run": {"size": [4, 5], "counts": b"O92203"},
    "negative by difference": {"size": [4, 5], "counts": b"9220A3"},
    "unterminated": {"size": [4, 5], "counts": b"9220S"},
    "unterminated, without a pixel": {"size": [0, 5], "counts": b"P"},
    "over-long": {"size": [4, 5], "counts": b"o" * 200},
    "over-long zero": {"size": [4, 5], "counts": b"92203" + b"P" * 30 + b"0"},
    "longer than needed": {"size": [4, 5], "counts": b"Y02203"},
    "negative longer than needed": {"size": [4, 5], "counts": b"9220oO"},
    "beyond 64 bits": {"size": [4, 5], "counts": b"PPPPPPPPPPPP6"},
    # A run of 2**62 - 1, and one that is longer than that by as much again.
    "wrapping sum": {"size": [1, 2**62 - 1], "counts": b"0oooooooooooo30oooooooooooo3"},
    "below the alphabet": {"size": [4, 5], "counts": b"92 203"},
    "above the alphabet": {"size": [4, 5], "counts": b"9p2203"},
    "high bytes": {"size": [4, 5], "counts": b"9\xff2203"},
    "NUL": {"size": [4, 5], "counts": b"92203\x00"},
    "non-ASCII": {"size": [4, 5], "counts": "92203\u0131"},
    "non-ASCII, stored as bytes that are valid": {"size": [2, 3], "counts": "\u3636"},
    "surrogate": {"size": [4, 5], "counts": "92203\udcff"},
    "escaped backslash": {"size": [4, 5], "counts": "9\\\\2203"},
    "bytes literal": {"size": [4, 5], "counts": "b'92203'"},
    "negative height": {"size": [-4, 5], "counts": b"92203"},
    "both negative": {"size": [-4, -5], "counts": b"92203"},
    "float height": {"size": [4.0, 5], "counts": b"92203"},
    "float NaN": {"size": [float("nan"), 5], "counts": b"92203"},
    "bool size": {"size": [True, True], "counts": b"1"},
    "numpy bool size": {"size": np.array([True, True]), "counts": b"1"},
    "text size": {"size": ["4", "5"], "counts": b"92203"},
    "size as text": {"size": "45", "counts": b"92203"},
    "three sizes": {"size": [4, 5, 1], "counts": b"92203"},
    "one size": {"size": [20], "counts": b"92203"},
    "nested size": {"size": [[4, 5]], "counts": b"92203"},
    "ragged size": {"size": [4, [5]], "counts": b"92203"},
    "size as matrix": {"size": np.array([[4], [5]]), "counts": b"92203"},
    "no size": {"size": None, "counts": b"92203"},
    "wrapping size": {"size": [2**32, 2**32], "counts": b"0"},
    "huge size": {"size": [10**30, 0], "counts": b""},
    "height beyond the limit, without a pixel": {"size": [2**62, 0], "counts": b""},
    "width beyond the limit, without a pixel": {"size": [0, 2**62], "counts": b""},
    "missing size": {"counts": b"92203"},
    "missing counts": {"size": [4, 5]},
    "counts of None": {"size": [4, 5], "counts": None},
    "counts of int": {"size": [4, 5], "counts": 92203},
}


def is_refused(function, value):
    try:
        function(value)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_rle_raises_value_error_in_every_function(sibling, case):
    assert [name for name, function in EVERY_FUNCTION.items() if not is_refused(function, MALFORMED[case])] == []


def test_ragged_size_is_refused_by_our_own_message():
    with pytest.raises(ValueError, match=r"^width must be an integer, not '\[5\]'$"):
        rle.area(MALFORMED["ragged size"])


NO_RLE = (None, 5, "92203", b"92203", [GOOD], ("size", "counts"))


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (function, value)
        for function in EVERY_FUNCTION
        for value in NO_RLE
        if function != "iou with nothing"  # with an empty list beside them, these can't be told from boxes
        and not (function in ("decode", "area", "toBbox", "frPyObjects") and value == [GOOD])  # which accept lists
    ],
    ids=repr,
)
def test_values_other_than_dicts_raise_type_error(function, value):
    with pytest.raises((TypeError, ValueError) if function in ("frPyObjects", "iou dt", "iou gt") else TypeError):
        EVERY_FUNCTION[function](value)


def test_errors_name_the_item_and_the_likely_cause(sibling):
    with pytest.raises(ValueError, match=r"(?s)item 1: malformed RLE .*JSON.*b'\.\.\.'"):
        rle.area([GOOD, {"size": [4, 5], "counts": "b'92203'"}])
    with pytest.raises(ValueError, match="frPyObjects"):
        rle.decode({"size": [4, 5], "counts": [9, 2, 2, 2, 5]})
    with pytest.raises(ValueError, match=r"sum to 20.*30 pixels"):
        rle.decode({"size": [6, 5], "counts": b"92203"})


def test_different_sizes_raise_value_error(sibling):
    other = rle.encode(np.zeros((5, 4), np.uint8))  # the same number of pixels
    for call in (
        lambda: rle.merge([GOOD, other]),
        lambda: rle.iou([GOOD], [other], [0]),
        lambda: rle.decode([GOOD, other]),
        lambda: rle.to_masks([GOOD, other]),
    ):
        with pytest.raises(ValueError, match="same size"):
            call()


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ([9, 2, 2, 2], [4, 5]),
        ([9, 2, -2, 11], [4, 5]),
        ([9.0, 11.0], [4, 5]),
        ([True, 19], [4, 5]),
        (["9", "11"], [4, 5]),
        ([[9, 11]], [4, 5]),
        ([2**63, 20], [4, 5]),
        ([2**64 + 20], [4, 5]),
        (np.array([9.0, 11.0]), [4, 5]),
        (np.array(20), [4, 6]),
        ([], [4, 5]),
    ],
    ids=str,
)
def test_malformed_uncompressed_runs_raise_value_error(counts, size):
    with pytest.raises(ValueError):
        rle.frPyObjects({"size": size, "counts": counts}, *size)


@pytest.mark.parametrize(
    "shape",
    [
        [],
        [[]],
        [1.0, 2.0, 3.0],
        [[1.0, 2.0, 3.0]],
        [[1.0, 1, 3, 1, 3, 3, 7]],
        [[1.0, 1, 3, 1, 3, float("nan")]],
        [[1.0, 1, 3, 1, 3, float("inf")]],
        [[1.0, 1, 3, 1, 3, 1e300]],
        [["a", "b", "c", "d", "e", "f"]],
        [[[1.0, 1], [3, 1], [3, 3]]],
        [[1, 1, 2, 2], [1.0, 1, 3, 1, 3, 3]],
        np.zeros((2, 6)),
        np.zeros((1, 2, 4)),
        [None],
    ],
    ids=str,
)
def test_malformed_polygons_and_boxes_raise_value_error(sibling, shape):
    with pytest.raises(ValueError):
        rle.frPyObjects(shape, 9, 9)


def test_odd_number_of_coordinates_is_named(sibling):
    with pytest.raises(ValueError, match="even number of coordinates, x and y of each vertex; got 7"):
        rle.frPyObjects([[1.0, 1, 3, 1, 3, 3, 7]], 9, 9)


@pytest.mark.parametrize("size", [(-1, 5), (4.5, 5), (True, 5), ("4", 5), (2**40, 2**40), (None, 5)], ids=str)
def test_malformed_sizes_raise_value_error(sibling, size):
    with pytest.raises(ValueError):
        rle.frPyObjects([[1.0, 1, 3, 1, 3, 3]], *size)


def test_coordinates_are_limited_to_those_of_cocos_32_bits(sibling):
    limit = 4e8
    square = [-limit, -limit, limit, -limit, limit, limit, -limit, limit]
    (mask,) = rle.frPyObjects([square], 3, 4)
    assert rle.area(mask) == 12
    for beyond in (np.nextafter(limit, np.inf), -limit - 1, 1e300):
        with pytest.raises(ValueError, match="finite and at most 400000000 in magnitude"):
            rle.frPyObjects([[*square[:7], beyond]], 3, 4)


def test_polygon_with_too_many_columns_raises_value_error(sibling):
    with pytest.raises(ValueError, match="pixel columns"):
        rle.frPyObjects([[0.0, 0, 4e8, 0, 4e8, 1]], 1, 2**40)


@pytest.mark.parametrize(
    ("dt", "gt", "crowd", "error"),
    [
        ([GOOD], [GOOD], [0, 0], ValueError),
        ([GOOD], [GOOD], [[0]], ValueError),
        ([GOOD], [[0.0, 0, 1, 1]], [0], TypeError),
        (np.zeros((1, 4)), [GOOD], [0], TypeError),
        (GOOD, [GOOD], [0], TypeError),
        ([GOOD, None], [GOOD], [0], TypeError),
        ("boxes", [GOOD], [0], TypeError),
        (np.zeros((1, 4)), np.zeros((3, 4)), [0], ValueError),
        ([], [], [0], ValueError),
        (np.zeros((1, 5)), np.zeros((1, 4)), [0], ValueError),
        (np.zeros(4), np.zeros((1, 4)), [0], ValueError),
        (np.full((1, 4), np.nan), np.zeros((1, 4)), [0], ValueError),
        ([["a", 0, 1, 1]], np.zeros((1, 4)), [0], ValueError),
    ],
)
def test_malformed_iou_arguments_raise(dt, gt, crowd, error):
    with pytest.raises(error):
        rle.iou(dt, gt, crowd)


@pytest.mark.parametrize(
    "masks",
    [
        np.zeros((2, 3)),
        np.zeros(3, np.uint8),
        np.zeros((1, 2, 3, 4), np.uint8),
        np.zeros((2, 2), np.int64),
        "mask",
        None,
    ],
    ids=str,
)
def test_malformed_mask_arrays_raise_value_error(sibling, masks):
    with pytest.raises(ValueError):
        rle.encode(masks)
    with pytest.raises(ValueError):
        rle.from_masks(masks)


def test_malformed_mask_tensors_raise_value_error(sibling):
    for masks in (torch.zeros(2, 3, dtype=torch.bool), torch.zeros(1, 2, 3)):
        with pytest.raises(ValueError):
            rle.from_masks(masks)
