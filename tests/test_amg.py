"""Tests the functions of Meta's and Ultralytics' `amg` module against plain loops, and `build`'s models by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsam_core.segment_anything.utils.amg as metas_path
from fastsam_core import rle
from fastsam_core.everything.crops import crop_boxes, is_near_crop_edge
from fastsam_core.everything.grid import point_grid
from fastsam_core.models.sam import amg, build
from fastsam_core.models.sam_model import SamModel
from small_model import small_weights
from test_small_regions import regions


def random_masks(seed: int) -> Tensor:
    generator = np.random.default_rng(seed)
    count, height, width = generator.integers(1, [4, 20, 20])
    return torch.from_numpy(generator.random((count, height, width)) < generator.random())


each_seed = pytest.mark.parametrize("seed", range(20))


@each_seed
def test_boxes_of_masks(seed: int) -> None:
    masks = random_masks(seed)
    masks[0] &= seed % 3 > 0
    for mask, box in zip(masks, amg.batched_mask_to_box(masks).tolist(), strict=True):
        y, x = (axis.tolist() for axis in mask.nonzero(as_tuple=True))
        assert box == ([min(x), min(y), max(x), max(y)] if x else [0] * 4)
        assert amg.batched_mask_to_box(mask).tolist() == box
    assert torch.equal(amg.batched_mask_to_box(masks[None])[0], amg.batched_mask_to_box(masks))
    assert amg.batched_mask_to_box(masks[:0]).shape == (0, 4)


def test_stability_score() -> None:
    logits = torch.tensor([[[-3.0, -0.5, 0.5, 3.0]], [[9.0, 9.0, 9.0, 9.0]], [[-9.0, -9.0, -9.0, -9.0]]])
    score = amg.calculate_stability_score(logits, 0.0, 1.0)
    assert score.dtype == torch.float32 and score[:2].tolist() == [pytest.approx(1 / 3), 1.0] and score[2].isnan()
    assert amg.calculate_stability_score(logits, 2.5, 0.1)[0] == 1.0


@each_seed
@pytest.mark.parametrize("mode", ["holes", "islands"])
def test_remove_small_regions(seed: int, mode: str) -> None:
    mask = random_masks(seed)[0].numpy()
    given = mask.copy()
    cleaned, changed = amg.remove_small_regions(mask, 4.0, mode)
    assert np.array_equal(mask, given) and cleaned.dtype == bool
    found = [set(region) for region in regions(~mask if mode == "holes" else mask)]
    small = [region for region in found if len(region) < 4]
    assert changed == bool(small)
    differ = set(zip(*np.nonzero(cleaned != mask), strict=True))
    if mode == "islands" and found and len(small) == len(found):
        stays = set().union(*found) - differ
        assert stays in found and len(stays) == max(map(len, found))
    else:
        assert differ == set().union(*small)


def test_remove_small_regions_refuses_other_modes_and_shapes() -> None:
    with pytest.raises(ValueError, match="'holes' or 'islands', not 'both'"):
        amg.remove_small_regions(np.zeros((2, 2), bool), 1, "both")
    with pytest.raises(ValueError, match=r"shape \(H, W\), not \(1, 2, 2\)"):
        amg.remove_small_regions(np.zeros((1, 2, 2), bool), 1, "holes")


@pytest.mark.parametrize("mode", ["holes", "islands"])
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_mask_without_pixels_has_no_small_regions(shape: tuple[int, int], mode: str) -> None:
    cleaned, changed = amg.remove_small_regions(np.zeros(shape, bool), 4.0, mode)
    assert cleaned.shape == shape and not changed


@each_seed
def test_rle_round_trip(seed: int) -> None:
    masks = random_masks(seed)
    for mask, found in zip(masks.numpy(), amg.mask_to_rle_pytorch(masks), strict=True):
        assert found["size"] == list(mask.shape) and sum(found["counts"]) == mask.size
        assert np.array_equal(amg.rle_to_mask(found), mask)
        assert amg.area_from_rle(found) == mask.sum()
        packed = amg.coco_encode_rle(found)
        assert isinstance(packed["counts"], str) and np.array_equal(rle.decode(packed), mask)


def test_crop_boxes_and_uncropping() -> None:
    size = 300, 451
    boxes, layers = amg.generate_crop_boxes((*size, 3), 2, 0.3)
    assert [(tuple(box), layer) for box, layer in zip(boxes, layers, strict=True)] == crop_boxes(size, 2, 0.3)
    crop, whole_image = boxes[3], [0, 0, size[1], size[0]]
    x0, y0, x1, y1 = crop
    of_crop = torch.randint(0, 150, (40, 4), generator=torch.Generator().manual_seed(0)).float()
    placed = amg.uncrop_boxes_xyxy(of_crop, crop)
    assert torch.equal(placed, of_crop + torch.tensor([x0, y0, x0, y0]))
    near = amg.is_box_near_crop_edge(of_crop, crop, whole_image)
    assert near.any() and not near.all()
    assert near.tolist() == is_near_crop_edge(placed.numpy(), (x0, y0, x1, y1), size).tolist()
    assert torch.equal(amg.uncrop_points(of_crop[:, :2], crop), placed[:, :2])
    masks = torch.rand(2, y1 - y0, x1 - x0) < 0.5
    whole = amg.uncrop_masks(masks, crop, *size)
    assert whole.shape == (2, *size) and torch.equal(whole[:, y0:y1, x0:x1], masks) and whole.sum() == masks.sum()
    assert amg.uncrop_masks(whole, whole_image, *size) is whole


def test_point_grids_and_batch_iterator() -> None:
    grid = amg.build_point_grid(5)
    assert np.array_equal(grid, point_grid(5))
    grid[0] = 7.0  # the caller's own
    assert point_grid(5)[0, 0] == 0.1
    assert [len(points) for points in amg.build_all_layer_point_grids(8, 2, 2)] == [64, 16, 4]
    assert list(amg.batch_iterator(2, [1, 2, 3], "abc")) == [[[1, 2], "ab"], [[3], "c"]]
    for wrong in ((2, [1], [1, 2]), (0, [1]), (2,)):
        with pytest.raises(ValueError, match="batch_iterator needs"):
            list(amg.batch_iterator(*wrong))  # type: ignore[arg-type]
    for box in (torch.tensor([1, 2, 5, 9]), np.array([1, 2, 5, 9]), torch.tensor([[1, 2, 5, 9]])):
        assert amg.box_xyxy_to_xywh(box).reshape(-1).tolist() == [1, 2, 4, 7] and box.reshape(-1)[2] == 5
    assert amg.box_xyxy_to_xywh([1, 2, 5, 9]) == [1, 2, 4, 7]


def test_mask_data_filter_cat_and_to_numpy() -> None:
    data = amg.MaskData(names=["a", "b", "c"])
    data["scores"], data["boxes"] = torch.tensor([0.1, 0.2, 0.3]), np.arange(12).reshape(3, 4)
    data.filter(torch.tensor([True, False, True]))
    assert data["names"] == ["a", "c"] and data["boxes"][:, 0].tolist() == [0, 8]
    data.filter(torch.tensor([1, 0]))
    assert data["names"] == ["c", "a"] and data["scores"].tolist() == pytest.approx([0.3, 0.1])
    for keep in (torch.tensor([1]), torch.tensor([False, True]), np.array([1]), np.array([False, True])):
        one = amg.MaskData(**dict(data.items()))
        one.filter(keep)  # of one index, NumPy makes a number if it gets a tensor
        assert one["names"] == ["a"] and one["scores"].shape == (1,) and one["boxes"].tolist() == [[0, 1, 2, 3]]
    both = amg.MaskData()
    both.cat(data)
    both.cat(data)
    data["names"].append("d")
    assert both["names"] == ["c", "a"] * 2 and both["scores"].shape == (4,) and both["boxes"].shape == (4, 4)
    both.to_numpy()
    del both["names"]
    assert {name: type(column) for name, column in both.items()} == {"scores": np.ndarray, "boxes": np.ndarray}
    with pytest.raises(TypeError, match="size must be a tensor, an array or a list, not int"):
        both["size"] = 3


def test_metas_import_path_has_the_same_functions() -> None:
    assert all(getattr(metas_path, name) is getattr(amg, name) for name in metas_path.__all__)
    own = {name for name, value in vars(amg).items() if getattr(value, "__module__", "") == amg.__name__}
    assert own == set(metas_path.__all__)


# --- models ---


def test_build_functions_by_name(tmp_path: Any) -> None:
    model = build.sam_model_map["sam_nano.pt"]()
    assert isinstance(model, SamModel) and model.name == "sam_nano" and not model.training
    untrained = build.build_sam_nano(None)
    assert not torch.equal(untrained.mask_decoder.iou_token.weight, model.mask_decoder.iou_token.weight)
    file = tmp_path / "any name.pt"
    torch.save(small_weights(), file)
    loaded = build.build_sam(file)
    assert torch.equal(loaded.mask_decoder.iou_token.weight, small_weights()["mask_decoder.iou_token.weight"])
    with pytest.raises(ValueError, match="holds sam_nano, but mobile_sam was asked for"):
        build.build_mobile_sam(file)
    assert build.build_mobile_sam().name == "mobile_sam"
    assert set(build.sam_model_map) == {f"{name}.pt" for name in ("sam_h", "sam_l", "sam_b", "mobile_sam", "sam_nano")}
