"""The SAM class: loading checkpoints, info, predicting, callbacks, moving between devices, and copying."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastsam_core
from fastsam_core import SAM, Predictor
from fastsam_core.models.registry import MODELS
from fastsam_core.models.sam_model import SamModel
from small_model import FEW, QUIET, bgr_image, small_weights

CALL = {key: value for key, value in QUIET.items() if key != "save"}
BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0]]


@pytest.fixture
def sam(model: SamModel) -> SAM:
    return SAM(model)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a file of the recipe's weights whose name doesn't identify a model."""
    path = tmp_path / "checkpoint.pt"
    torch.save(small_weights(), path)
    return path


def test_constructor_loads_weights_and_sets_attributes(checkpoint: Path) -> None:
    sam = SAM(str(checkpoint))
    assert isinstance(sam.model, SamModel) and not sam.model.training
    assert sam.device == torch.device("cpu") and sam.task == "segment" and sam.predictor is None
    assert sam.model_name == sam.ckpt_path == str(checkpoint)
    for part in ("image_encoder", "prompt_encoder", "mask_decoder"):
        assert getattr(sam, part) is getattr(sam.model, part)
    with pytest.raises(AttributeError, match="no_such_thing"):
        sam.no_such_thing  # noqa: B018
    assert "sam_nano" in repr(sam)


def test_missing_file_or_wrong_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SAM(tmp_path / "missing.pt")
    for wrong in (None, 3):
        with pytest.raises(TypeError, match="checkpoint"):
            SAM(wrong)  # type: ignore[arg-type]


