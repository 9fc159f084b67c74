"""Single steps of a predictor (preprocess, inference, postprocess, ...) and callbacks."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import Predictor
from fastsam_core.config import Config
from image_examples import write_video
from predictor_examples import BOXES, HEIGHT, WIDTH
from small_model import FEW, QUIET, bgr_image


def test_preprocess_inference_postprocess_match_a_call(predictor: Predictor, image: np.ndarray) -> None:
    expected = predictor(bboxes=BOXES)[0]
    predictor.reset_image()
    pixels = predictor.preprocess([image])
    assert pixels.shape == (1, 3, 128, 128) and pixels.dtype == torch.float32
    predictor.set_image(image)
    assert torch.equal(predictor.im, pixels)
    predictor.reset_image()
    pixels = predictor.preprocess([image])
    preds = predictor.inference(pixels, bboxes=BOXES)
    result = predictor.postprocess(preds, pixels, [image])[0]
    assert result.masks.rle == expected.masks.rle
    assert torch.allclose(result.boxes.data, expected.boxes.data, atol=1e-5)
    everything = predictor.postprocess(predictor.inference(pixels, **FEW), pixels, image)[0]
    assert everything.masks.rle == predictor(image, **FEW)[0].masks.rle
    assert predictor.features is None
    (again,) = predictor.postprocess([part.numpy() for part in preds], None, image)
    assert again.masks.rle == expected.masks.rle
    for wrong in (preds[:1], (*preds, *preds), (preds[0], preds[1][:2])):
        with pytest.raises(ValueError, match=r"prompt_inference or generate returned, not tensors of \(3, 32, 32\)"):
            predictor.postprocess(wrong, None, image)


def test_postprocess_keeps_masks_with_a_score_above_conf(predictor: Predictor, image: np.ndarray) -> None:
    predictor.args.conf = 0.5
    masks, scores = torch.ones(3, HEIGHT, WIDTH, dtype=torch.bool), torch.tensor([0.6, 0.5, 0.7])
    boxes = torch.tensor([[0.0, 0, WIDTH, HEIGHT]]).expand(3, 4)
    (result,) = predictor.postprocess((masks, scores, boxes), None, image)
    assert torch.equal(result.boxes.conf, scores[::2]) and result.boxes.cls.tolist() == [0, 2]
    (result,) = predictor.postprocess((torch.zeros(3, 32, 32), scores), None, image)
    assert torch.equal(result.boxes.conf, scores[::2]) and result.boxes.cls.tolist() == [0, 2]


@pytest.mark.parametrize(
    "prompt", [{"points": [30, 20]}, {"points": [[[30, 20], [9, 9]]], "labels": [1, 0]}, {"masks": np.eye(32) - 0.5}]
)
def test_inference_matches_prompt_inference(predictor: Predictor, prompt: dict[str, Any]) -> None:
    expected = predictor.prompt_inference(**prompt)
    for got, wanted in zip(predictor.inference(**prompt), expected, strict=True):
        assert torch.equal(got, wanted)


def test_inference_with_prompts_takes_the_options_of_a_call(predictor: Predictor) -> None:
    low_res, scores = predictor.inference(bboxes=BOXES, imgsz=64)
    assert low_res.shape == (3, 16, 16)
    assert torch.allclose(scores, predictor(bboxes=BOXES, imgsz=64)[0].boxes.conf, atol=1e-5)
    with pytest.raises(TypeError, match="imgszz"):
        predictor.inference(bboxes=BOXES, imgszz=64)


def test_generate_without_masks_gives_empty_results(predictor: Predictor) -> None:
    masks, scores, boxes = predictor.generate(**{**FEW, "conf_thres": 1e9})
    assert masks.shape == (0, HEIGHT, WIDTH) and masks.dtype == torch.bool
    assert scores.shape == (0,) and boxes.shape == (0, 4)
    (result,) = predictor.postprocess((masks, scores, boxes), None, predictor.current_image.bgr)
    assert len(result) == 0 and result.masks is None


def test_prompt_inference_on_another_image_keeps_the_features(predictor: Predictor, model: Any) -> None:
    other = bgr_image(30, 50)
    before, kept = model.counts["encoded"], predictor.features
    low_res, _ = predictor.prompt_inference(other, bboxes=[1, 2, 20, 20])
    assert model.counts["encoded"] == before + 1 and predictor.features is kept
    predictor.set_image(other)
    assert torch.allclose(low_res, predictor.prompt_inference(bboxes=[1, 2, 20, 20])[0], atol=1e-4)
    with pytest.raises(ValueError, match="no prompt"):
        predictor.prompt_inference()


def test_inference_features_matches_a_call(predictor: Predictor) -> None:
    expected = predictor(bboxes=BOXES, multimask_output=True)[0]
    masks, boxes = predictor.inference_features(
        predictor.features, (HEIGHT, WIDTH), bboxes=BOXES, multimask_output=True
    )
    assert masks is not None and masks.dtype == torch.bool
    assert torch.equal(masks, expected.masks.data) and torch.allclose(boxes, expected.boxes.data, atol=1e-5)
    predictor.features = kept = predictor.features.numpy()  # features that a caller has stored as an array
    again, _ = predictor.inference_features(kept, (HEIGHT, WIDTH), bboxes=BOXES, multimask_output=True)
    found = predictor(bboxes=BOXES, multimask_output=True)[0]
    assert torch.equal(again, masks) and torch.equal(found.masks.data, masks)
    masks, boxes = predictor.inference_features(predictor.features, (HEIGHT, WIDTH), (128, 128), bboxes=[])
    assert masks is None and boxes.shape == (0, 6)
    with pytest.raises(ValueError, match="shape"):
        predictor.inference_features(predictor.features[..., :4], (HEIGHT, WIDTH), bboxes=BOXES)
    with pytest.raises(ValueError, match="no prompt: give bboxes, points or masks"):
        predictor.inference_features(predictor.features, (HEIGHT, WIDTH))


def test_steps_use_the_imgsz_option(predictor: Predictor, image: np.ndarray) -> None:
    predictor.args.imgsz = 64
    predictor.set_image(image)
    expected = predictor(bboxes=BOXES)[0]
    masks, _ = predictor.inference_features(predictor.features, (HEIGHT, WIDTH), bboxes=BOXES)
    assert masks is not None and torch.equal(masks, expected.masks.data)
    pixels = predictor.im
    for size in (64, (64, 64)):
        again, _ = Predictor(overrides={**QUIET, "model": predictor.model}).inference_features(
            predictor.features, (HEIGHT, WIDTH), size, bboxes=BOXES
        )
        assert again is not None and torch.equal(again, masks)
    low_res, scores = predictor.prompt_inference(pixels, bboxes=BOXES)
    assert low_res.shape == (3, 16, 16) and torch.allclose(scores, expected.boxes.conf, atol=1e-5)


def test_remove_small_regions_fills_holes_and_drops_islands() -> None:
    masks = torch.zeros(2, 40, 50, dtype=torch.uint8)
    masks[0, 5:25, 5:25] = 1
    masks[0, 10, 10] = 0  # a hole
    masks[1, 20:35, 30:45] = 1
    masks[1, 1, 1] = 1  # an island
    new, keep = Predictor.remove_small_regions(masks, min_area=4)
    assert keep.tolist() == [0, 1] and new.dtype == torch.bool
    assert new[0].sum() == 400 and new[1].sum() == 225 and not new[1, 1, 1]
    same, keep = Predictor.remove_small_regions(torch.stack([masks[0], masks[0]]), min_area=0)
    assert keep.tolist() == [0] and torch.equal(same[0], masks[0].bool())
    for wrong in (-1, float("nan"), 10**400):
        with pytest.raises(ValueError, match=r"^min_area must be"):
            Predictor.remove_small_regions(masks, wrong)
    with pytest.raises(TypeError, match=r"^min_area must be a number, got 'x'"):
        Predictor.remove_small_regions(masks, "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^nms_thresh must be between 0 and 1, got 2"):
        Predictor.remove_small_regions(masks, nms_thresh=2)
    empty, keep = Predictor.remove_small_regions(torch.zeros(0, 4, 4))
    assert len(empty) == len(keep) == 0


def test_setup_source_opens_a_source_with_the_options(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    video = write_video(tmp_path / "film.avi", [image] * 4)
    predictor.args.vid_stride = 3
    assert [item.frame for item in predictor.setup_source(video)] == [0, 3]
    other = predictor.setup_source(video, Config(vid_stride=2))
    assert [item.frame for item in other] == [0, 2] and predictor.dataset is other


def test_predict_cli_frees_results(predictor: Predictor, image: np.ndarray) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts: list[int] = []

    def count(running: Predictor) -> None:
        alive.update(running.results)
        counts.append(len(alive))

    predictor.add_callback("on_predict_batch_end", count)
    seen = predictor.seen
    predictor.set_prompts({"bboxes": BOXES})
    assert predictor.predict_cli([image, image, image]) is None
    assert predictor.seen == seen + 3
    assert max(counts) <= 2  # the previous result is freed when the next one arrives


def test_callbacks_fire_in_order_and_may_replace_results(predictor: Predictor, image: np.ndarray) -> None:
    events: list[str] = []
    for event in (
        "on_predict_start",
        "on_predict_batch_start",
        "on_predict_postprocess_end",
        "on_predict_batch_end",
        "on_predict_end",
    ):
        predictor.add_callback(event, lambda _, event=event: events.append(event))

    def first_only(running: Predictor) -> None:
        assert running.batch is not None and running.batch[0] == [running.results[0].path]
        running.results = [running.results[0][:1]]

    predictor.add_callback("on_predict_postprocess_end", first_only)
    results = predictor([image, image], bboxes=BOXES)
    assert [len(result) for result in results] == [1, 1]
    one = ["on_predict_batch_start", "on_predict_postprocess_end", "on_predict_batch_end"]
    assert events == ["on_predict_start", *one, *one, "on_predict_end"]
    with pytest.raises(ValueError, match="on_predict_start"):
        predictor.add_callback("on_train_start", print)
    with pytest.raises(TypeError, match="takes the predictor, not 3"):
        predictor.add_callback("on_predict_start", 3)  # type: ignore[arg-type]
    predictor.add_callback("on_predict_postprocess_end", lambda running: running.results.clear())
    with pytest.raises(ValueError, match="left 0 results for 1"):
        predictor([image, image], bboxes=BOXES)


@pytest.mark.parametrize("stream", [False, True])
def test_callback_may_replace_results_by_other_objects(
    predictor: Predictor, image: np.ndarray, stream: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_images(running: Predictor) -> None:
        running.results = zip(running.results, running.batch[1], strict=True)

    predictor.add_callback("on_predict_batch_end", with_images)
    for result, frame in predictor([image, image], bboxes=BOXES, stream=stream, verbose=True):
        assert len(result) == 3 and np.array_equal(frame, image)
    assert "Speed" not in capsys.readouterr().err  # the callback's replacements have no speed


@pytest.mark.parametrize("event", ["on_predict_batch_start", "on_predict_postprocess_end", "on_predict_batch_end"])
def test_callback_may_run_a_prediction(predictor: Predictor, image: np.ndarray, event: str) -> None:
    expected = [result.boxes.data.tolist() for result in predictor([image, image], bboxes=BOXES)]
    inner: list[int] = []

    def look_closer(running: Predictor) -> None:
        if running.batch[1][0].shape == image.shape:  # not for the nested prediction on a part
            inner.append(len(running(image[:20, :30], points=[9, 9])))
            assert running.batch[1][0].shape == image.shape

    predictor.add_callback(event, look_closer)
    results = predictor([image, image], bboxes=BOXES)
    assert inner == [1, 1] and [result.boxes.data.tolist() for result in results] == expected
    assert predictor.results[0] is results[1]


def test_copy_made_in_a_callback_keeps_its_own_results(predictor: Predictor, image: np.ndarray) -> None:
    kept: list[bool] = []

    def run_copy(running: Predictor) -> None:
        other = copy.deepcopy(running)
        other.callbacks.clear()
        kept.append(other(image, points=[9, 9])[0] is other.results[0])

    predictor.add_callback("on_predict_batch_end", run_copy)
    predictor(image, bboxes=BOXES)
    assert kept == [True]
