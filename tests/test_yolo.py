"""YOLOv8 end to end, compared with an independent evaluation of the same file, and the public interface."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fastsam_core import ASSETS, YOLO, Results, rle
from fastsam_core.config import DetectConfig
from fastsam_core.detect import load_detector
from fastsam_core.detect.yolo.decode import decode
from fastsam_core.detect.yolo.head import RawOutput
from fastsam_core.detect.yolo.letterbox import Letterbox
from fastsam_core.detect.yolo.masks import mask_rles
from fastsam_core.detect.yolo.predictor import YoloPredictor
from small_model import bgr_image
from yolo_files import DetectionModel, expected, make, write

Files = dict[str, tuple[Path, DetectionModel]]  # checkpoint and network by task
QUIET: dict[str, Any] = {"verbose": False, "conf": 0.3}
# Padding by whole cells, by half cells, odd padding, no padding, portrait, larger than the input, very wide.
SHAPES = [(48, 64), (61, 90), (100, 37), (96, 96), (90, 33), (200, 301), (7, 90)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("yolo")
    nets = {task: make(task) for task in ("detect", "segment")}
    return {task: (write(folder / f"{task}.pt", net), net) for task, net in nets.items()}


@pytest.fixture(scope="module")
def segment(files: Files) -> YOLO:
    return YOLO(files["segment"][0])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one(results: Any) -> Results:
    (result,) = results
    assert isinstance(result, Results)
    return result


@pytest.mark.parametrize("task", ["detect", "segment"])
@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_scores_and_masks_match_reference(files: Files, task: str, shape: tuple[int, int]) -> None:
    path, net = files[task]
    image = bgr_image(*shape)
    rows, masks = expected(net, image, 96, 0.3)
    result = one(YOLO(path)(image, **QUIET))
    assert len(rows) > 3 and result.boxes is not None
    np.testing.assert_allclose(np.asarray(result.boxes.data), rows, rtol=1e-4, atol=1e-3)
    assert (masks is None) == (result.masks is None)
    if masks is not None and result.masks is not None:
        found = np.asarray(result.masks.data)
        assert found.shape == masks.shape and result.masks.is_rle
        # A logit within rounding of zero may fall on either side.
        assert (found != masks).sum() <= 2e-4 * masks.sum()
        assert masks.any((1, 2)).all() and masks.sum() > 1000


def test_box_in_the_padding_has_an_empty_mask() -> None:
    letterbox = Letterbox.fit((300, 640), (640, 640))  # ten rows of padding above
    boxes = letterbox.to_image_boxes(torch.tensor([[10.0, 0, 50, 9], [10.0, 20, 50, 80], [10.0, 20, 10, 80]]))
    prototypes, coefficients = torch.ones(2, 80, 160), torch.ones(3, 2)
    rles, areas = mask_rles(coefficients, prototypes, boxes, letterbox)
    assert areas.tolist() == [0, 40 * 60, 0] and rle.area(rles).tolist() == areas.tolist()


@pytest.mark.parametrize("options", [{"conf": 0.6}, {"iou": 0.2}, {"max_det": 4}])
def test_thresholds_match_reference(files: Files, options: dict[str, Any]) -> None:
    path, net = files["detect"]
    image = bgr_image(61, 90)
    plain, rows = (expected(net, image, 96, **{"conf": 0.3, **each})[0] for each in ({}, options))
    assert 0 < len(rows) < len(plain)
    result = one(YOLO(path)(image, **{**QUIET, **options}))
    assert result.boxes is not None
    np.testing.assert_allclose(np.asarray(result.boxes.data), rows, rtol=1e-4, atol=1e-3)


def test_classes_and_agnostic_nms(segment: YOLO) -> None:
    image = bgr_image(61, 90)
    everything = one(segment(image, **QUIET)).boxes.cls.tolist()
    assert len(set(everything)) > 2
    chosen = one(segment(image, classes=[1, 3], **QUIET)).boxes.cls.tolist()
    assert chosen and set(chosen) <= {1, 3}
    assert one(segment(image, classes=77, **QUIET)).boxes.data.shape == (0, 6)
    assert len(one(segment(image, agnostic_nms=True, **QUIET))) < len(everything)


def test_imgsz_sets_the_input_size(files: Files, segment: YOLO) -> None:
    image = bgr_image(61, 90)
    rows, _ = expected(files["segment"][1], image, 160, 0.3)
    result = one(segment(image, imgsz=160, **QUIET))
    np.testing.assert_allclose(np.asarray(result.boxes.data), rows, rtol=1e-4, atol=1e-3)
    tall = one(segment(image, imgsz=(64, 160), **QUIET))
    assert len(tall) and not torch.equal(torch.as_tensor(tall.boxes.data[:1]), torch.as_tensor(result.boxes.data[:1]))


def test_result_without_detections(segment: YOLO) -> None:
    result = one(segment(np.zeros((40, 50, 3), np.uint8), conf=1.0, verbose=False))
    assert len(result) == 0 and result.masks is None and result.boxes.data.shape == (0, 6)
    assert result.verbose() == "(no detections), "


def test_batch_matches_single_images(segment: YOLO) -> None:
    images = [bgr_image(*shape) for shape in ((48, 64), (61, 90), (48, 64), (90, 33), (96, 128))]
    single = [one(segment(image, **QUIET)) for image in images]
    together = list(segment(images, batch=4, **QUIET))
    assert [len(result) for result in together] == [len(result) for result in single]
    for a, b in zip(single, together, strict=True):
        torch.testing.assert_close(a.boxes.data, b.boxes.data, rtol=1e-4, atol=1e-3)
        assert a.masks is not None and b.masks is not None and a.masks.shape == b.masks.shape
        # A logit within rounding of zero may fall on either side.
        assert (a.masks.data != b.masks.data).float().mean() < 1e-3


def test_sources_streams_and_callbacks(segment: YOLO, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "photos").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(f"photos/{name}", bgr_image(30, 64))
    (place / "photos" / "c.png").write_bytes(b"broken")
    events: list[Any] = []
    model = YOLO(segment.ckpt_path)
    model.add_callback("on_predict_batch_start", lambda predictor: events.append(Path(predictor.batch[0][0]).name))
    model.add_callback("on_predict_batch_end", lambda predictor: events.append(len(predictor.results)))
    stream = model("photos", stream=True, batch=2, conf=0.3)
    assert not isinstance(stream, list)
    results = list(stream)
    assert [Path(result.path).name for result in results] == ["a.png", "b.png"] and events == ["a.png", 2]
    assert not list(place.glob("runs*"))
    said = capsys.readouterr().err
    assert "image 1/3" in said and "kind 1" in said and "at shape (1, 3, 64, 96)" in said
    assert all(value is not None and value >= 0 for value in results[0].speed.values())
    with pytest.raises(ValueError, match="unknown event"):
        model.add_callback("on_nothing", print)


def test_ultralytics_attributes_and_mask_dtype(segment: YOLO) -> None:
    assert segment.fuse() is None and segment.model.names is segment.names
    masks = one(segment(bgr_image(48, 64), **QUIET)).masks
    assert masks is not None and masks.is_rle and masks.data.dtype == torch.uint8
    mask = masks.data[0].cpu().numpy()
    assert cv2.resize(mask, (32, 24)).shape == (24, 32)
    assert len(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0])
    assert (1 - masks.data[0]).sum() == mask.size - masks.area[0]


def test_classes_can_be_renamed(segment: YOLO) -> None:
    image, names = bgr_image(48, 64), dict(segment.names)
    try:
        segment.model.names = dict.fromkeys(names, "cat")
        assert one(segment(image, **QUIET)).name_of(0) == segment.names[0] == "cat"
        segment.names = {**names, 1: "dog"}
        assert one(segment(image, **QUIET)).names == segment.model.names == {**names, 1: "dog"}
    finally:
        segment.names = names


def test_save_and_save_txt_write_files(files: Files, place: Path) -> None:
    cv2.imwrite("a.png", bgr_image(48, 64))
    YOLO(files["detect"][0])("a.png", save=True, save_txt=True, **QUIET)
    assert (place / "runs" / "detect" / "predict" / "a.jpg").is_file()
    lines = (place / "runs" / "detect" / "predict" / "labels" / "a.txt").read_text().splitlines()
    assert lines and all(len(line.split()) == 5 for line in lines)
    YOLO(files["segment"][0])("a.png", save=True, **QUIET)
    assert (place / "runs" / "segment" / "predict" / "a.jpg").is_file()


def test_error_of_a_source_is_raised_after_its_images(segment: YOLO) -> None:
    def images() -> Any:
        yield bgr_image(48, 64)
        raise OSError("the disk has gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        found.extend(segment(images(), stream=True, batch=4, **QUIET))
    assert len(found) == 1


def test_info_and_attributes(segment: YOLO, capsys: pytest.CaptureFixture[str]) -> None:
    layers, parameters, gradients, gflops = segment.info(imgsz=64)  # type: ignore[misc]
    said = capsys.readouterr().out
    assert f"{parameters:,} parameters, 0 gradients, {gflops:.1f} GFLOPs" in said
    assert parameters == sum(value.numel() for value in segment.model.parameters()) and gradients == 0
    assert layers > 50 and segment.info()[3] == pytest.approx(100 * gflops)  # type: ignore[index]
    assert segment.info(verbose=False) is None
    with pytest.raises(ValueError, match="imgsz must be at least 1, not -1"):
        segment.info(imgsz=-1)
    assert segment.task == "segment" and segment.names[3] == "kind 3" and segment.device == torch.device("cpu")
    assert "5 classes" in repr(segment)
    assert segment.architecture.num_classes == 5  # attribute of the module
    with pytest.raises(AttributeError, match="neither YOLO nor its model"):
        segment.no_such_thing  # noqa: B018
    for action in (segment.train, segment.val, segment.export):
        with pytest.raises(NotImplementedError, match="YOLO predicts only"):
            action()


def test_device_and_dtype_methods(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    model = YOLO(files["detect"][0], task="detect")
    assert model.overrides.pop("task") == "detect"
    assert model.to("cpu").cpu().float() is model
    assert model.half().overrides == {"half": True} and model.float().overrides == {}
    with pytest.raises(ValueError, match="not a device"):
        model.to("tpu7")
    image = bgr_image(48, 64)
    assert len(one(model(image, device="cpu", **QUIET))) > 0
    predictor = model.predictor
    for asked, dtype in ((model.half, torch.float16), (model.float, None)):
        asked()(image, **QUIET)
        assert predictor is model.predictor is not None and predictor.args.dtype == dtype
    with pytest.raises(ValueError, match="out of range"):
        model(image, device="cuda:77", **QUIET)
    monkeypatch.setattr(YOLO, "to", lambda self, device: device)
    assert (model.cuda(), model.cuda(1)) == ("cuda", 1)


def test_invalid_options_and_checkpoints_are_refused(segment: YOLO, tmp_path: Path) -> None:
    image = bgr_image(48, 64)
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"max_dets": 3}, TypeError, "did you mean max_det"),
        ({"bboxes": [1, 2, 3, 4]}, TypeError, "unknown option 'bboxes'"),
        ({"conf": 2}, ValueError, "conf must be"),
        ({"imgsz": "large"}, TypeError, "imgsz must be"),
        ({"imgsz": 0}, ValueError, "at least 32"),
        ({"imgsz": (64, 10**9)}, ValueError, "imgsz must be at most 16384"),
        ({"classes": "person"}, TypeError, "class id"),
        ({"classes": [-1]}, TypeError, "class id"),
        ({"max_det": 0}, ValueError, "at least 1"),
        ({"task": "pose"}, ValueError, "detect or segment"),
    ]
    for options, error, message in wrong:
        with pytest.raises(error, match=message):
            segment(image, **options)
    with pytest.raises(TypeError, match="checkpoint's name or path"):
        YOLO(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        YOLO(tmp_path / "missing.pt")
    with pytest.raises(FileNotFoundError):
        segment("missing.jpg")
    with pytest.raises(ValueError, match="no model"):
        YoloPredictor()(image)


def test_options_without_effect_are_logged(segment: YOLO, caplog: pytest.LogCaptureFixture) -> None:
    image = bgr_image(48, 64)
    segment(image, points_stride=3, task="detect", imgsz=97, **QUIET)
    said = caplog.text
    assert "points_stride has no effect on YOLO and FastSAM" in said
    assert "task='detect' has no effect" in said and "not a multiple of 32; using 128" in said


def test_speed_is_the_time_per_image(segment: YOLO, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("fastsam_core.stopwatch.time.perf_counter", lambda: float(next(ticks)))
    alone, together = (segment([bgr_image(48, 64)] * count, batch=2, **QUIET)[0].speed for count in (1, 2))
    assert alone["inference"] == 2 * together["inference"] > 0


def test_results_kept_in_memory_are_logged(segment: YOLO, caplog: pytest.LogCaptureFixture) -> None:
    for stream, logged in ((True, False), (False, True)):
        list(segment(iter([bgr_image(48, 64)]), stream=stream, **QUIET))
        assert ("kept in memory; stream=True gives them one by one" in caplog.text) == logged


def test_sample_images_are_used_without_a_source(segment: YOLO, caplog: pytest.LogCaptureFixture) -> None:
    assert one(segment(**QUIET)).path.startswith(str(ASSETS)) and "no source given; using" in caplog.text


def test_predictor_matches_model(segment: YOLO, files: Files) -> None:
    image, model = bgr_image(48, 64), {"model": files["detect"][0]}
    predictor = YoloPredictor(overrides={"model": segment.ckpt_path, "save": False, **QUIET})
    configured = YoloPredictor(DetectConfig(save=False, **QUIET), {"model": segment.ckpt_path})
    assert len(one(predictor(image))) == len(one(configured(image))) == len(one(segment(image, **QUIET)))
    network = predictor.model
    assert isinstance(predictor(image), list) and predictor.model is network
    for _ in range(2):  # another model stays for the calls to come
        assert one(predictor(image, **model)).masks is None and predictor.model is not network
        model = {}
    with pytest.raises(TypeError, match="checkpoint's name or path"):
        predictor.setup_model(torch.nn.Identity())


# --- as a detector


def test_detector_matches_reference(files: Files) -> None:
    path, net = files["detect"]
    image = bgr_image(61, 90)
    rows, _ = expected(net, image, 96, 0.3)
    detector = load_detector(path, conf=0.3, device="cpu")
    found = detector(image)
    np.testing.assert_allclose(found.boxes, rows[:, :4], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.scores, rows[:, 4], rtol=1e-4, atol=1e-5)
    assert found.class_ids.tolist() == rows[:, 5].tolist() and found.names[1] == "kind 1"
    segmenting = load_detector(files["segment"][0], conf=0.3, device="cpu")(image)
    rows, _ = expected(files["segment"][1], image, 96, 0.3)
    np.testing.assert_allclose(segmenting.boxes, rows[:, :4], rtol=1e-4, atol=1e-3)
    chosen = load_detector(path, conf=0.3, classes=[1], max_det=2, imgsz=64, device="cpu")(image)
    assert chosen.class_ids.tolist() == [1, 1]


def test_detector_in_batches_and_threads_matches_single_calls(files: Files) -> None:
    detector = load_detector(files["detect"][0], conf=0.3, device="cpu")
    images = [bgr_image(48 + 8 * index, 64) for index in range(4)]
    alone = [detector(image).scores for image in images]
    together = detector.batch(images)
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        found[index] = detector(images[index]).scores

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, scores in enumerate(alone):
        np.testing.assert_allclose(together[index].scores, scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[index], scores)


def test_fingerprint_depends_on_weights_and_options(files: Files, tmp_path: Path) -> None:
    path, _ = files["detect"]
    copy = tmp_path / "elsewhere.pt"
    copy.write_bytes(path.read_bytes())
    same = {load_detector(file, device="cpu").fingerprint for file in (path, copy)}
    assert len(same) == 1 and "sha256=" in same.pop()
    other = load_detector(files["segment"][0], device="cpu").fingerprint
    assert other != load_detector(path, device="cpu").fingerprint
    assert load_detector(path, conf=0.5, device="cpu").fingerprint != load_detector(path, device="cpu").fingerprint


def test_bad_settings_are_refused_before_the_file_is_read() -> None:
    for options in ({"conf": 2}, {"iou": -1}, {"imgsz": 0}, {"max_det": 0}):
        with pytest.raises(ValueError):
            load_detector("missing.pt", **options)  # type: ignore[arg-type]


# --- pieces


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (427, 640), (33, 4000)])
def test_letterbox_of_any_shape(shape: tuple[int, int]) -> None:
    letterbox = Letterbox.fit(shape, (64, 64))
    (content_height, content_width), (height, width) = letterbox.content_hw, letterbox.input_hw
    assert letterbox.original_hw == shape and max(height, width) == 64 and height % 32 == width % 32 == 0
    assert sorted(letterbox.content_hw) == [max(1, round(64 * min(shape) / max(shape))), 64]
    assert 0 <= letterbox.top <= height - content_height and 0 <= letterbox.left <= width - content_width
    assert letterbox.to_input(np.full((*shape, 3), 7, np.uint8)).shape == (3, *letterbox.input_hw)
    left, top = letterbox.left, letterbox.top
    corners = torch.tensor([[left, top, left + content_width, top + content_height]]).float()
    torch.testing.assert_close(letterbox.to_image_boxes(corners), torch.tensor([[0.0, 0.0, shape[1], shape[0]]]))
    for (cells, weights), size, whole in zip(letterbox.mask_axis_weights(), shape, letterbox.input_hw, strict=True):
        assert len(cells) == len(weights) == size and int(cells.min()) >= 0 and int(cells.max()) < whole // 4
        torch.testing.assert_close(weights.sum(1), torch.ones(size))


@pytest.mark.parametrize(
    ("bin_logit", "class_logit", "classes"), [(np.nan, 9.0, None), (0.0, np.nan, None), (np.nan, np.nan, [1])]
)
def test_non_finite_boxes_and_scores_are_refused(bin_logit: float, class_logit: float, classes: Any) -> None:
    bins = torch.full((1, 64, 3), bin_logit)
    raw = RawOutput(bins, torch.full((1, 2, 3), class_logit), None, None, torch.zeros(3, 2), torch.ones(3))
    with pytest.raises(ValueError, match="boxes or scores that aren't finite"):
        decode(raw, 0, conf=0.1, iou=0.5, max_det=3, classes=classes)


def test_candidates_are_limited_to_the_highest_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([-1.0, 2, 0, 1, 2])
    centres = 100.0 * torch.arange(1, 6)[:, None].expand(5, 2)
    raw = RawOutput(torch.zeros(1, 64, 5), logits[None, None], None, None, centres, torch.ones(5))
    assert len(decode(raw, 0, conf=0.5, iou=0.5, max_det=9).scores) == 3, "a score of 0.5 is not greater than conf"
    monkeypatch.setattr("fastsam_core.detect.yolo.decode._MAX_CANDIDATES", 3)
    found = decode(raw, 0, conf=0.1, iou=0.5, max_det=9)
    chosen = [1, 4, 3]
    assert found.scores.tolist() == logits.sigmoid()[chosen].tolist()
    torch.testing.assert_close((found.boxes[:, :2] + found.boxes[:, 2:]) / 2, centres[chosen])


def test_config_normalises_and_copies_options() -> None:
    config = DetectConfig(imgsz=640, classes=[3, 1, 1])
    assert config.imgsz == (640, 640) and config.classes == (1, 3)
    assert config.updated({"imgsz": [320, 640], "half": True}).imgsz == (320, 640)
    assert config.updated({}).imgsz == (640, 640) and type(config.updated({})) is DetectConfig
