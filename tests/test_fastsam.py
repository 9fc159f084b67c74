"""Tests of FastSAM: segment everything, and choosing masks by boxes, points and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import FastSAM, Results
from fastsam_core.detect.fastsam import FastSAMPredictor, _snap_to_border
from fastsam_core.detect.prompt_selection import PromptSelector
from fastsam_core.models import fastsam as familiar
from small_model import bgr_image
from yolo_files import make, write

QUIET: dict[str, Any] = {"verbose": False, "conf": 0.1, "imgsz": 96}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FastSAM:
    return FastSAM(write(tmp_path_factory.mktemp("fastsam") / "FastSAM-tiny.pt", make("segment", nc=1)))


@pytest.fixture
def squares() -> Results:
    """Results for a 40 x 60 image: a square (0), a larger square around it (1), a bar (2) and a single pixel (3)."""
    masks = np.zeros((4, 40, 60), bool)
    masks[0, 10:20, 10:20] = True
    masks[1, 5:25, 5:25] = True
    masks[2, 30:35, 10:50] = True
    masks[3, 2, 50] = True
    rows = torch.tensor([[10, 10, 20, 20], [5, 5, 25, 25], [10, 30, 50, 35], [50, 2, 51, 3]]).float()
    data = torch.cat([rows, torch.tensor([[0.9, 0.0], [0.8, 0], [0.7, 0], [0.6, 0]])], 1)
    image = np.zeros((40, 60, 3), np.uint8)
    image[masks[2]] = (10, 20, 200)
    return Results(image, "a.png", {0: "object"}, data, torch.from_numpy(masks))


def chosen(result: Results, **prompts: Any) -> list[float]:
    selector = PromptSelector.from_prompts(**prompts)
    assert selector is not None
    return [round(score, 1) for score in selector.select(result).boxes.conf.tolist()]  # type: ignore[union-attr]


def test_segments_everything_and_snaps_boxes_to_the_border(model: FastSAM) -> None:
    (result,) = model(bgr_image(61, 90), **QUIET)
    assert len(result) > 3 and result.names == {0: "kind 0"} and result.masks is not None
    assert result.masks.shape == (len(result), 61, 90) and model.task == "segment"
    assert result.boxes is not None
    corners, rest = result.boxes.xyxy[:, :2], torch.tensor([90, 61]) - result.boxes.xyxy[:, 2:]
    for distance in (corners, rest):  # boxes near the border are extended to it
        assert bool(((distance == 0) | (distance >= 20)).all()) and bool((distance == 0).any())


def test_prompts_choose_nothing_where_nothing_was_found(model: FastSAM, squares: Results) -> None:
    for prompts in ({}, {"bboxes": [1, 1, 9, 9]}, {"points": [5, 5], "labels": [0]}):
        (nothing,) = model(bgr_image(61, 90), **prompts, **{**QUIET, "conf": 1})
        assert len(nothing) == 0 and nothing.masks is None
    for prompts in ({"bboxes": [1, 1, 9, 9]}, {"points": [5, 5], "labels": [0]}):
        assert chosen(squares[[]], **prompts) == []


def test_boxes_choose_the_mask_that_fits(squares: Results) -> None:
    assert chosen(squares, bboxes=[9, 9, 21, 21]) == [0.9]
    assert chosen(squares, bboxes=[4, 4, 26, 26]) == [0.8]
    assert chosen(squares, bboxes=[[4, 4, 26, 26], [9, 28, 52, 36]]) == [0.8, 0.7]
    assert chosen(squares, bboxes=[[4, 4, 26, 26], [5, 5, 25, 25]]) == [0.8]
    assert chosen(squares, bboxes=[-10, -10, 1e6, 1e6]) == [0.8]  # the largest
    assert chosen(squares, bboxes=[5, 10, 25, 21]) == [0.8]  # IoU 100 / 220 with the square, 220 / 400 with the larger
    assert chosen(squares, bboxes=[10, 5, 21, 25]) == [0.8]
    assert chosen(squares, bboxes=[55, 20, 59, 25]) == []  # touches none
    assert chosen(squares, bboxes=[]) == []


def test_points_choose_the_masks_they_hit(squares: Results) -> None:
    assert chosen(squares, points=[15, 15]) == [0.9, 0.8]
    assert chosen(squares, points=[7, 7]) == [0.8]
    for x, y in ((7, 4), (4, 7), (7, 25), (25, 7)):  # next to its four sides
        assert chosen(squares, points=[x, y]) == []
    assert chosen(squares, points=[[7, 7], [30, 32]]) == [0.8, 0.7]
    assert chosen(squares, points=[[7, 7], [15, 15]], labels=[1, 0]) == []
    assert chosen(squares, points=[[15, 15], [30, 32]], labels=[1, 0]) == [0.9, 0.8]
    assert chosen(squares, points=[[15, 15], [30, 32]], labels=[[1, 0]]) == [0.9, 0.8]
    assert chosen(squares, points=[15, 15], labels=[0]) == [0.7, 0.6]
    assert chosen(squares, points=[[[15, 15], [30, 32]]], labels=[[0, 0]]) == [0.6]
    assert chosen(squares, points=torch.tensor([[15.9, 15.9]])) == [0.9, 0.8]
    assert chosen(squares, points=np.array([[7, 7], [30, 32]]), labels=np.array([[1], [1]])) == [0.8, 0.7]
    assert chosen(squares, points=[[[7, 7]], [[30, 32], [15, 15]]], labels=[[1], [1, 0]]) == [0.7]
    assert chosen(squares, points=[[500, 500]]) == chosen(squares, points=[-3, -3]) == []
    for nothing in ([], np.zeros((0, 2)), torch.zeros(1, 0, 2)):
        assert chosen(squares, points=nothing) == []


def test_labels_without_points_are_logged_and_no_prompt(squares: Results, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(squares, points=[15, 15], labels=[1]) == [0.9, 0.8] and not caplog.text
    assert PromptSelector.from_prompts(labels=[1]) is None and "labels have no effect without points" in caplog.text


def test_prompts_of_several_kinds_add_up(squares: Results) -> None:
    assert chosen(squares, points=[30, 32], bboxes=[9, 9, 21, 21]) == [0.9, 0.7]


class RedMatcher:
    """Scores images by their fraction of red ("red") or white pixels; records the images' shapes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: list[np.ndarray], texts: list[str]) -> np.ndarray:
        self.seen = [image.shape for image in images]
        red = np.array([(image == (10, 20, 200)).all(2).mean() for image in images], np.float32)
        white = np.array([(image == 255).mean() for image in images], np.float32)
        return np.stack([red if text == "red" else white for text in texts])


