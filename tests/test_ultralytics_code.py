"""Programs written around the Ultralytics package: what they do with models and predictors besides calling them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsam_core
from fastsam_core import SAM, YOLO, FastSAM, Predictor
from fastsam_core.models.fastsam import FastSAMPredictor
from fastsam_core.models.sam_model import SamModel
from small_model import FEW, QUIET, bgr_image
from yolo_files import make, write

YOLO_QUIET: dict[str, Any] = {"save": False, "verbose": False, "conf": 0.1, "imgsz": 96}


@pytest.fixture(scope="module")
def fastsam(tmp_path_factory: pytest.TempPathFactory) -> FastSAM:
    return FastSAM(write(tmp_path_factory.mktemp("fastsam") / "FastSAM-tiny.pt", make("segment", nc=1)))


def test_a_predictor_takes_the_module_of_a_loaded_model(fastsam: FastSAM) -> None:
    overrides = {**fastsam.overrides.copy(), "task": "segment", "single_cls": False, "retina_masks": False}
    predictor = FastSAMPredictor(overrides={**overrides, **YOLO_QUIET})
    assert predictor.model is None and predictor.device is None
    predictor.setup_model(model=fastsam.model, verbose=False)
    assert predictor.model is fastsam.model and predictor.device == torch.device("cpu")
    predictor.model = predictor.model.to("cpu")
    image = bgr_image(61, 90)
    for size in (96, None):  # None: the size that the checkpoint names, or that FastSAM was trained with
        (result,), (expected,) = (call(image, **{**YOLO_QUIET, "imgsz": size}) for call in (predictor, fastsam))
        assert len(result) > 3 and result.boxes.data.tolist() == expected.boxes.data.tolist()


def test_a_predictor_is_made_from_the_task_map(fastsam: FastSAM) -> None:
    for model in (fastsam, YOLO(fastsam.ckpt_path)):
        predictor = model.task_map[model.task]["predictor"](overrides=YOLO_QUIET)
        predictor.setup_model(model=model.model)
        (result,), (expected,) = (call(bgr_image(61, 90), **YOLO_QUIET) for call in (predictor, model))
        assert len(result) > 3 and torch.equal(result.boxes.data, expected.boxes.data)


def test_a_callback_renames_the_classes_of_the_predictors_model(fastsam: FastSAM) -> None:
    model = YOLO(fastsam.ckpt_path)

    def rename(predictor: Any) -> None:
        predictor.model.names = {0: "fish"}
        for result in predictor.results:
            result.names = {0: "fish"}

    model.add_callback("on_predict_postprocess_end", rename)
    (result,) = model(bgr_image(61, 90), **YOLO_QUIET)
    assert result.names == model.names == {0: "fish"}


def test_the_device_of_a_predictor_can_be_assigned(model: SamModel) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    predictor.device = "cpu"
    assert predictor.args.device == "cpu" and predictor.device is None
    predictor.set_image(bgr_image(30, 40))
    assert predictor.device == torch.device("cpu")
    with pytest.raises(TypeError, match="device must be"):
        predictor.device = 1.5


def test_labels_without_points_are_no_prompt(
    model: SamModel, fastsam: FastSAM, caplog: pytest.LogCaptureFixture
) -> None:
    image = bgr_image(30, 40)
    options = {key: value for key, value in QUIET.items() if key != "save"}
    (result,) = SAM(model)(image, labels=[1], **options, **FEW)
    assert result.crop_boxes is not None  # which only segment everything gives
    (result,) = fastsam(image, labels=[1], **YOLO_QUIET)
    assert len(result) == len(fastsam(image, **YOLO_QUIET)[0]) > 0
    assert caplog.messages == ["labels have no effect without points"]


def test_labels_without_points_are_logged_by_inference_too(model: SamModel, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    assert len(predictor.inference(bgr_image(30, 40), labels=[1], **FEW)) == 3  # those of generate
    assert caplog.messages == ["labels have no effect without points"]


def test_options_of_training_are_accepted(model: SamModel, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor(overrides={"model": model, "single_cls": True, **QUIET})
    assert len(predictor(bgr_image(30, 40), bboxes=[1, 2, 20, 20], workers=0)) == 1
    assert not caplog.messages


@pytest.mark.parametrize(
    ("use", "error", "instead"),
    [
        (lambda model: model.track("video.mp4", persist=True), AttributeError, r"FastSAM has no track: .*supervision"),
        (lambda model: model.set_classes(["dog"]), AttributeError, r"texts=\['a dog'\]"),
        (lambda model: model.embed("photo.jpg"), AttributeError, "features"),
        (lambda model: fastsam_core.YOLOWorld("yolov8s-world.pt"), ImportError, r"YOLOWorld isn't .* texts="),
        (lambda model: fastsam_core.RTDETR("rtdetr-l.pt"), ImportError, "from_transformers RT-DETR"),
        (lambda model: fastsam_core.settings.update(weights_dir="weights"), ImportError, "FASTSAM_HOME"),
        (lambda model: YOLO("yolov8s-world.pt"), FileNotFoundError, r"no checkpoint 'yolov8s-world.pt'.*texts="),
        (lambda model: YOLO("mobile_sam.pt"), FileNotFoundError, r"SAM\(\.\.\.\) loads the models of Segment Anything"),
        (lambda model: YOLO("yolov8s_seg.pt"), FileNotFoundError, r"did you mean 'yolov8s-seg.pt'\?$"),
    ],
)
def test_what_is_not_offered_raises_an_error_that_says_what_is(
    fastsam: FastSAM, use: Callable[[Any], Any], error: type[Exception], instead: str
) -> None:
    with pytest.raises(error, match=instead):
        use(fastsam)


def test_importing_the_coco_converter_names_the_one_of_this_package() -> None:
    with pytest.raises(ImportError, match="convert_labels"):
        from fastsam_core.data.converter import convert_coco  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"):
        from fastsam_core.data.converter import convert_dota  # noqa: F401


@pytest.mark.parametrize(
    ("path", "name", "instead"),
    [
        ("models.sam", "SAM2Predictor", "only the first Segment Anything"),
        ("models.sam.predict", "SAM3SemanticPredictor", "only the first Segment Anything"),
        ("utils", "ops", "in pixels of the image"),
        ("utils.ops", "scale_masks", "utils.ops.scale_masks isn't offered: Results, "),
        ("utils.plotting", "Annotator", r"utils.plotting.Annotator isn't offered: results\[0\].plot\(\)"),
        ("utils", "SETTINGS", "FASTSAM_HOME"),
        ("utils", "colorstr", "cannot import name 'colorstr'"),
    ],
)
def test_importing_what_is_not_offered_names_what_is(path: str, name: str, instead: str) -> None:
    with pytest.raises(ImportError, match=instead):
        exec(f"from fastsam_core.{path} import {name}")


def test_predictors_are_subclassed_under_the_names_of_ultralytics(fastsam: FastSAM) -> None:
    from fastsam_core.models.fastsam.predict import FastSAMPredictor as Own
    from fastsam_core.models.yolo.detect import DetectionPredictor
    from fastsam_core.models.yolo.segment import SegmentationPredictor
    from fastsam_core.utils import DEFAULT_CFG

    for base in (DetectionPredictor, SegmentationPredictor, Own):

        class Mine(base):  # type: ignore[valid-type,misc]
            def __init__(self, cfg: Any = DEFAULT_CFG, overrides: Any = None, _callbacks: Any = None) -> None:
                super().__init__(cfg, overrides, _callbacks)

        (result,) = fastsam(bgr_image(61, 90), predictor=Mine, **YOLO_QUIET)
        assert type(fastsam.predictor) is Mine and len(result) > 3


def test_the_logger_silences_the_log(model: SamModel, caplog: pytest.LogCaptureFixture) -> None:
    from fastsam_core.utils import LOGGER

    predictor = Predictor(overrides={"model": model, **QUIET, "verbose": True})
    with caplog.at_level("INFO", LOGGER.name):
        predictor(bgr_image(30, 40), bboxes=[1, 2, 20, 20])
        assert any("30x40 1 mask" in message for message in caplog.messages)
        caplog.clear()
        LOGGER.setLevel("WARNING")
        predictor(bgr_image(30, 40), bboxes=[1, 2, 20, 20])
        assert not caplog.messages


def test_names_of_results_may_be_a_list() -> None:
    result = fastsam_core.Results(bgr_image(30, 40), "a.png", {0: "a"}, boxes=[[1, 2, 3, 4, 0.5, 1]])
    result.names = ["cat", "dog"]  # type: ignore[assignment]
    assert result.names == {0: "cat", 1: "dog"} == result[:1].names and result.verbose() == "1 dog, "
    result.names[1] = "wolf"
    assert result.summary()[0]["name"] == "wolf"
