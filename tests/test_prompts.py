"""`Prompts`: accepted forms of points, boxes and masks, error messages, batches, and conversion to model input."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastsam_core import Boxes, Masks
from fastsam_core.prompts import BINARY_LOGIT, Prompts


def read(**kwargs: Any) -> Prompts:
    prompts = Prompts.parse(**kwargs)
    assert prompts is not None
    return prompts


POINT_FORMS = [
    ([900, 370], None, [[[900, 370]]], [[1]]),
    ((900.5, 370), [0], [[[900.5, 370]]], [[0]]),
    ([900, 370], 1, [[[900, 370]]], [[1]]),
    ([900, 370], [[1]], [[[900, 370]]], [[1]]),
    ([[1, 2], [3, 4]], None, [[[1, 2]], [[3, 4]]], [[1], [1]]),
    ([[1, 2], [3, 4]], [1, 1], [[[1, 2]], [[3, 4]]], [[1], [1]]),
    ([[1, 2], [3, 4]], [[1], [1]], [[[1, 2]], [[3, 4]]], [[1], [1]]),
    ([[[1, 2], [3, 4]]], None, [[[1, 2], [3, 4]]], [[1, 1]]),
    ([[[1, 2], [3, 4]]], [1, 0], [[[1, 2], [3, 4]]], [[1, 0]]),
    ([[[1, 2], [3, 4]]], [[1, 0]], [[[1, 2], [3, 4]]], [[1, 0]]),
    ([[[1, 2], [3, 4]]], 0, [[[1, 2], [3, 4]]], [[0, 0]]),
    ([[[1, 2]], [[3, 4]]], [1], [[[1, 2]], [[3, 4]]], [[1], [1]]),
    ([[[1, 2], [3, 4]]], [2, 3], [[[1, 2], [3, 4]]], [[2, 3]]),  # corners of a box
    # Ragged lists are padded with label -1; the model never sees the padding.
    ([[[1, 2], [3, 4]], [[5, 6]]], None, [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], [[1, 1], [1, -1]]),
    ([[[1, 2], [3, 4]], [[5, 6]]], [[1, 0], [0]], [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], [[1, 0], [0, -1]]),
    ([[[1, 2], [3, 4]], [[5, 6]]], [[1, 0], 0], [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], [[1, 0], [0, -1]]),
    ([[[1, 2], [3, 4]], [5, 6]], 1, [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], [[1, 1], [1, -1]]),
]


@pytest.mark.parametrize(("points", "labels", "expected", "expected_labels"), POINT_FORMS)
def test_forms_of_points_and_labels(points: Any, labels: Any, expected: Any, expected_labels: Any) -> None:
    prompts = read(points=points, labels=labels)
    assert prompts.points is not None and prompts.labels is not None
    assert prompts.points.dtype == torch.float32 and prompts.labels.dtype == torch.int64
    assert prompts.points.tolist() == expected
    assert prompts.labels.tolist() == expected_labels
    assert prompts.counts == tuple(sum(label != -1 for label in row) for row in expected_labels)
    assert len(prompts) == len(expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda values: np.array(values, np.float64),
        lambda values: np.array(values, np.int16),
        lambda values: torch.tensor(values, dtype=torch.bfloat16),
        lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True),
        lambda values: [torch.tensor(value, dtype=torch.bfloat16) for value in values],
        lambda values: [[torch.tensor(float(number), requires_grad=True) for number in value] for value in values],
        lambda values: tuple(np.array(value) for value in values),
    ],
)
def test_arrays_tensors_and_sequences_are_read(make: Any) -> None:
    points = read(points=make([[16, 32], [64, 128]]), labels=[1, 1]).points
    boxes = read(bboxes=make([[1, 2, 3, 4], [5, 6, 7, 8]])).boxes
    assert points is not None and points.tolist() == [[[16, 32]], [[64, 128]]]
    assert boxes is not None and boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert boxes.dtype == torch.float32 and not boxes.requires_grad


@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 4)), torch.zeros(0, 2), np.zeros((0, 3, 2))])
def test_empty_lists_are_prompts_for_nothing(empty: Any) -> None:
    for key in ("bboxes", "points"):
        prompts = read(**{key: empty})
        assert len(prompts) == 0
        assert list(prompts.batches(4)) == []
    assert len(read(points=empty, labels=[])) == 0
    for masks in ([], np.zeros((0, 8, 8), bool), torch.zeros(0, 1, 8, 8)):
        assert len(read(masks=masks)) == 0
    with pytest.raises(ValueError, match=r"shape \(2, 0, 8\)"):
        read(masks=np.zeros((2, 0, 8), bool))


def test_read_without_arguments_returns_none() -> None:
    assert Prompts.parse() is None


def test_arguments_are_not_modified_or_shared() -> None:
    points, labels = torch.tensor([[[10.0, 20.0], [30.0, 40.0]]]), np.array([[1, 0]])
    boxes, masks = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), np.zeros((1, 30, 40), np.float32)
    before = [copy.deepcopy(value) for value in (points, labels, boxes, masks)]
    prompts = read(bboxes=boxes, points=points, labels=labels, masks=masks)
    first = prompts.to_model_inputs((30, 40), (48, 64), 64)
    second = prompts.to_model_inputs((30, 40), (48, 64), 64)
    for name, value in first.items():
        assert torch.equal(value, second[name])
    for value, old in zip((points, labels, boxes, masks), before, strict=True):
        assert bool((value == old).all())
    boxes[:] = 99
    assert prompts.boxes is not None and prompts.boxes.tolist() == [[1, 2, 3, 4]]


def test_to_model_scales_each_axis_by_its_own_factor() -> None:
    # 201 x 2048 becomes 101 x 1024, i.e. a factor of 0.50249 vertically and 0.5 horizontally.
    inputs = read(bboxes=[0, 100, 2000, 200], points=[1000, 201]).to_model_inputs((201, 2048), (101, 1024), 1024)
    expected = torch.tensor([[0, 100 * 101 / 201, 1000, 200 * 101 / 201]])
    assert torch.allclose(inputs["boxes"], expected)
    assert torch.allclose(inputs["points"], torch.tensor([[[500.0, 101.0]]]))
    assert inputs["labels"].tolist() == [[1]]


def test_batches_group_objects_by_point_count() -> None:
    points = [[[0, 0]] * count for count in (2, 1, 2, 3, 2)]
    prompts = read(points=points, bboxes=np.arange(20).reshape(5, 4))
    seen: dict[int, int] = {}
    for index, part in prompts.batches(2):
        assert len(part) == len(index) <= 2
        assert part.points is not None and part.labels is not None and part.boxes is not None
        assert not (part.labels == -1).any()
        assert part.boxes[:, 0].tolist() == (4 * index).tolist()
        seen.update(dict.fromkeys(index.tolist(), part.points.shape[1]))
    assert seen == {0: 2, 1: 1, 2: 2, 3: 3, 4: 2}


def test_object_without_points_needs_a_box() -> None:
    prompts = read(points=[[], [[1, 2]]], bboxes=[[1, 2, 3, 4], [5, 6, 7, 8]])
    parts = {int(index[0]): part for index, part in prompts.batches(8)}
    assert parts[0].points is None and parts[0].labels is None
    assert parts[1].points is not None and parts[1].points.tolist() == [[[1, 2]]]
    assert read(points=np.zeros((2, 0, 2)), bboxes=[[1, 2, 3, 4], [5, 6, 7, 8]]).counts == (0, 0)
    for points in ([[], [[1, 2]]], [[]], np.zeros((1, 0, 2))):
        with pytest.raises(ValueError, match="object 0 has no points"):
            read(points=points)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"points": [1, 2, 3]}, r"shape \(3,\)"),
        ({"points": 5}, "N x P x 2"),
        ({"points": np.zeros((1, 1, 1, 2))}, "N x P x 2"),
        ({"points": [[1, 2], [3]]}, "object 1"),
        ({"points": [[[1, 2], [3]], [[1, 2]]]}, "object 0"),
        ({"points": [1, float("nan")]}, "finite pixel coordinates of at most 1e9 in magnitude; found nan"),
        ({"points": [1, 1e300]}, "at most 1e9 in magnitude; found 1e.300"),
        ({"bboxes": [1, 2, 3]}, "x1, y1, x2, y2"),
        ({"bboxes": [[1, 2, 3, 4], [1, 2]]}, "one length"),
        ({"bboxes": [1, 2, 3, float("-inf")]}, "finite"),
        ({"bboxes": np.zeros((1, 1, 4))}, "N x 4"),
        ({"bboxes": [1, 2, 3, 4], "points": [[1, 2], [3, 4]]}, "bboxes for 1, points for 2"),
        ({"bboxes": [], "points": [1, 2]}, "bboxes for 0, points for 1"),
        ({"points": [1, 2], "labels": [1, 0]}, "labels are for 2 objects"),
        ({"points": [[1, 2], [3, 4]], "labels": [[1, 0]]}, r"points=\[\[\[x, y\]"),
        ({"points": [[[1, 2], [3, 4]]], "labels": [1, 0, 1]}, "2 points but labels"),
        ({"points": [[[1, 2], [3, 4]], [[5, 6]]], "labels": [[1, 1], [1, 1]]}, "object 1 has 1 points"),
        ({"points": [[[1, 2], [3, 4]], [[5, 6]]], "labels": [[1, 1], [[1], [1, 1]]]}, "labels of one object .* length"),
        ({"points": [1, 2], "labels": 7}, "labels must be 1"),
        ({"points": [1, 2], "labels": 0.5}, "labels must be 1"),
        ({"masks": np.zeros((2, 2, 2, 2))}, "shape"),
        ({"masks": [[0.5, float("inf")]]}, "finite logits, at most 1e.15 in magnitude; found inf"),
        ({"masks": [[0.5, float("nan")]]}, "finite logits, at most 1e.15 in magnitude; found nan"),
        ({"masks": np.float32([[0, -1e30]])}, "finite logits, at most 1e.15 in magnitude; found -1e.30"),
        ({"masks": np.array([[1e300, 0]])}, "finite logits, at most 1e.15 in magnitude; found 1e.300"),
        ({"masks": np.full((3, 3), 7)}, "0 and 1"),
        ({"masks": np.full((3, 3), -1, np.int8)}, "0 and 1"),  # the bits of 255
        ({"masks": [np.zeros((2, 2)), np.zeros((2, 2), bool)]}, "mix floating-point logits with bool"),
        ({"masks": [[1, 0], [1]]}, "one shape"),
        ({"masks": [np.zeros((2, 2)), np.zeros((3, 3))]}, "different shapes"),
        ({"masks": np.zeros((2, 8, 8)), "bboxes": [1, 2, 3, 4]}, "masks for 2"),
    ],
)
def test_bad_values_raise_value_error(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompts.parse(**kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"points": "900,370"},
        {"points": {"x": 1}},
        {"points": [None, 1]},
        {"bboxes": object()},
        {"points": [1, 2], "labels": "1"},
        {"masks": "mask.png"},
        {"masks": torch.zeros(4, 4, dtype=torch.complex64)},
        {"points": np.array([1j, 2])},
    ],
)
def test_non_numeric_values_raise_type_error(kwargs: dict) -> None:
    with pytest.raises(TypeError, match="must be"):
        Prompts.parse(**kwargs)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(4, device="meta"), torch.zeros(4).to_sparse()],
)
def test_meta_and_sparse_tensors_raise_type_error(tensor: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="bboxes must be a plain tensor"):
        Prompts.parse(bboxes=tensor)
    with pytest.raises(TypeError, match="masks must be a plain tensor"):
        Prompts.parse(masks=tensor)


def test_object_arrays_are_read_and_huge_numbers_refused() -> None:
    assert read(bboxes=np.array([1, 2.5, 3, np.int64(4)], object)).boxes.tolist() == [[1, 2.5, 3, 4]]
    with pytest.raises(TypeError, match="bboxes must be numbers"):
        Prompts.parse(bboxes=np.array([1, "2", 3, 4], object))
    for far in (10**30, 1e38, -2e9):  # finite here, but the network would compute NaN
        with pytest.raises(ValueError, match="finite pixel coordinates"):
            Prompts.parse(bboxes=[0, 0, 5, far])
    with pytest.raises(TypeError, match="too large for a coordinate"):
        Prompts.parse(points=[0, 10**400])


def test_boxes_and_masks_of_results_are_accepted() -> None:
    boxes = Boxes(torch.tensor([[1.0, 2, 30, 40, 0.5, 0]]), (48, 64))
    masks = Masks(torch.ones(1, 48, 64, dtype=torch.bool), (48, 64))
    prompts = read(bboxes=boxes, masks=masks)
    assert prompts.boxes.tolist() == [[1, 2, 30, 40]] and prompts.masks.shape == (1, 48, 64)
    other = SimpleNamespace(xyxy=np.array([[1, 2, 30, 40]]))  # of another package
    assert torch.equal(read(bboxes=other).boxes, prompts.boxes)
    assert read(masks=np.zeros((48, 64), np.longdouble)).masks.dtype == torch.float64


def test_object_with_only_background_points_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    read(points=[[[1, 2], [3, 4]]], labels=[[1, 0]])
    read(points=[[1, 2], [3, 4]], labels=[1, 1])
    assert not caplog.records
    read(points=[[1, 2], [3, 4]], labels=[1, 0])
    read(points=[[1, 2], [3, 4]], labels=[1, 0])
    assert len(caplog.records) == 1
    assert "separate objects" in caplog.text


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"bboxes": [30, 40, 20, 10]}, "x, y, x + width, y + height"),
        ({"bboxes": [0.1, 0.2, 0.5, 0.9]}, "all bboxes lie in the first pixel"),
        ({"points": [[[0.5, 0.5]], [[0.2, 1]]]}, "all points lie in the first pixel"),
        ({"points": [64.5, 5]}, "outside its image"),
        ({"bboxes": [1, 2, 3, 4], "labels": [1]}, "labels have no effect without points"),
        ({"points": [[[5, 5], [5, -1]], [[1, 1]]]}, "outside its image"),
        ({"bboxes": [[1, 2, 3, 4], [70, 2, 90, 4]]}, "outside its image"),
        ({"bboxes": [0, 0, 1, 1]}, ""),
        ({"bboxes": [-5, -5, 900, 900], "points": [0, 0]}, ""),
        ({"points": [[[64, 48], [0.5, 0.5]], [[1, 1]]], "labels": 0}, ""),
        ({"points": [], "bboxes": []}, ""),
    ],
)
def test_implausible_coordinates_are_warned_about(
    prompt: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    read(**prompt).check((48, 64), 64)
    assert [message in record.message for record in caplog.records] == [True] * bool(message)


# --- masks ---


def model_mask(masks: Any, original: tuple[int, int], resized: tuple[int, int], size: int) -> torch.Tensor:
    prompts = read(masks=masks)
    prompts.check(original, size)
    logits = prompts.to_model_inputs(original, resized, size)["masks"]
    assert logits.dtype == torch.float32 and logits.shape[1:] == (1, size // 4, size // 4)
    return logits[:, 0]


def test_low_resolution_mask_logits_are_unchanged() -> None:
    logits = torch.randn(3, 16, 16)
    assert torch.equal(model_mask(logits, (30, 40), (48, 64), 64), logits)
    assert torch.equal(model_mask(logits[:, None], (30, 40), (48, 64), 64), logits)
    narrow = logits.bfloat16().requires_grad_()
    assert torch.equal(model_mask(list(narrow), (30, 40), (48, 64), 64), narrow.detach().float())
    assert torch.equal(model_mask(logits[0].double().numpy(), (30, 40), (48, 64), 64)[0], logits[0])


def test_image_sized_mask_is_resized_and_padded_as_the_image() -> None:
    mask = np.random.default_rng(0).normal(size=(24, 32)).astype(np.float32)
    # Nearest-neighbour resizing to 48 x 64 doubles every pixel; the last quarter of the square is padding.
    square = np.zeros((64, 64), np.float32)
    square[:48] = mask.repeat(2, 0).repeat(2, 1)
    expected = F.interpolate(torch.from_numpy(square)[None, None], size=(16, 16), mode="bilinear")[0, 0]
    got = model_mask(mask, (24, 32), (48, 64), 64)[0]
    assert torch.equal(got, expected)
    assert bool((got[12:] == 0).all()) and bool((got[:12] != 0).any())


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.uint16])
def test_binary_masks_become_logits(dtype: Any) -> None:
    mask = np.zeros((16, 16), dtype)
    mask[2:6, 3:9] = 1
    expected = torch.where(torch.from_numpy(mask.astype(bool)), BINARY_LOGIT, -BINARY_LOGIT)
    for given in (mask, mask[::-1][::-1], mask[None], mask.tolist(), [mask], (mask * 255).astype(np.uint8)):
        assert torch.equal(model_mask(given, (30, 40), (48, 64), 64)[0], expected)


def test_masks_of_another_shape_raise_value_error() -> None:
    with pytest.raises(ValueError, match=r"\(30, 40\), or \(16, 16\)"):
        model_mask(np.zeros((20, 20), np.float32), (30, 40), (48, 64), 64)


@pytest.mark.parametrize("kind", ["read-only", "reversed", "big-endian"])
def test_read_only_reversed_and_big_endian_masks(kind: str) -> None:
    mask = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    given = mask[::-1] if kind == "reversed" else mask.astype(">f4" if kind == "big-endian" else "<f4")
    given.flags.writeable = kind != "read-only"
    got = model_mask(given, (30, 40), (48, 64), 64)[0]
    assert torch.equal(got, torch.from_numpy(np.array(given, np.float32)))