def test_texts_choose_the_best_crop(squares: Results) -> None:
    matcher = RedMatcher()
    selector = PromptSelector.from_prompts(texts="red")
    assert selector is not None
    result = selector.select(squares, matcher)
    assert result.boxes is not None and result.boxes.conf.tolist() == pytest.approx([0.7])
    assert matcher.seen == [(10, 10, 3), (20, 20, 3), (5, 40, 3)]  # the single pixel is too small
    tiny = squares[[3]]
    assert len(selector.select(tiny, matcher)) == 0
    with pytest.raises(ValueError, match="the matcher must return"):
        selector.select(squares, lambda images, texts: np.zeros((1, 1), np.float32))


def test_clip_is_loaded_once_on_the_device_of_the_call(monkeypatch: pytest.MonkeyPatch, model: FastSAM) -> None:
    devices: list[Any] = []
    monkeypatch.setattr("fastsam_core.detect.clip.ClipMatcher", lambda device: devices.append(device) or RedMatcher())
    predictor = FastSAMPredictor(overrides={"model": model.loaded, "save": False, **QUIET})
    for _ in range(2):
        predictor(bgr_image(61, 90), texts="red", device="cpu")
    assert devices == ["cpu"]


def test_prompts_are_accepted_by_calls_and_on_results(model: FastSAM) -> None:
    image = bgr_image(61, 90)
    (everything,) = model(image, **QUIET)
    x, y = everything.masks.xy[0].mean(0).tolist()
    (one,) = model(image, bboxes=everything.boxes.xyxy[0].tolist(), **QUIET)
    assert len(one) == 1
    (hit,) = model.predict(image, points=[x, y], labels=[1], **QUIET)
    assert len(hit) < len(everything)
    predictor = FastSAMPredictor(overrides={"model": model.loaded, "save": False, **QUIET})
    results = predictor(image)
    assert len(predictor.prompt(results, points=[[x, y]])[0]) == len(hit)
    assert predictor.prompt(results[0])[0] is results[0]
    predictor.matcher = RedMatcher()
    assert len(predictor.prompt(results, texts=["white", "white"])[0]) == 1
    stream = model(image, True, everything.boxes.xyxy[0].tolist(), **QUIET)
    assert not isinstance(stream, list) and [len(result) for result in stream] == [1]


