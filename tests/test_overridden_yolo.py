"""YOLO and FastSAM with overridden steps, and callbacks that read and change options, as for Ultralytics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import SAM, YOLO, FastSAM, Predictor, Results
from fastsam_core.detect import load_detector
from fastsam_core.detect.yolo.predictor import YoloPredictor
from fastsam_core.models.fastsam import FastSAMPredictor
from fastsam_core.models.sam_model import SamModel
from predictor_examples import BOXES
from small_model import QUIET, bgr_image
from yolo_files import make, write

IMAGE = bgr_image(61, 90)
SMALL: dict[str, Any] = {"save": False, "verbose": False, "conf": 0.1, "imgsz": 96}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("yolo") / "FastSAM-tiny.pt", make("segment", nc=1)))


class FirstTwo(YoloPredictor):
    def postprocess(self, preds: Any, img: Any, orig_imgs: Any) -> list[Results]:
        return [result[:2] for result in super().postprocess(preds, img, orig_imgs)]


class FirstTwoOfFastSAM(FastSAMPredictor):
    def postprocess(self, preds: Any, img: Any, orig_imgs: Any) -> list[Results]:
        return [result[:2] for result in super().postprocess(preds, img, orig_imgs)]


def test_postprocess_may_drop_objects(path: str) -> None:
    expected = YOLO(path)(IMAGE, **SMALL)[0]
    assert len(expected) > 3
    model = YOLO(path)
    for results in (
        FirstTwo(overrides={"model": path, **SMALL})([IMAGE, IMAGE[:40], IMAGE], batch=3, rect=True)[::2],
        model(IMAGE, predictor=FirstTwo, **SMALL),
        model(IMAGE, **SMALL),
    ):
        for result in results:
            assert torch.allclose(result.boxes.data, expected.boxes.data[:2], atol=1e-3) and len(result.masks) == 2


def test_steps_of_the_object_are_used_and_must_return_a_result_for_each_image(path: str) -> None:
    predictor = YoloPredictor(overrides={"model": path, **SMALL})
    whole = predictor(IMAGE)[0]
    preprocess, postprocess = predictor.preprocess, predictor.postprocess
    predictor.preprocess = lambda im: preprocess(im) * 0  # type: ignore[method-assign]
    assert predictor(IMAGE)[0].boxes.data.tolist() != whole.boxes.data.tolist()
    predictor.postprocess = lambda *args: postprocess(*args) * 2  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="postprocess returned 2 results for 1 images"):
        predictor(IMAGE)


def test_rect_says_how_far_inputs_are_padded(path: str) -> None:
    from fastsam_core.detect.yolo.letterbox import Letterbox

    wide = IMAGE[:30]
    shapes: list[Any] = []

    class Seen(YoloPredictor):
        def inference(self, im: Any, *args: Any, **kwargs: Any) -> Any:
            shapes.append(tuple(im.shape[2:]))
            return super().inference(im, *args, **kwargs)

    class Square(YoloPredictor):
        def preprocess(self, im: Any) -> torch.Tensor:
            box = Letterbox.fit(im[0].shape[:2], (96, 96), (96, 96))
            return torch.from_numpy(box.to_input(im[0]))[None].float() / 255

    options = {"model": path, **SMALL}
    (square,), (least,) = Seen(overrides=options)(wide), Seen(overrides=options)(wide, rect=True)
    (own,), (given,) = Square(overrides={**options, "rect": True})(wide), YOLO(path)(wide, rect=False, **SMALL)
    assert shapes == [(96, 96), (32, 96)]
    assert len(least) > 3 and torch.equal(least.boxes.data, YOLO(path)(wide, **SMALL)[0].boxes.data)
    assert len(square) > 3 and square.boxes.data.tolist() != least.boxes.data.tolist()
    for same in (own, given):
        assert torch.equal(same.boxes.data, square.boxes.data) and same.masks.rle == square.masks.rle


def test_prompts_choose_among_what_fastsams_postprocess_returns(path: str) -> None:
    model = FastSAM(path)
    everything = model(IMAGE, **SMALL)[0]
    x, y = everything.masks.xy[3].mean(0).tolist()
    before = model(IMAGE, points=[[x, y]], **SMALL)[0]
    after = model(IMAGE, points=[[x, y]], predictor=FirstTwoOfFastSAM, **SMALL)[0]
    ids = everything.boxes.data.tolist()
    assert [ids.index(row) for row in after.boxes.data.tolist()] == [
        index for row in before.boxes.data.tolist() if (index := ids.index(row)) < 2
    ]
    chosen: list[Any] = []

    class Own(FastSAMPredictor):
        def prompt(self, results: Any, bboxes: Any = None, *args: Any, **kwargs: Any) -> list[Results]:
            chosen.append(bboxes)
            return super().prompt(results, bboxes, *args, **kwargs)

    model(IMAGE, bboxes=[1, 2, 30, 40], predictor=Own, **SMALL)
    assert chosen == [[1, 2, 30, 40]]


def test_the_result_of_an_image_is_constructed_by_the_subclass(path: str) -> None:
    class Named(YoloPredictor):
        def construct_result(self, pred: Any, img: Any, orig_img: Any, img_path: str) -> Results:
            result = super().construct_result(pred, img, orig_img, img_path)
            result.names = {0: img_path}
            return result

    assert Named(overrides={"model": path, **SMALL})(IMAGE)[0].names == {0: "image0.jpg"}


def test_yolo_goes_through_predict_and_a_module_that_is_assigned(path: str, tmp_path: Path) -> None:
    calls: list[str] = []

    class Own(YOLO):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("predict")
            return super().predict(*args, **kwargs)

    model = Own(path)
    before = model(IMAGE, **SMALL)[0]
    other = YOLO(write(tmp_path / "other.pt", make("segment", nc=3)))
    model.model = other.model
    after, expected = model(IMAGE, **SMALL)[0], other(IMAGE, **SMALL)[0]
    assert after.boxes.data.tolist() == expected.boxes.data.tolist() != before.boxes.data.tolist()
    assert calls == ["predict", "predict"]


# --- options in callbacks ---


@pytest.mark.parametrize("event", ["on_predict_start", "on_predict_batch_start", "on_predict_batch_end"])
def test_callbacks_read_the_options_of_their_call(path: str, model: SamModel, event: str) -> None:
    for network, options, prompts in ((YOLO(path), SMALL, {}), (SAM(model), QUIET, {"bboxes": BOXES})):
        seen: list[Any] = []
        network.add_callback(
            event, lambda running, seen=seen: seen.append((running.args.iou, running.model is not None))
        )
        network(IMAGE, iou=0.33, **options, **prompts)
        assert seen == [(0.33, True)]


@pytest.mark.parametrize("event", ["on_predict_start", "on_predict_batch_start"])
def test_callbacks_change_the_options_of_their_call_only(path: str, model: SamModel, event: str) -> None:
    def keep_none(running: Any) -> None:
        running.args.conf = 1.0

    for network, options, prompts in ((YOLO(path), SMALL, {}), (SAM(model), QUIET, {"bboxes": BOXES})):
        network.callbacks[event].append(keep_none)
        assert len(network(IMAGE, **options, **prompts)[0]) == 0
        network.clear_callback(event)
        assert len(network(IMAGE, **options, **prompts)[0]) >= 3


def test_options_are_changed_between_frames(path: str, model: SamModel) -> None:
    yolo, sam = YOLO(path), SAM(model)
    for start, prompts in (
        (YoloPredictor(overrides={"model": path, **SMALL}), {}),
        (Predictor(overrides={"model": model, **QUIET}), {"bboxes": BOXES}),
        (yolo, SMALL),
        (sam, {"bboxes": BOXES, **QUIET}),
    ):
        results = iter(start([IMAGE, IMAGE], stream=True, **prompts))
        assert len(next(results)) >= 3
        (start if isinstance(start, YoloPredictor | Predictor) else start.predictor).args.conf = 1.0
        assert len(next(results)) == 0


def test_a_thread_sees_its_own_options_while_another_thread_predicts(model: SamModel) -> None:
    import threading

    predictor = Predictor(overrides={"model": model, **QUIET})
    seen: list[float] = []

    def ask(_: Any) -> None:
        thread = threading.Thread(target=lambda: seen.append(predictor.args.iou))
        thread.start()
        thread.join()

    predictor.add_callback("on_predict_batch_end", ask)
    predictor(IMAGE, bboxes=BOXES, iou=0.2)
    assert seen == [0.7]


def test_callbacks_can_tell_what_kind_of_source_there_is(model: SamModel, tmp_path: Path) -> None:
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (90, 61))
    writer.write(IMAGE)
    writer.release()
    predictor = Predictor(overrides={"model": model, **QUIET})
    modes: list[str] = []
    for event in ("on_predict_start", "on_predict_batch_end"):
        predictor.add_callback(event, lambda running: modes.append(running.dataset.mode))
    for source in (IMAGE, str(tmp_path / "clip.avi")):
        predictor(source, bboxes=BOXES)
    assert modes == ["image", "image", "video", "video"]


def test_a_models_predictor_keeps_the_options_of_the_last_call_but_the_next_call_does_not(
    path: str, model: SamModel
) -> None:
    for network, options, prompts in ((YOLO(path), SMALL, {}), (SAM(model), QUIET, {"bboxes": BOXES})):
        (first,) = network(IMAGE, iou=0.33, **options, **prompts)
        direct = network.predictor(IMAGE, **prompts)[0]
        assert direct.boxes.data.tolist() == first.boxes.data.tolist() and network.predictor.args.iou == 0.33
        network(IMAGE, **options, **prompts)
        assert network.predictor.args.iou == 0.7
        network.predictor.args.iou = 0.25  # set by the user, so calls keep it
        for _ in range(2):
            network(IMAGE, **options, **prompts)
            assert network.predictor.args.iou == 0.25


def test_a_callback_that_calls_the_model_starts_from_its_options(model: SamModel) -> None:
    sam, seen = SAM(model), []

    def call(running: Any) -> None:
        sam.clear_callback("on_predict_batch_end")
        sam.add_callback("on_predict_start", lambda running: seen.append(running.args.iou))
        seen.append(running.args.iou)
        sam(IMAGE, bboxes=BOXES, **QUIET)
        seen.append(running.args.iou)

    sam.add_callback("on_predict_batch_end", call)
    sam(IMAGE, bboxes=BOXES, iou=0.2, **QUIET)
    assert seen == [0.2, 0.7, 0.2]


def test_a_predictor_that_names_a_model_uses_that(path: str, tmp_path: Path) -> None:
    other = YOLO(write(tmp_path / "other.pt", make("segment", nc=3)))
    model = YOLO(path)
    model.predictor = YoloPredictor(overrides={"model": str(tmp_path / "other.pt"), **SMALL})
    assert model(IMAGE, **SMALL)[0].boxes.data.tolist() == other(IMAGE, **SMALL)[0].boxes.data.tolist()


def test_yolo_uses_images_that_a_callback_puts_into_the_batch(path: str) -> None:
    def flip(running: Any) -> None:
        paths, images, labels = running.batch
        running.batch = paths, [image[:, ::-1].copy() for image in images], labels

    model = YOLO(path)
    expected = model(IMAGE[:, ::-1].copy(), **SMALL)[0].boxes.data.tolist()
    model.add_callback("on_predict_batch_start", flip)
    assert model(IMAGE, **SMALL)[0].boxes.data.tolist() == expected


def test_a_changed_model_detects_as_it_does_when_it_is_called(path: str) -> None:
    def keep_first(running: Any) -> None:
        running.results = [result[:1] for result in running.results]

    class Own(YOLO):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            return [result[1:2] for result in super().predict(*args, **kwargs)]

    whole = load_detector(YOLO(path), conf=0.1, imgsz=96)(IMAGE)
    with_callback, with_predictor, with_options = (YOLO(path) for _ in range(3))
    with_callback.add_callback("on_predict_postprocess_end", keep_first)
    with_predictor.predictor = FirstTwo(overrides={"model": path, **SMALL})
    with_options.overrides["max_det"] = 3
    with_method = YOLO(path)
    predict = with_method.predict
    with_method.predict = lambda *args, **kwargs: [result[2:3] for result in predict(*args, **kwargs)]  # type: ignore[method-assign]
    changed = ((with_callback, [0]), (with_predictor, [0, 1]), (Own(path), [1]), (with_method, [2]))
    for model, kept in (*changed, (with_options, [0, 1, 2])):
        found = load_detector(model, conf=0.1, imgsz=96)(IMAGE)
        assert len(whole.boxes) > 3 and np.allclose(found.boxes, whole.boxes[kept], atol=1e-3)
        found = load_detector(model, conf=0.1, imgsz=96, classes=np.array([1, 2]), device="cpu")(IMAGE)
        assert len(found.boxes) == 0
        with pytest.raises(ValueError, match="device='nowhere'"):
            load_detector(model, device="nowhere")(IMAGE)
    with_options.overrides["device"] = "nowhere"
    with pytest.raises(ValueError, match="device='nowhere'"):
        load_detector(with_options)(IMAGE)
