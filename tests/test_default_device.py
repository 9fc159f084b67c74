"""Tests that a program's default device and dtype don't affect the package: its tensors stay on the CPU, in float32.

The device "meta" stands in for a GPU: its tensors have no data, so any use of one is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import Predictor, Results, auto_annotate, rle, tiles
from fastsam_core.models.checkpoint import load_model
from fastsam_core.segment_anything import SamAutomaticMaskGenerator, SamPredictor
from small_model import FEW, QUIET, bgr_image, small_model

IMAGE = bgr_image(48, 64)
BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0]]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    made = Predictor(overrides={"model": small_model(), **QUIET})
    made.set_image(IMAGE)
    return made


def boxes_and_masks(result: Results) -> Any:
    assert result.boxes is not None and result.masks is not None
    return result.boxes.data.tolist(), result.masks.rle


def prompts(predictor: Predictor, folder: Path) -> Any:
    points = {"points": [[[1, 1], [5, 5]], [[3, 3]]], "labels": [[1, 0], [1]]}
    masks = {"masks": np.ones((48, 64), bool)}
    given = ({"bboxes": BOXES}, points, masks, {"multimask_output": True, **points})
    return [boxes_and_masks(predictor(**one)[0]) for one in given] + [len(predictor(bboxes=[])[0])]


def everything(predictor: Predictor, folder: Path) -> Any:
    return [boxes_and_masks(one) for one in predictor([IMAGE, IMAGE], batch=2, crop_n_layers=1, **FEW)]


def results(predictor: Predictor, folder: Path) -> Any:
    found = predictor(bboxes=BOXES)[0]
    assert found.masks is not None
    found.cpu().save_txt(folder / "labels.txt")
    text = (folder / "labels.txt").read_text()
    (folder / "labels.txt").unlink()
    return (
        found.masks.data.tolist(),
        found.plot().tolist(),
        found.to_dicts(),
        found.to_coco(polygons=True),
        found.summary(normalize=True),
        boxes_and_masks(found[[0]]),
        text,
    )


def run_lengths(predictor: Predictor, folder: Path) -> Any:
    one, other = rle.encode(np.asfortranarray(np.indices((6, 7, 2)).sum(0) % 3 == 0))
    return (
        rle.decode([one, other]).tolist(),
        [rle.area([one]).tolist(), rle.toBbox([one]).tolist(), rle.iou([one], [other], [0]).tolist()],
        [rle.merge([one, other]), rle.union(one, other), rle.complement(one), rle.crop(one, [0, 0, 3, 3])],
        [rle.frPyObjects([[1, 1, 5, 1, 5, 5]], 6, 7), rle.frPyObjects({"size": [2, 2], "counts": [4]}, 2, 2)],
    )


def other_ways(predictor: Predictor, folder: Path) -> Any:
    options = {"points_per_side": 2, "pred_iou_thresh": -1e9, "stability_score_thresh": -1.0}
    model = predictor.args.model
    plain = SamPredictor(model)
    plain.set_image(IMAGE)
    auto_annotate([IMAGE], lambda image: (BOXES, [0.9, 0.8], [0, 1], None), predictor, "cpu", folder, resume=False)
    return (
        plain.predict(box=np.array(BOXES[0]))[0].tolist(),
        [one["area"] for one in SamAutomaticMaskGenerator(model, **options).generate(IMAGE)],
        predictor.edges(IMAGE, points_stride=2).tolist(),
        boxes_and_masks(predictor.proposals(IMAGE, 3, points_stride=2)),
        tiles.segment(IMAGE, predictor, tile=48, overlap=8, **FEW).areas.tolist(),
        sorted(path.read_text() for path in folder.glob("*.txt")),
    )


@pytest.mark.parametrize("work", [prompts, everything, results, run_lengths, other_ways])
def test_results_ignore_the_default_device(
    predictor: Predictor, tmp_path: Path, work: Callable[[Predictor, Path], Any]
) -> None:
    expected = work(predictor, tmp_path)
    with torch.device("meta"):
        assert work(predictor, tmp_path) == expected


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("work", [prompts, everything, results, run_lengths, other_ways])
def test_results_ignore_the_default_dtype(
    tmp_path: Path,
    default_dtype: Callable[[torch.dtype], None],
    work: Callable[[Predictor, Path], Any],
) -> None:
    model = small_model()

    def worked() -> Any:
        made = Predictor(overrides={"model": model, **QUIET})  # a new one, with nothing cached
        made.set_image(IMAGE)
        return work(made, tmp_path)

    expected = worked()
    default_dtype(torch.bfloat16)
    assert worked() == expected


def test_scores_are_float32_whatever_the_default_dtype(
    predictor: Predictor, default_dtype: Callable[[torch.dtype], None]
) -> None:
    default_dtype(torch.float64)
    (found,) = predictor(IMAGE, **FEW)
    logits, scores = predictor.prompt_inference(IMAGE, bboxes=BOXES)
    assert {one.dtype for one in (found.predicted_iou, found.stability_score, logits, scores)} == {torch.float32}
    given = Results(IMAGE, "a", {}, [[*BOXES[0], 0.3, 0]], predicted_iou=[0.1], point_coords=[[[1.1, 2.1]]])
    assert {one.dtype for one in (given.boxes.data, given.predicted_iou, given.point_coords)} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loaded_weights_equal_the_file(
    tmp_path: Path, default_dtype: Callable[[torch.dtype], None], dtype: torch.dtype
) -> None:
    weights = small_model().state_dict()
    torch.save(weights, tmp_path / "model.pt")
    default_dtype(dtype)
    with torch.device("meta"):
        loaded = load_model(tmp_path / "model.pt").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