def test_boxes_near_the_border_are_extended_to_it() -> None:
    rows = torch.tensor([[19.0, 21, 25, 30, 0.9, 0], [1, 1, 58, 39, 0.8, 0], [30, 21, 41, 22, 0.7, 0]])
    rows = torch.cat([rows, torch.tensor([[20.0, 20, 40, 80, 0.6, 0]])])  # exactly at the margin
    result = _snap_to_border(Results(np.zeros((100, 60, 3), np.uint8), "a", ["object"], rows))
    assert result.boxes is not None
    assert result.boxes.xyxy.tolist() == [[0, 21, 25, 30], [0, 0, 60, 39], [30, 21, 60, 22], [20, 20, 40, 80]]
    nearly = torch.tensor([[25.0, 25, 985, 985, 0.5, 0], [300, 300, 985, 985, 0.4, 0], [0, 0, 900, 1000, 0.3, 0]])
    whole = _snap_to_border(Results(np.zeros((1000, 1000, 3), np.uint8), "a", ["object"], nearly))
    expected = [[0, 0, 1000, 1000], [300, 300, 1000, 1000], [0, 0, 900, 1000]]
    assert whole.boxes is not None and whole.boxes.xyxy.tolist() == expected


def test_wrong_prompts_and_models_are_refused(model: FastSAM, tmp_path: Path) -> None:
    image = bgr_image(61, 90)
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"points": [[1, 2], [3, 4]], "labels": [1]}, ValueError, "labels"),
        ({"points": [1, 2], "labels": [2]}, ValueError, "foreground"),
        ({"points": 5}, ValueError, r"points have shape \(\)"),
        ({"points": [1, 2, 3]}, ValueError, r"points have shape \(3,\)"),
        ({"points": [[]]}, ValueError, "object 0 has no points"),
        ({"bboxes": [1, 2, 3]}, ValueError, "bboxes have shape"),
        ({"texts": 3}, TypeError, "texts must be"),
        ({"texts": ["a", " "]}, ValueError, "must not be empty"),
    ]
    for prompts, error, message in wrong:
        with pytest.raises(error, match=message):
            model(image, **prompts, **QUIET)
    with pytest.raises(ValueError, match="not a description"):
        FastSAM("FastSAM-s.yaml")
    with pytest.raises(ValueError, match="is a detection model"):
        FastSAM(write(tmp_path / "w.pt", make("detect")))


def test_ultralytics_import_paths() -> None:
    assert familiar.FastSAM is FastSAM and familiar.FastSAMPredictor is FastSAMPredictor
    with pytest.raises(AttributeError, match="no_such_name"):
        familiar.no_such_name  # noqa: B018
    with pytest.raises(ImportError, match="give bboxes, points or texts to the call of FastSAM"):
        from fastsam_core.models.fastsam import FastSAMPrompt  # noqa: F401
