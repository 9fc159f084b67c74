"""Tests of segment everything with stand-ins for a model: decoder calls, filters, records and refused arguments."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from disc_model import LOOSE, Discs
from fastsam_core import ops
from fastsam_core.everything import count_batches, generate, generate_masks
from fastsam_core.postprocess import measure_batch_size
from siblings import each_sibling_of, implementation
from tensor_sizes import LargestTensor


def decoded(record):
    return coco.decode({**record["segmentation"], "counts": record["segmentation"]["counts"].encode()}).astype(bool)


def test_points_are_in_pixels_of_the_model_input():
    decode = Discs()
    generate_masks(decode, (30, 50), points_stride=2, input_long_side=64)
    ((crop_box, points),) = decode.batches
    assert crop_box == [0, 0, 50, 30]
    assert all(type(side) is int for side in crop_box)
    assert points.dtype == torch.float32
    assert points.device.type == "cpu"
    # The input is 64 x 38 (30 * 64 / 50 = 38.4), so each axis has its own factor.
    expected = [[16, 9.5], [48, 9.5], [16, 28.5], [48, 28.5]]
    np.testing.assert_allclose(points.numpy(), expected, rtol=0, atol=1e-5)


def test_batches_are_ordered_by_crop_and_counted():
    decode = Discs(predicted_iou=lambda points: torch.zeros(len(points), 3))
    grid = {"points_stride": 5, "points_batch_size": 7, "crop_n_layers": 1, "crop_downscale_factor": 2}
    assert generate_masks(decode, (40, 60), input_long_side=64, **grid) == []
    assert [len(points) for _, points in decode.batches] == [7, 7, 7, 4] + [4] * 4
    assert [crop for crop, _ in decode.batches[3:]] == [
        [0, 0, 60, 40],
        [0, 0, 37, 27],
        [0, 14, 37, 40],
        [24, 0, 60, 27],
        [24, 14, 60, 40],
    ]
    assert count_batches((40, 60), **grid) == len(decode.batches)
    whole = torch.cat([points for _, points in decode.batches[:4]])
    assert (whole[:-1, 1] <= whole[1:, 1]).all()
    assert not decode.asked


def test_logits_are_requested_in_chunks_only_for_masks_that_pass_the_iou_filter():
    def predicted_iou(points):
        # 0.5 itself doesn't pass the filter: the comparison is strict.
        return torch.tensor([0.4, 0.5, 0.6]).repeat(len(points), 1).index_put((torch.tensor([1]),), torch.tensor(0.9))

    decode = Discs(predicted_iou=predicted_iou)
    sizes = []
    plain = decode.__call__

    def watched(crop_box, points):
        scores, logits = plain(crop_box, points)

        def counted(point_index, mask_index):
            assert isinstance(point_index, (list, torch.Tensor))
            sizes.append(len(point_index))
            return logits(point_index, mask_index)

        return scores, counted

    generate_masks(watched, (64, 64), points_stride=6, points_batch_size=20, conf_thres=0.5, input_long_side=64)
    expected = [
        (batch, point, mask)
        for batch, count in enumerate((20, 16))
        for point in range(count)
        for mask in ((0, 1, 2) if point == 1 else (2,))
    ]
    assert decode.asked == expected
    assert max(sizes) <= measure_batch_size()


def test_records_are_plain_and_agree_with_their_masks():
    records = generate_masks(Discs(), (40, 60), **LOOSE)
    assert records
    for record in records:
        assert list(record) == [
            "segmentation",
            "area",
            "bbox",
            "predicted_iou",
            "point_coords",
            "stability_score",
            "crop_box",
        ]
        mask = decoded(record)
        rows, columns = np.nonzero(mask)
        assert mask.shape == (40, 60)
        assert record["area"] == mask.sum()
        left, top = int(columns.min()), int(rows.min())
        assert record["bbox"] == [left, top, int(columns.max()) - left, int(rows.max()) - top]
        assert record["crop_box"] == [0, 0, 60, 40]
        (x, y) = record["point_coords"][0]
        assert mask[int(y), int(x)]
    assert json.loads(json.dumps(records)) == records
    flat = [value for record in records for key in ("bbox", "crop_box") for value in record[key]]
    assert {type(value) for value in flat} == {int}
    assert {type(record["area"]) for record in records} == {int}
    assert {type(record["segmentation"]["counts"]) for record in records} == {str}
    assert {type(record[key]) for record in records for key in ("predicted_iou", "stability_score")} == {float}
    assert {type(value) for record in records for value in record["point_coords"][0]} == {float}


def test_nms_keeps_the_best_score_and_the_first_of_equal_scores():
    scores = torch.tensor([[0.91, 0.93, 0.92], [0.95, 0.95, 0.95]])
    decode = Discs(radii=(3.0, 3.0, 3.0), predicted_iou=lambda points: scores)
    arguments = {
        "point_grids": [[[0.25, 0.5], [0.75, 0.5]]],
        "stability_score_thresh": 0.5,
        "input_long_side": 64,
    }
    records = generate_masks(decode, (64, 64), **arguments)
    assert [record["predicted_iou"] for record in records] == [pytest.approx(0.95), pytest.approx(0.93)]
    assert [record["point_coords"] for record in records] == [[[48.0, 32.0]], [[16.0, 32.0]]]
    apart = generate_masks(decode, (64, 64), box_nms_thresh=1.0, **arguments)
    assert [round(record["predicted_iou"], 2) for record in apart] == [0.95, 0.95, 0.95, 0.93, 0.92, 0.91]


def test_stability_threshold_includes_its_value_as_float32():
    decode = Discs(radii=(3.3, 3.3, 3.3))
    (record,) = generate_masks(decode, (64, 64), points_stride=1, stability_score_thresh=0, input_long_side=64)
    score = record["stability_score"]
    assert 0 < score < 1
    arguments = {"points_stride": 1, "input_long_side": 64}
    above = float(np.nextafter(np.float32(score), np.float32(2)))
    assert generate_masks(decode, (64, 64), stability_score_thresh=score, **arguments)
    # A double just above the score rounds to it, as it would in a comparison of float32 tensors.
    assert generate_masks(decode, (64, 64), stability_score_thresh=math.nextafter(score, 2), **arguments)
    assert not generate_masks(decode, (64, 64), stability_score_thresh=above, **arguments)


def test_thresholds_take_any_finite_number():
    decode = Discs(predicted_iou=lambda points: torch.full((len(points), 3), -0.3))
    assert generate_masks(decode, (64, 64), **{**LOOSE, "conf_thres": -1e300, "stability_score_thresh": -1e300})
    assert not generate_masks(decode, (64, 64), **{**LOOSE, "conf_thres": 0})
    assert not generate_masks(decode, (64, 64), **{**LOOSE, "conf_thres": 1e300})
    assert not generate_masks(decode, (64, 64), **{**LOOSE, "stability_score_thresh": 1e300})


def test_nan_iou_never_passes():
    decode = Discs(predicted_iou=lambda points: torch.full((len(points), 3), math.nan))
    assert generate_masks(decode, (64, 64), **LOOSE) == []
    assert not decode.asked


def test_masks_cut_off_by_a_crop_are_dropped_and_small_crops_win():
    # One disc, clicked in the whole image and in each of the four crops; two crops cut it off.
    centre = np.array([70.0, 150.0])

    def decode(crop_box, points):
        x0, y0, x1, y1 = crop_box
        scale = 256 / max(x1 - x0, y1 - y0)
        cells = (torch.arange(64) + 0.5) * 4 / scale
        dx, dy = cells[None, :] + x0 - centre[0], cells[:, None] + y0 - centre[1]
        low_res = 20 - torch.sqrt(dx**2 + dy**2)
        return torch.full((1, 3), 0.9), lambda p, m: low_res.expand(len(p), 64, 64)

    arguments = {
        "points_stride": 1,
        "crop_n_layers": 1,
        "input_long_side": 256,
        "stability_score_thresh": 0.5,
        "crop_overlap_ratio": 0,
    }
    (record,) = generate_masks(decode, (400, 400), **arguments)
    assert record["crop_box"] == [0, 0, 200, 200]
    assert record["point_coords"] == [[100.0, 100.0]]
    mask = decoded(record)
    y, x = np.mgrid[0:400, 0:400] + 0.5
    expected = np.hypot(x - 70, y - 150) < 20
    assert (mask & expected).sum() / (mask | expected).sum() > 0.97
    centre[1] = 190.0
    (record,) = generate_masks(decode, (400, 400), **arguments)
    assert record["crop_box"] == [0, 0, 400, 400]


def test_crop_nms_threshold_of_one_keeps_the_masks_of_all_crops():
    def decode(crop_box, points):
        # A disc at the image's corner, which only the first crop and the whole image show completely.
        cells = (torch.arange(16) + 0.5) * (max(crop_box[2:]) - max(crop_box[:2])) / 16
        dx, dy = cells[None, :] + crop_box[0], cells[:, None] + crop_box[1]
        return torch.full((1, 3), 0.9), lambda p, m: (30 - torch.sqrt(dx**2 + dy**2)).expand(len(p), 16, 16)

    arguments = {**LOOSE, "points_stride": 1, "crop_n_layers": 1, "crop_overlap_ratio": 0, "conf_thres": 0.5}
    records = generate_masks(decode, (200, 200), crop_nms_thresh=1.0, **arguments)
    # The other crops give empty masks.
    assert [record["crop_box"] for record in records if record["area"]] == [[0, 0, 100, 100], [0, 0, 200, 200]]
    assert len([1 for record in generate_masks(decode, (200, 200), **arguments) if record["area"]]) == 1


@pytest.mark.parametrize("together", [1 << 20, 20, 1])
def test_small_regions_are_cleaned_and_changed_masks_come_last(together, monkeypatch):
    monkeypatch.setattr(generate, "_COUNTS_PER_CLEANUP", together)  # run counts: all masks, some, or one at a time
    low_res = torch.full((3, 16, 16), -20.0)
    low_res[0, 2:7, 2:7] = 20
    low_res[0, 4, 4] = -20  # a hole
    low_res[1, 9:14, 9:14] = 20
    low_res[2, 9:14, 2:7] = 20
    low_res[2, 2, 12] = 20  # an island

    def decode(crop_box, points):
        return torch.tensor([[0.99, 0.95, 0.97]]), lambda p, m: low_res[m]

    arguments = {"points_stride": 1, "input_long_side": 64, "stability_score_thresh": 0.5}
    plain = generate_masks(decode, (64, 64), **arguments)
    clean = generate_masks(decode, (64, 64), min_mask_region_area=60, **arguments)
    assert [round(record["predicted_iou"], 2) for record in plain] == [0.99, 0.97, 0.95]
    assert [round(record["predicted_iou"], 2) for record in clean] == [0.95, 0.99, 0.97]
    assert clean[0] == plain[2]
    assert clean[1]["bbox"] == plain[0]["bbox"]
    assert clean[1]["area"] > plain[0]["area"]
    assert clean[2]["bbox"][2] < plain[1]["bbox"][2]
    for record in clean:
        assert decoded(record).sum() == record["area"]
    assert generate_masks(decode, (64, 64), min_mask_region_area=1, **arguments) == plain
    nothing = {**arguments, "conf_thres": 2.0, "min_mask_region_area": 60}
    assert generate_masks(decode, (64, 64), **nothing) == []


def test_cleaned_masks_that_coincide_are_suppressed_again():
    low_res = torch.full((3, 16, 16), -20.0)
    low_res[:, 2:7, 2:7] = 20
    low_res[1, 14, 14] = 20  # only this island keeps the boxes apart
    low_res[2] = -20

    def decode(crop_box, points):
        return torch.tensor([[0.95, 0.99, 0.0]]), lambda p, m: low_res[m]

    arguments = {"points_stride": 1, "input_long_side": 64, "stability_score_thresh": 0.5, "box_nms_thresh": 0.3}
    assert len(generate_masks(decode, (64, 64), crop_nms_thresh=0.2, **arguments)) == 2
    (record,) = generate_masks(decode, (64, 64), crop_nms_thresh=0.2, min_mask_region_area=60, **arguments)
    assert record["predicted_iou"] == pytest.approx(0.95)


def test_given_grids_replace_the_stride_and_are_not_modified():
    grids = [np.array([[0.5, 0.25]]), np.zeros((0, 2))]
    before = [grid.copy() for grid in grids]
    decode = Discs()

    def overwrites_its_arguments(crop_box, points):
        result = decode(crop_box, points)
        points.fill_(-1)
        crop_box.clear()
        return result

    records = generate_masks(
        overwrites_its_arguments,
        np.array([64, 64]),
        point_grids=grids,
        points_stride=None,
        crop_n_layers=1,
        input_long_side=64,
        stability_score_thresh=0.5,
    )
    assert len(decode.batches) == 1  # layer 1 has no points
    assert decode.batches[0][1].tolist() == [[32.0, 16.0]]
    assert {tuple(record["point_coords"][0]) for record in records} == {(32.0, 16.0)}
    for grid, copy in zip(grids, before, strict=True):
        np.testing.assert_array_equal(grid, copy)
    assert count_batches((64, 64), point_grids=grids, crop_n_layers=1) == 1


def test_runs_without_gradients():
    weight = torch.ones(1, requires_grad=True)
    seen = []

    def decode(crop_box, points):
        seen.append(torch.is_grad_enabled())
        scores, logits = Discs()(crop_box, points)
        return scores * weight, lambda p, m: logits(p, m) * weight

    assert generate_masks(decode, (64, 64), **LOOSE)
    assert seen == [False]
    with torch.enable_grad():
        scores = torch.ones(16, 3) * weight
        low_res = torch.full((48, 16, 16), 5.0) * weight
    assert generate_masks(lambda c, p: (scores, lambda p, m: low_res[: len(p)]), (64, 64), **LOOSE)


@each_sibling_of("nms")
def test_siblings_give_the_same_records(sibling, monkeypatch):
    arguments = {**LOOSE, "crop_n_layers": 1, "min_mask_region_area": 9}
    expected = generate_masks(Discs(), (90, 120), **arguments)
    assert len(expected) > 20
    for name in ("nms", "rle_to_string"):
        monkeypatch.setattr(ops, name, implementation(name, sibling))
    assert generate_masks(Discs(), (90, 120), **arguments) == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_images(size):
    records = generate_masks(Discs(), size, **{**LOOSE, "points_stride": 2}, crop_n_layers=2)
    assert records
    assert all(decoded(record).shape == size for record in records)


def test_huge_image_with_small_masks_is_never_held_as_pixels():
    decode = Discs(1024, radii=(3.0, 5.0, 9.0))
    with LargestTensor() as largest:
        records = generate_masks(decode, (12000, 6000), points_stride=6, stability_score_thresh=0.5)
    assert largest.numel < 12000 * 6000 / 4
    assert len(records) == 3 * 36
    assert records[0]["segmentation"]["size"] == [12000, 6000]
    assert all(record["area"] == coco.area({**record["segmentation"]}) for record in records)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, r"decode must return \(predicted IoU, logits callable\), got NoneType"),
        ((1, 2, 3), TypeError, "got 3 values"),
        (([[0.9] * 3] * 4, len), TypeError, "floating-point torch tensor, got list"),
        ((torch.ones(4, 3, dtype=torch.int64), len), TypeError, "got torch.int64"),
        ((torch.ones(4), len), ValueError, r"shape \(4, M\) for 4 points, got \(4,\)"),
        ((torch.ones(3, 3), len), ValueError, r"shape \(4, M\) for 4 points, got \(3, 3\)"),
        ((torch.ones(4, 3), torch.ones(4, 3, 16, 16)), TypeError, "callable as logits.*, got Tensor"),
        ((torch.ones(4, 3), lambda p, m: None), TypeError, "return a floating-point torch tensor, got NoneType"),
        ((torch.ones(4, 3), lambda p, m: torch.ones(len(p), 16, 16, dtype=torch.bool)), TypeError, "got torch.bool"),
        (
            (torch.ones(4, 3), lambda p, m: torch.ones(len(p), 8, 8)),
            ValueError,
            r"shape \(12, 16, 16\) for 12 pairs at input_long_side=64, got \(12, 8, 8\)",
        ),
        ((torch.ones(4, 3), lambda p, m: torch.ones(1, 16, 16)), ValueError, r"got \(1, 16, 16\)"),
    ],
)
def test_wrong_results_of_decode_are_refused(result, error, message):
    with pytest.raises(error, match=message):
        generate_masks(lambda crop_box, points: result, (64, 64), points_stride=2, input_long_side=64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"decode": None}, TypeError, "decode must be callable"),
        ({"image_size": 64}, ValueError, r"image_size must be \(height, width\), got 64"),
        ({"image_size": (64, 64, 3)}, ValueError, "image_size"),
        ({"image_size": (0, 64)}, ValueError, "height, must be at least 1, got 0"),
        ({"image_size": (64, -1)}, ValueError, "width, must be at least 1, got -1"),
        ({"image_size": (64.0, 64)}, TypeError, "height, must be an integer, got 64.0"),
        ({"image_size": (64,)}, ValueError, r"image_size must be \(height, width\), got \(64,\)"),
        ({"image_size": (64, 64.5)}, TypeError, r"image_size\[1\], the width, must be an integer, got 64.5"),
        ({"image_size": "ab"}, ValueError, "image_size must be .* got 'ab'"),
        ({"image_size": b"ab"}, ValueError, "image_size must be .* got b'ab'"),
        ({"points_stride": 0}, ValueError, "points_stride must be at least 1, got 0"),
        ({"points_stride": None}, TypeError, "points_stride must be an integer, got None"),
        ({"points_stride": 2.5}, TypeError, "points_stride must be an integer, got 2.5"),
        ({"points_stride": True}, TypeError, "points_stride must be an integer, got True"),
        ({"points_batch_size": 0}, ValueError, "points_batch_size must be at least 1"),
        ({"conf_thres": math.nan}, ValueError, "conf_thres must be finite, got nan"),
        ({"conf_thres": 10**400}, ValueError, "conf_thres must be finite, got 1000"),
        ({"conf_thres": "0.5"}, TypeError, "conf_thres must be a number, got '0.5'"),
        ({"conf_thres": None}, TypeError, "conf_thres must be a number"),
        ({"stability_score_thresh": math.inf}, ValueError, "stability_score_thresh must be finite, got inf"),
        ({"stability_score_offset": -0.1}, ValueError, "stability_score_offset must be at least 0, got -0.1"),
        ({"box_nms_thresh": 1.5}, ValueError, "box_nms_thresh must be between 0 and 1, got 1.5"),
        ({"crop_nms_thresh": -0.1}, ValueError, "crop_nms_thresh must be between 0 and 1"),
        ({"crop_n_layers": -1}, ValueError, "crop_n_layers must be at least 0, got -1"),
        ({"crop_n_layers": 40}, ValueError, "crop_n_layers must be at most 8, got 40"),
        ({"crop_overlap_ratio": 1}, ValueError, "crop_overlap_ratio must be below 1"),
        ({"crop_overlap_ratio": -0.5}, ValueError, "crop_overlap_ratio must be between 0 and 1"),
        ({"crop_downscale_factor": 0.5}, ValueError, "crop_downscale_factor must be at least 1"),
        ({"crop_overlap_ratio": 1.5}, ValueError, "crop_overlap_ratio must be between 0 and 1, got 1.5"),
        ({"crop_overlap_ratio": True}, TypeError, "crop_overlap_ratio must be a number, got True"),
        ({"crop_downscale_factor": math.inf}, ValueError, "crop_downscale_factor must be finite, got inf"),
        ({"crop_downscale_factor": 9, "crop_n_layers": 1}, ValueError, "without a point"),
        ({"point_grids": []}, ValueError, "one .* array per crop layer"),
        ({"min_mask_region_area": -1}, ValueError, "min_mask_region_area must be at least 0"),
        ({"input_long_side": 66}, ValueError, "input_long_side must be a multiple of 4, got 66"),
        ({"input_long_side": 0}, ValueError, "input_long_side must be at least 4"),
        ({"input_long_side": 10**9}, ValueError, "input_long_side must be at most 16384, got 1000000000"),
    ],
)
def test_wrong_arguments_are_refused_before_decoding(change, error, message):
    decode = Discs()
    arguments = {"decode": decode, "image_size": (64, 64), "points_stride": 4, "input_long_side": 64, **change}
    with pytest.raises(error, match=message):
        generate_masks(arguments.pop("decode"), arguments.pop("image_size"), **arguments)
    assert not decode.batches
