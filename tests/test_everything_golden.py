"""Tests of segment everything against records of the reference implementation for the same logits, mask by mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from fastsam_core.everything import count_batches, generate_masks
from golden_recipe import blob_logits

GOLDEN = sorted((Path(__file__).parent / "data").glob("everything_*.json"))
NAMES = {
    "points_per_side": "points_stride",
    "points_per_batch": "points_batch_size",
    "pred_iou_thresh": "conf_thres",
    "crop_n_points_downscale_factor": "crop_downscale_factor",
}


class RecipeDecode:
    """The model stand-in that made the golden files: blobs around the points of batch k, drawn with seed + k."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.calls = 0

    def __call__(self, crop_box, points):
        low_res, predicted_iou = map(torch.from_numpy, blob_logits(points.double().numpy() / 4, self.seed + self.calls))
        self.calls += 1
        return predicted_iou, lambda point_index, mask_index: low_res[point_index, mask_index]


def test_all_golden_files_are_present():
    assert [path.stem.removeprefix("everything_") for path in GOLDEN] == [
        "big",
        "crops",
        "landscape",
        "portrait_odd",
        "small_regions",
    ]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_records_match_the_reference(path):
    golden = json.loads(path.read_text())
    config = {NAMES.get(key, key): value for key, value in golden["config"].items() if key != "output_mode"}
    decode = RecipeDecode(golden["seed"])

    records = generate_masks(decode, golden["image_size"], **config)

    grid = {
        key: config[key] for key in ("points_stride", "points_batch_size", "crop_n_layers", "crop_downscale_factor")
    }
    assert decode.calls == count_batches(golden["image_size"], **grid)
    assert len(records) == len(golden["masks"])
    for record, expected in zip(records, golden["masks"], strict=True):
        assert list(record) == list(expected)
        assert record["predicted_iou"] == expected["predicted_iou"]
        assert record["crop_box"] == expected["crop_box"]
        np.testing.assert_allclose(record["point_coords"], expected["point_coords"], rtol=0, atol=1e-3)
        assert abs(record["stability_score"] - expected["stability_score"]) <= 1e-4
        assert abs(record["area"] - expected["area"]) <= 3
        np.testing.assert_allclose(record["bbox"], expected["bbox"], rtol=0, atol=1)
        assert record["segmentation"]["size"] == golden["image_size"]
        iou = coco.iou([_bytes(record["segmentation"])], [_bytes(expected["segmentation"])], [0])
        assert iou[0, 0] >= 0.9999
        assert coco.area(_bytes(record["segmentation"])) == record["area"]


def _bytes(rle):
    return {"size": rle["size"], "counts": rle["counts"].encode()}