def test_info_returns_and_prints_model_summary(sam: SAM, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = sum(value.numel() for value in sam.model.parameters())
    layers = sum(1 for module in sam.model.modules() if not list(module.children()))
    assert sam.info() == (layers, parameters, parameters, 0.0)
    assert capsys.readouterr().out == (
        f"Model summary: {layers:,} layers, {parameters:,} parameters, {parameters:,} gradients\n"
    )
    assert sam.info(verbose=False) is None
    assert capsys.readouterr().out == ""
    sam.info(detailed=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(sam.model.parameters())) + 2
    assert "mask_decoder.iou_token.weight" in "\n".join(lines)


def test_call_and_predict_match_predictor(sam: SAM, model: SamModel) -> None:
    image = bgr_image(48, 64)
    direct = Predictor(overrides={"model": model, **QUIET})
    for prompts in (
        {"bboxes": BOXES},
        {"points": [30, 20], "labels": [1]},
        {"points": [30, 20], "multimask_output": True},
        {"masks": np.ones((48, 64), bool)},
        FEW,
    ):
        expected = direct(image, **prompts)[0]
        assert len(expected) > 0
        for call in (sam, sam.predict):
            assert call(image, **prompts, **CALL)[0].masks.rle == expected.masks.rle
    assert isinstance(sam.predictor, Predictor)


def test_prompts_as_positional_arguments(sam: SAM) -> None:
    image = bgr_image(48, 64)
    sam.overrides.update(CALL)
    assert len(sam(image, False, BOXES)[0]) == 2
    assert len(sam(image, False, None, [30, 20], [1])[0]) == 1
    stream = sam([image] * 2, True, BOXES)
    assert not isinstance(stream, list) and [len(result) for result in stream] == [2, 2]


def test_nothing_is_written_by_default(sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sam(bgr_image(48, 64), bboxes=BOXES, **CALL)
    assert list(tmp_path.iterdir()) == []
    sam(bgr_image(48, 64), bboxes=BOXES, **CALL, save=True)
    assert (tmp_path / "runs" / "segment" / "predict" / "image0.jpg").is_file()


def test_call_options_do_not_persist_but_overrides_do(sam: SAM) -> None:
    image = bgr_image(48, 64)
    assert len(sam(image, bboxes=BOXES, **CALL)[0]) == 2
    assert len(sam(image, bboxes=BOXES, **{**CALL, "conf": 1.0})[0]) == 0
    assert len(sam(image, bboxes=BOXES, **CALL)[0]) == 2
    sam(image, bboxes=BOXES)
    assert sam.predictor is not None and sam.predictor.args.conf is None
    sam.overrides["conf"] = 1.0
    assert len(sam(image, bboxes=BOXES, verbose=False, imgsz=128)[0]) == 0


def test_input_size_defaults_to_that_of_the_model(checkpoint: Path) -> None:
    sam = SAM(checkpoint)
    sam(bgr_image(30, 40), bboxes=[1, 2, 20, 20], verbose=False)
    assert sam.model.image_size == MODELS["sam_nano"].image_size
    sam(bgr_image(30, 40), bboxes=[1, 2, 20, 20], imgsz=128, verbose=False)
    assert sam.model.image_size == 128
    sam(bgr_image(30, 40), bboxes=[], verbose=False)
    assert sam.model.image_size == MODELS["sam_nano"].image_size


def test_input_size_of_a_call_does_not_become_the_models_default(checkpoint: Path) -> None:
    sam = SAM(checkpoint)
    sam(bgr_image(30, 40), bboxes=[], imgsz=128, verbose=False)
    other = SAM(sam.model)
    other(bgr_image(30, 40), bboxes=[], verbose=False)
    assert other.model.image_size == MODELS["sam_nano"].image_size
    sam.model.set_image_size(64)
    other(bgr_image(30, 40), bboxes=[], verbose=False)
    assert other.model.image_size == 64


def test_unknown_and_invalid_options_are_refused(sam: SAM) -> None:
    with pytest.raises(TypeError, match="did you mean bboxes"):
        sam(bgr_image(30, 40), bbox=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="finite"):
        sam(bgr_image(30, 40), bboxes=[1, 2, 3, float("nan")])


def test_bundled_images_are_used_without_a_source(
    sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "sample.png"), bgr_image(30, 40))
    monkeypatch.setattr(fastsam_core, "ASSETS", tmp_path, raising=False)
    results = sam(bboxes=[1, 2, 20, 20], **CALL)
    assert [Path(result.path).name for result in results] == ["sample.png"]
    assert "no source given" in caplog.text


def test_concurrent_first_calls_share_one_predictor(sam: SAM, monkeypatch: pytest.MonkeyPatch) -> None:
    image, together, made = bgr_image(20, 30), threading.Barrier(2), []

    def make(*args: Any, **kwargs: Any) -> Predictor:
        with suppress(
            threading.BrokenBarrierError
        ):  # expected: no second thread arrives while the first makes its predictor
            together.wait(0.5)
        made.append(Predictor(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("fastsam_core.sam.Predictor", make)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(sam, image, bboxes=BOXES, **{**CALL, "imgsz": size}) for size in (64, 128)]
    found = [call.result()[0] for call in calls]
    assert len(made) == 1
    for size, result in zip((64, 128), found, strict=True):
        (alone,) = sam(image, bboxes=BOXES, **{**CALL, "imgsz": size})
        assert torch.equal(result.boxes.data, alone.boxes.data)


def test_ultralytics_import_paths(sam: SAM) -> None:
    import fastsam_core.models.sam.model
    import fastsam_core.models.sam.predict

    assert fastsam_core.models.SAM is fastsam_core.models.sam.SAM is fastsam_core.models.sam.model.SAM is SAM
    assert fastsam_core.models.sam.Predictor is fastsam_core.models.sam.predict.Predictor
    assert fastsam_core.models.YOLO is fastsam_core.YOLO and fastsam_core.models.FastSAM is fastsam_core.FastSAM
    with pytest.raises(ImportError, match="SAM2Predictor isn't supported: only the first"):
        from fastsam_core.models.sam import SAM2Predictor  # noqa: F401
    predictor = sam.task_map["segment"]["predictor"](overrides=QUIET)
    predictor.setup_model(model=sam.model, verbose=False)
    assert len(predictor(bgr_image(30, 40), bboxes=[1, 2, 20, 20])[0]) == 1


def test_callbacks_can_be_added_cleared_and_reset(sam: SAM) -> None:
    seen: list[Any] = []
    sam.add_callback("on_predict_end", seen.append)
    sam(bgr_image(30, 40), bboxes=[1, 2, 20, 20], **CALL)
    assert seen == [sam.predictor]
    sam.clear_callback("on_predict_end")
    sam(bgr_image(30, 40), bboxes=[1, 2, 20, 20], **CALL)
    sam.add_callback("on_predict_start", seen.append)
    sam.reset_callbacks()
    sam(bgr_image(30, 40), bboxes=[1, 2, 20, 20], **CALL)
    assert len(seen) == 1
    for method in (lambda: sam.add_callback("on_predict", print), lambda: sam.clear_callback("on_predict")):
        with pytest.raises(ValueError, match="on_predict_start"):
            method()


def test_device_and_dtype_methods(sam: SAM) -> None:
    assert sam.to("cpu") is sam and sam.cpu() is sam and sam.eval() is sam and not sam.training
    sam.overrides["quantize"] = 32
    assert sam.half() is sam and sam.overrides == {"dtype": torch.float16}
    assert {value.dtype for value in sam.parameters()} == {torch.float32}, "weights stay as they are"
    assert sam.float() is sam and sam.overrides == {}
    assert sam.to(torch.float16).overrides == {"dtype": torch.float16} and sam.to(dtype=torch.float32).overrides == {}
    assert sam.bfloat16().overrides == sam.to("cpu", torch.bfloat16).overrides == {"dtype": torch.bfloat16}
    assert sam.to("cpu").overrides == {"dtype": torch.bfloat16}
    for chosen, dtype in ((sam.bfloat16, torch.bfloat16), (sam.float, None)):
        chosen()(bgr_image(30, 40), bboxes=[], **CALL)
        assert sam.predictor is not None and sam.predictor.args.dtype == dtype
    with pytest.raises(ValueError, match="float16"):
        sam.to(torch.float64)
    for move in (lambda: sam.to("nowhere"), lambda: sam.to("cuda:99"), lambda: sam.cuda(99), lambda: sam.to("meta")):
        with pytest.raises(ValueError, match=r"nowhere|99|meta"):
            move()


@pytest.mark.parametrize("name", ["train", "export"])
def test_train_and_export_are_not_implemented(sam: SAM, name: str) -> None:
    with pytest.raises(NotImplementedError, match="predicts only"):
        getattr(sam, name)(data="coco.yaml")


def test_deepcopy_and_pickle_give_the_same_results(checkpoint: Path) -> None:
    sam = SAM(checkpoint)
    expected = sam(bgr_image(30, 40), bboxes=[1, 2, 20, 20], **CALL)[0].masks.rle
    for other in (copy.deepcopy(sam), pickle.loads(pickle.dumps(sam))):
        assert other.predictor.model is other.model is not sam.model and other.predictor.dataset is None
        assert other(bgr_image(30, 40), bboxes=[1, 2, 20, 20], **CALL)[0].masks.rle == expected
