"""Which RLE dicts the compiled module takes without tensors, and which it leaves to the general path."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from fastsam_core import _rle_dicts, rle
from fastsam_core.ops._native import cpu_module

pytestmark = pytest.mark.skipif(cpu_module is None, reason="no native operations")

A, B = {"size": [4, 5], "counts": b"92203"}, {"size": (4, 5), "counts": "92203"}
OTHER_SIZE = {"size": [5, 4], "counts": b"92203"}


def calls(rles: Any) -> dict[str, Any]:
    """Return what each function of the module returns for RLE dicts, None if it doesn't take them."""
    return {
        "area": cpu_module.coco_area(rles, 1),
        "to_bbox": cpu_module.coco_to_bbox(rles, 1),
        "decode": cpu_module.coco_decode(rles, False, 1),
        "decode rows": cpu_module.coco_decode(rles, True, 1),
        "iou dt": cpu_module.coco_iou(rles, [A], [0], 1),
        "iou gt": cpu_module.coco_iou([A], rles, [0] * len(rles), 1),
        "iou with itself": cpu_module.coco_iou(rles, rles, [0] * len(rles), 1),
        "merge": cpu_module.coco_merge(rles, False, 1),
        "runs": cpu_module.coco_runs(rles),
    }


@pytest.mark.parametrize("rles", [[A], (A, B), [B, A, B]], ids=str)
def test_lists_and_tuples_of_dicts_are_taken(rles, monkeypatch):
    taken = calls(rles)
    monkeypatch.setattr(_rle_dicts, "native", None)
    general = {
        "area": rle.area(rles),
        "to_bbox": rle.toBbox(rles),
        "decode": rle.decode(rles),
        "decode rows": rle.to_masks(rles).numpy(),
        "iou dt": rle.iou(rles, [A], [0]),
        "iou gt": rle.iou([A], rles, [0] * len(rles)),
        "iou with itself": rle.iou(rles, rles, [0] * len(rles)),
    }
    for name, expected in general.items():
        assert np.array_equal(taken[name], expected), name
    assert taken["merge"] == rle.merge(rles)
    assert [part.tolist() for part in taken["runs"][:2]] == [part.tolist() for part in _rle_dicts.unpack(rles)[:2]]


def test_a_single_dict_is_taken_where_that_has_a_meaning():
    assert {name for name, result in calls(A).items() if result is None} == {
        *("iou dt", "iou gt", "iou with itself", "merge"),
    }


class Text(str):
    pass


@pytest.mark.parametrize(
    "rles",
    [
        [OrderedDict(A)],
        [A, None],
        [{**A, "size": np.array([4, 5])}],
        [{**A, "size": [np.int64(4), 5]}],
        [{**A, "size": [4, True], "counts": b"4"}],
        [{**A, "size": [4, 5, 1]}],
        [{**A, "size": "45"}],
        [{**A, "size": [4, -5]}],
        [{**A, "size": [2**62, 0], "counts": b""}],
        [{**A, "size": [2**64, 0], "counts": b""}],
        [{**A, "counts": bytearray(b"92203")}],
        [{**A, "counts": Text("92203")}],
        [{**A, "counts": "9220\u0133"}],
        [{**A, "counts": b"9220"}],
        [{**A, "counts": b"922031"}],
        [{"size": [4, 5]}],
        [{"counts": b"92203"}],
        "ab",
    ],
    ids=str,
)
def test_other_values_and_malformed_masks_are_left_to_the_general_path(rles):
    assert [name for name, result in calls(rles).items() if result is not None] == []


def test_masks_of_several_sizes_are_only_taken_where_sizes_may_differ():
    assert [name for name, result in calls([A, OTHER_SIZE]).items() if result is not None] == [
        "area",
        "to_bbox",
        "runs",
    ]
    assert cpu_module.coco_iou([A], [OTHER_SIZE], [0], 1) is None
    assert cpu_module.coco_iou([A], [{**OTHER_SIZE, "size": [4, 6], "counts": b"92207"}], [0], 1) is None


def test_no_masks_are_taken_where_the_result_needs_no_size():
    assert [name for name, result in calls([]).items() if result is not None] == ["area", "to_bbox", "runs"]


def test_results_beyond_their_type_or_two_gibibytes_are_left_to_the_general_path():
    def full(height: int, width: int) -> dict[str, Any]:
        return rle.frPyObjects({"size": [height, width], "counts": [0, height * width]}, height, width)

    assert cpu_module.coco_area(full(2**16, 2**16), 1) is None
    assert cpu_module.coco_area([full(2**16, 2**16 - 1)], 1).tolist() == [2**32 - 2**16]
    assert cpu_module.coco_decode(full(2**16, 2**15 + 1), False, 1) is None
    assert cpu_module.coco_decode([full(2**31, 2**31 - 1)] * 4, False, 1) is None  # about 2^64 bytes
    assert cpu_module.coco_encode(np.broadcast_to(np.uint8(0), (1, 2**32)), True, False, 1) is None


@pytest.mark.parametrize(
    ("masks", "last"),
    [
        (np.zeros((2, 3), np.uint8), False),
        (np.zeros(3, np.uint8), True),
        (np.zeros((1, 1, 2, 3), np.uint8), True),
        (np.zeros((1, 2, 3), np.int8), True),
        (np.zeros((1, 2, 3), np.uint16), True),
        (np.zeros((1, 2, 3), "S1"), True),
    ],
    ids=str,
)
def test_other_mask_arrays_are_left_to_the_general_path(masks, last):
    assert cpu_module.coco_encode(masks, last, False, 1) is None
