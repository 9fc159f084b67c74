"""Predictor: sources, logging, threads and forked processes, models, devices and options."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import Predictor
from fastsam_core.models.sam_model import SamModel
from fastsam_core.sources import Item
from predictor_examples import BOXES, HEIGHT, WIDTH
from siblings import run_python
from small_model import QUIET, bgr_image, small_model


def test_subclass_with_an_unused_step_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Named(Predictor):
        def setup_model(self, model: Any = None, verbose: bool = True) -> None: ...

    assert not caplog.records

    class Saving:
        def save_predicted_images(self, save_path: Any, frame: int = 0) -> None: ...

    class Own(Saving, Named): ...

    assert "Own has its own save_predicted_images, which calls of a predictor do not go through" in caplog.text


# --- sources ---


def test_lists_tensors_and_folders_match_single_predictions(model: SamModel, tmp_path: Path) -> None:
    import cv2

    predictor = Predictor(overrides={"model": model, **QUIET})
    images = [bgr_image(40, 60), bgr_image(50, 30), bgr_image(40, 60)[:, ::-1].copy()]
    single = [predictor(image, bboxes=BOXES[0])[0] for image in images]
    several = predictor(images, bboxes=BOXES[0])
    assert [result.masks.rle for result in several] == [result.masks.rle for result in single]
    assert [result.path for result in several] == ["image0.jpg", "image1.jpg", "image2.jpg"]
    assert [result.orig_shape for result in several] == [(40, 60), (50, 30), (40, 60)]

    batch = torch.stack([torch.from_numpy(images[i][..., ::-1].copy()).permute(2, 0, 1) for i in (0, 2)]) / 255
    assert [r.masks.rle for r in predictor(batch, bboxes=BOXES[0])] == [single[i].masks.rle for i in (0, 2)]

    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    (tmp_path / "1a.png").write_bytes(b"broken")
    found = predictor(tmp_path, bboxes=BOXES[0])
    assert [Path(result.path).name for result in found] == ["0.png", "1.png", "2.png"]
    assert [result.masks.rle for result in found] == [result.masks.rle for result in single]


def test_single_unreadable_image_raises(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"bad\.png"):
        predictor(tmp_path / "bad.png", bboxes=BOXES[0])
    with pytest.raises(FileNotFoundError):
        predictor(tmp_path / "missing.png", bboxes=BOXES[0])


def test_stream_encodes_images_as_they_are_consumed(model: Any) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    before = model.counts["encoded"]
    results = predictor([bgr_image(20, 30)] * 3, stream=True, bboxes=BOXES[0])
    assert model.counts["encoded"] == before
    assert len(next(results)) == 1
    assert model.counts["encoded"] == before + 1
    results.close()
    assert predictor.seen == 1


def test_unbounded_source_without_stream_warns(
    predictor: Predictor, image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(list(predictor(iter([image]), stream=True, bboxes=BOXES))) == len(predictor([image], bboxes=BOXES))
    assert not caplog.records
    predictor(iter([image]), bboxes=BOXES)
    assert "stream=True gives them one by one" in caplog.text


def test_predicting_a_source_keeps_the_set_image(predictor: Predictor) -> None:
    before = predictor(bboxes=BOXES[0])[0].masks.rle
    predictor(bgr_image(20, 30), bboxes=BOXES[0])
    assert predictor(bboxes=BOXES[0])[0].masks.rle == before


def test_speed_and_log_lines(
    model: SamModel, image: np.ndarray, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET, "verbose": True})
    result = predictor(image, bboxes=BOXES)[0]
    assert set(result.speed) == {"preprocess", "inference", "postprocess"}
    assert all(value > 0 for value in result.speed.values())
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"image 1/1 image0.jpg: {HEIGHT}x{WIDTH} 3 masks, ") and first.endswith("ms")
    assert last.startswith("Speed: ") and last.endswith("at shape (1, 3, 128, 128)")
    predictor.set_image(image)
    predictor(bboxes=BOXES)
    assert capsys.readouterr().err.startswith(f"image 1/1 image0.jpg: {HEIGHT}x{WIDTH} 3 masks, ")
    with caplog.at_level("INFO", logger="fastsam_core"):
        predictor(image, bboxes=BOXES[0])
    assert "3 masks" not in caplog.text and "1 mask," in caplog.text, "an application's own logging is used"
    assert capsys.readouterr().err == ""
    predictor(image, bboxes=BOXES, verbose=False)
    assert capsys.readouterr().err == ""
    of_its_own_size = Predictor(overrides={"model": model, "save": False})
    of_its_own_size.add_callback("on_predict_batch_end", lambda _: predictor(image, bboxes=[], verbose=False))
    of_its_own_size(image, bboxes=[])
    assert capsys.readouterr().err.endswith("at shape (1, 3, 512, 512)\n")


def test_logged_speed_is_the_sum_of_an_image_and_the_mean_of_a_run(
    predictor: Predictor, image: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = iter([{"preprocess": 1.0, "inference": 20.0}, {"inference": 30.0, "postprocess": None}])

    def set_speed(running: Predictor) -> None:
        running.results[0].speed = next(speeds)

    predictor.add_callback("on_predict_postprocess_end", set_speed)
    predictor([image, image], bboxes=BOXES, verbose=True)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.startswith("image 1/2 ") and first.endswith(", 21.0ms")
    assert second.startswith("image 2/2 ") and second.endswith(", 30.0ms")
    assert last.startswith("Speed: 0.5ms preprocess, 25.0ms inference, 0.0ms postprocess per image at shape ")


@pytest.mark.parametrize(
    ("item", "label"),
    [
        (Item(None, "a", index=1, total=7), "image 2/7 "),
        (Item(None, "a", index=1), "image 2 "),
        (Item(None, "a", frame=4, frames=9, total=1, kind="video"), "video 1/1 (frame 5/9) "),
        (Item(None, "a", frame=4, index=2, total=3, kind="stream"), "stream 3/3 (frame 5) "),
    ],
)
def test_log_label_counts_from_one_and_leaves_out_unknown_numbers(item: Item, label: str) -> None:
    assert item.label == f"{label}a: "


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
def test_closed_stderr_does_not_end_a_prediction(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def write(text: str) -> None:
        raise error

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=write, flush=lambda: None))
    assert len(predictor(bboxes=BOXES, verbose=True)[0]) == 3


# --- threads, models, devices ---


def test_concurrent_calls_match_single_calls(predictor: Predictor) -> None:
    expected = [predictor(bboxes=box)[0].masks.rle for box in BOXES]
    found: list[list[Any]] = [[] for _ in BOXES]

    def work(i: int) -> None:
        for _ in range(3):
            found[i].append(predictor(bboxes=BOXES[i])[0].masks.rle)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[masks] * 3 for masks in expected]


def test_predictors_sharing_a_model_have_their_own_image_size(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    del model.encode_image  # remove the counting wrapper of small_model
    small, large = (Predictor(overrides={"model": model, **QUIET, "imgsz": size}) for size in (64, 128))
    expected = [predictor(image, bboxes=BOXES)[0].boxes.data for predictor in (small, large)]
    assert not torch.equal(*expected)
    plain, meanwhile = SamModel.encode_image, []

    def encode_image(model: SamModel, images: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        features = plain(model, images, dtype)
        if images.shape[-1] == 128:
            thread = threading.Thread(target=lambda: meanwhile.append(small(image, bboxes=BOXES)[0].boxes.data))
            thread.start()
            thread.join()
        return features

    monkeypatch.setattr(SamModel, "encode_image", encode_image)
    assert torch.equal(large(image, bboxes=BOXES)[0].boxes.data, expected[1])
    assert torch.equal(meanwhile[0], expected[0])
    assert (small.imgsz, large.imgsz) == (64, 128)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_child_forked_during_a_prediction_can_take_the_lock(predictor: Predictor) -> None:
    # The thread that holds the lock doesn't exist in the child. The alarm would end a hang.
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with predictor._lock:
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert inside.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if predictor._lock.acquire(timeout=20) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("runtime", ["its own", "without omp_pause_resource_all"])
def test_child_forked_after_a_prediction_can_predict(runtime: str) -> None:
    # PyTorch's threads have run before the fork and don't exist in the child. The alarm would end a hang.
    done = run_python(
        "import os, signal, numpy, torch\n"
        "torch.set_num_threads(2)\n"
        "import fastsam_core.ops._native\n"
        "from fastsam_core import SAM\n"
        "from fastsam_core.ops import _threads\n"
        f"if {runtime != 'its own'}: _threads._pause_openmp = None\n"
        "threads = 1 if _threads.fork_limitation() else 2\n"
        # Without compiled operations PyTorch multiplies matrices, and its rounding depends on the thread count.
        "native = fastsam_core.ops._native.cpu_module is not None\n"
        "same = torch.equal if native or threads == 2 else torch.allclose\n"
        "model = SAM('sam_nano.pt')\n"
        "image = numpy.zeros((48, 64, 3), numpy.uint8)\n"
        "predict = lambda: model(image, points=[9, 9], imgsz=256, verbose=False)[0].boxes.data\n"
        "expected, numbers = predict(), torch.rand(1 << 17)\n"
        "total = numbers + numbers\n"
        "for _ in range(2):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.alarm(30)\n"
        "        right = same(predict(), expected) and torch.equal(numbers + numbers, total)\n"
        "        counts = torch.get_num_threads(), _threads.thread_count()\n"
        "        os._exit(0 if right and counts == (threads, 2) else 3)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "    assert torch.equal(predict(), expected)\n"
    )
    assert done.stdout.split() == ["0", "0"], done.stderr


def test_model_option_and_setup_model(model: SamModel, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no model"):
        Predictor(overrides=QUIET).set_image(image)
    with pytest.raises(TypeError, match="SamModel"):
        Predictor(overrides={**QUIET, "model": 3}).set_image(image)
    with pytest.raises(FileNotFoundError):
        Predictor(overrides={**QUIET, "model": "no_such_model.pt"}).set_image(image)
    predictor = Predictor({"conf": 0.5}, QUIET)
    assert predictor.args.conf == QUIET["conf"] and predictor.device is None and predictor.imgsz is None
    predictor.setup_model(model)
    assert predictor.model is model and not model.training and predictor.device == torch.device("cpu")
    with pytest.raises(ValueError, match="CUDA devices"):
        predictor(image, bboxes=BOXES, device="cuda:99")


def test_model_that_is_named_is_loaded_once_on_first_use(image: np.ndarray) -> None:
    predictor = Predictor(overrides={**QUIET, "model": "sam_nano.pt", "device": "cpu"})
    assert predictor.model is None
    predictor.set_image(image)
    loaded = predictor.model
    assert loaded is not None and loaded.name == "sam_nano" and len(predictor(bboxes=BOXES)) == 1
    assert predictor.model is loaded


def test_model_given_to_a_call_replaces_the_model(predictor: Predictor, image: np.ndarray) -> None:
    other: Any = small_model()
    predictor(image, other, bboxes=BOXES)
    assert predictor.model is other and other.counts["encoded"] == 1
    with pytest.raises(ValueError, match="no image is set"):
        predictor(bboxes=BOXES)  # the embedding was of another model


def test_half_on_the_cpu_warns_and_runs_in_float32(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    expected = predictor(bboxes=BOXES)[0]
    result = predictor(bboxes=BOXES, half=True)[0]
    assert result.masks.rle == expected.masks.rle
    assert "float32" in caplog.text


def test_predictions_run_in_evaluation_mode(model: SamModel, image: np.ndarray) -> None:
    expected = Predictor(overrides={"model": model, **QUIET})(image, bboxes=BOXES)[0].masks.rle
    before = {name: value.clone() for name, value in model.named_buffers()}
    predictor = Predictor(overrides={"model": model, **QUIET})
    predictor.setup_model()
    model.image_encoder.train()
    assert predictor(image, bboxes=BOXES)[0].masks.rle == expected
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert not any(part.training for part in model.modules())


def test_options_are_checked(predictor: Predictor) -> None:
    with pytest.raises(TypeError, match="overrides must be options by name"):
        Predictor(overrides=["sam_b.pt"])
    with pytest.raises(TypeError, match=r"cfg must be options by name, .*, not 'sam_b.pt'"):
        Predictor("sam_b.pt")
    for shape in ((0, 90), "ab", 5):
        with pytest.raises(ValueError, match="src_shape must be"):
            predictor.inference_features(predictor.features, shape, bboxes=BOXES)
    masks, kept = Predictor.remove_small_regions(np.ones((2, 5, 5), bool))
    assert masks.shape == (1, 5, 5) and kept.tolist() == [0]
    with pytest.raises(TypeError, match="did you mean bboxes"):
        predictor(bbox=[1, 2, 3, 4])
    with pytest.raises(TypeError, match="points_stride"):
        Predictor(overrides={"point_stride": 8})
