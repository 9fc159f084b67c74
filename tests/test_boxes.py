"""Boxes: the attributes of Ultralytics' class, for tensors and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import scene
from fastsam_core.results import Boxes, Results


def test_boxes_coordinates_conf_and_cls() -> None:
    boxes = Boxes(torch.tensor([[10.0, 20, 30, 60, 0.5, 2]]), (100, 200))
    assert boxes.xyxy.tolist() == [[10, 20, 30, 60]]
    assert boxes.xywh.tolist() == [[20, 40, 20, 40]]
    torch.testing.assert_close(boxes.xyxyn, torch.tensor([[0.05, 0.2, 0.15, 0.6]]))
    torch.testing.assert_close(boxes.xywhn, torch.tensor([[0.1, 0.4, 0.1, 0.4]]))
    assert boxes.conf.tolist() == [0.5] and boxes.cls.tolist() == [2.0]
    assert boxes.id is None and not boxes.is_track
    assert boxes.shape == (1, 6) and len(boxes) == 1


def test_boxes_with_track_ids() -> None:
    boxes = Boxes(torch.tensor([10.0, 20, 30, 60, 7, 0.5, 2]), (100, 200))
    assert boxes.is_track and boxes.id is not None
    assert (boxes.id.tolist(), boxes.conf.tolist(), boxes.cls.tolist()) == ([7], [0.5], [2])


def test_boxes_as_arrays_match_tensors() -> None:
    tensor = scene.results().boxes
    assert tensor is not None
    array = tensor.numpy()
    for name in ("data", "xyxy", "xywh", "xyxyn", "xywhn", "conf", "cls"):
        assert isinstance(getattr(array, name), np.ndarray)
        np.testing.assert_allclose(getattr(array, name), getattr(tensor, name), rtol=1e-6)
    assert isinstance(array[0].to("cpu").data, torch.Tensor)


def test_indexing_boxes_keeps_two_dimensions() -> None:
    boxes = scene.results().boxes
    assert boxes is not None
    assert boxes[1].shape == (1, 6) and boxes[-1].cls.tolist() == [3]
    assert [box.cls.tolist() for box in boxes] == [[0], [1], [2], [3]]
    assert boxes[boxes.conf > 0.8].cls.tolist() == [0, 1]


@pytest.mark.parametrize("empty", [[], torch.tensor([]), np.array([])])
def test_empty_data_is_no_box(empty: Any) -> None:
    found = Results(np.zeros((4, 5, 3), np.uint8), "a.jpg", {}, boxes=empty)
    assert found.boxes is not None and found.boxes.shape == (0, 6) and len(found) == 0
    found.update(boxes=empty)
    assert found.boxes.xywhn.shape == (0, 4)


@pytest.mark.parametrize("data", [torch.zeros(2, 5), torch.zeros(8), np.zeros((1, 2, 6)), torch.tensor(1.0)])
def test_boxes_of_other_shapes_raise_value_error(data: Any) -> None:
    with pytest.raises(ValueError, match="boxes are"):
        Boxes(data, (10, 10))


def test_boxes_of_other_types_raise_type_error() -> None:
    with pytest.raises(TypeError, match="list"):
        Boxes([[1, 2, 3, 4, 5, 6]], (10, 10))  # type: ignore[arg-type]


def test_clipped_does_not_modify_the_given_data() -> None:
    with torch.inference_mode():
        given = torch.tensor([[-5.0, -5, 300, 300, 0.5, 0]])
    boxes = Boxes(given, (100, 200)).clipped()
    assert boxes.xyxy.tolist() == [[0, 0, 200, 100]]
    assert given[0, 0] == -5
    assert Boxes(given.numpy(), (100, 200)).clipped().xyxy.tolist() == [[0, 0, 200, 100]]
    tracked = Boxes(torch.tensor([[-5.0, -5, 300, 300, 777, 0.5, 0]]), (100, 200)).clipped()
    assert tracked.data.tolist() == [[0, 0, 200, 100, 777, 0.5, 0]]


def test_repr_names_the_sizes() -> None:
    assert repr(Boxes(torch.zeros(2, 6), (48, 64))) == "Boxes(2 x 6, image 48 x 64)"


def test_boxes_as_an_array_share_its_memory() -> None:
    boxes = Boxes(torch.zeros(2, 6), (48, 64))
    assert np.shares_memory(np.asarray(boxes), boxes.data.numpy())


def test_bfloat16_boxes_convert_to_numpy() -> None:
    rows = [[8.0, 2, 16, 4, 0.5, 1]]
    array = Boxes(torch.tensor(rows, dtype=torch.bfloat16), (48, 64)).numpy()
    assert array.data.dtype == np.float32 and array.data.tolist() == rows


def test_boxes_of_reversed_and_read_only_arrays_become_tensors() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    moved = Boxes(rows[::-1], (48, 64)).to("cpu")
    assert isinstance(moved.data, torch.Tensor) and moved.data.tolist() == rows[::-1].tolist()
    rows.setflags(write=False)
    moved = Boxes(rows, (48, 64)).to("cpu")
    moved.data[0] = -1  # not the memory that the array protects
    assert rows[0, 0] == 0
