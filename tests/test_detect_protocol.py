"""Tests of the detector protocol: accepted and refused outputs, filters, batches and fingerprints."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core.detect import CheckedDetector, Detections, Detector, load_detector
from fastsam_core.detect.protocol import check_detections, qualified_name

IMAGE = np.zeros((20, 30, 3), np.uint8)
BOXES = [[1.0, 2.0, 10.0, 12.0], [0.0, 0.0, 5.0, 5.0], [3.0, 3.0, 3.0, 3.0]]
GOOD = (BOXES, [0.9, 0.4, 0.6], [2, 0, 2], {0: "cat", 2: "dog"})


def detector(image: np.ndarray) -> tuple[Any, Any, Any, Any]:
    return GOOD


class Counting:
    """A detector that can take several images."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, image: np.ndarray) -> Any:
        self.calls.append(1)
        return GOOD

    def batch(self, images: list[np.ndarray]) -> list[Any]:
        self.calls.append(len(images))
        return [GOOD] * len(images)


@pytest.mark.parametrize(
    "output",
    [
        GOOD,
        list(GOOD),
        (np.array(BOXES), np.array(GOOD[1]), np.array(GOOD[2]), GOOD[3]),
        (torch.tensor(BOXES).half(), torch.tensor(GOOD[1]).double(), torch.tensor(GOOD[2]).float(), GOOD[3]),
        (torch.tensor(BOXES, requires_grad=True), GOOD[1], GOOD[2], GOOD[3]),
        (np.array(BOXES), np.array(GOOD[1])[:, None], torch.tensor(GOOD[2])[:, None], GOOD[3]),
        ([torch.tensor(box) for box in BOXES], [torch.tensor(0.9), 0.4, 0.6], GOOD[2], ["cat", "bird", "dog"]),
    ],
)
def test_accepted_outputs_become_detections(output: Any) -> None:
    found = check_detections(output)
    assert isinstance(found, Detections)
    assert found.boxes.dtype == np.float32 and found.scores.dtype == np.float32 and found.class_ids.dtype == np.int64
    np.testing.assert_array_equal(found.boxes, BOXES)
    np.testing.assert_allclose(found.scores, GOOD[1], rtol=1e-3)
    assert found.class_ids.tolist() == [2, 0, 2] and (found.names[0], found.names[2]) == ("cat", "dog")


def test_boxes_without_extent_and_the_highest_class_id_are_accepted() -> None:
    found = check_detections(([[3, 4, 3, 9], [3, 4, 9, 4]], [1, 1], [0, 999_999], None))
    assert found.boxes.tolist() == [[3, 4, 3, 9], [3, 4, 9, 4]] and found.class_ids.tolist() == [0, 999_999]


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), torch.zeros(0, 4), torch.zeros(0, 6)])
def test_empty_outputs_have_consistent_shapes(nothing: Any) -> None:
    found = check_detections((nothing, [], [], None))
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.class_ids.shape == (0,) and found.names == {}


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (None, "a NoneType"),
        ((1, 2, 3), "a tuple of 3"),
        ([], "a list of 0"),
        ((BOXES, [1, 1], [0, 0, 0], None), "3 boxes, 2 scores and 3 class ids"),
        ((np.zeros((3, 5)), [1] * 3, [0] * 3, None), r"boxes of shape \(3, 5\)"),
        (([[0, 0, float("nan"), 1]], [1], [0], None), "aren't finite"),
        (([[0, 0, 1e300, 1e300]], [1], [0], None), "aren't finite"),
        (([[0, 0, 1, 1]], [float("inf")], [0], None), "aren't finite"),
        (([[5, 0, 1, 1]], [1], [0], None), "second corner"),
        ((BOXES, [1] * 3, [0, 0.5, 1], None), "integers"),
        ((BOXES, [1] * 3, [0, -1, 1], None), "integers"),
        ((BOXES, [1] * 3, [0, float("nan"), 1], None), "integers"),
        ((BOXES, [1] * 3, [0] * 3, "cat"), "names as str"),
        ((BOXES, [1] * 3, [0] * 3, {"cat": 0}), "keys aren't class ids"),
        ((BOXES, [1] * 3, [0, 1, 1_000_000], None), "class ids that aren't integers from 0 to 999999"),
        ((BOXES, [1] * 3, [0, 1, 1e300], None), "class ids that aren't integers from 0 to 999999"),
        (("boxes", [1], [0], None), "isn't numbers"),
        (([[1, 2], [3]], [1], [0], None), "isn't numbers"),
        (([[0, 0, 10**400, 1]], [1], [0], None), "isn't numbers"),
        (([[0, 0, 1, 1]], [1], [0], {float("inf"): "cat"}), "names whose keys aren't class ids"),
    ],
)
def test_malformed_outputs_are_refused(output: Any, problem: str) -> None:
    with pytest.raises(
        ValueError, match=rf"the detector returned .*{problem}.* for photo\.jpg; a detector returns .*\{{id: name\}}$"
    ):
        CheckedDetector(lambda image: output)(IMAGE, "photo.jpg")


def test_results_of_yolo_models_are_accepted() -> None:
    boxes = SimpleNamespace(xyxy=torch.tensor(BOXES), conf=torch.tensor(GOOD[1]), cls=torch.tensor([2.0, 0, 2]))
    result = SimpleNamespace(boxes=boxes, names=GOOD[3])
    for output in ([result], result):
        found = CheckedDetector(lambda image, output=output: output)(IMAGE)
        assert found.boxes.tolist() == BOXES and found.class_ids.tolist() == [2, 0, 2] and found.names == GOOD[3]
    # Without boxes, as of rotated ones, or of several images.
    for output in ([SimpleNamespace(boxes=None, names={})], [result, result]):
        with pytest.raises(ValueError, match=rf"returned a list of {len(output)} for photo\.jpg; a detector returns"):
            CheckedDetector(lambda image, output=output: output)(IMAGE, "photo.jpg")


def test_fingerprint_has_the_name_of_a_models_checkpoint() -> None:
    class Model:
        ckpt_path = "weights/best.pt"

        def __call__(self, image: np.ndarray) -> Any:
            return GOOD

    assert CheckedDetector(Model()).fingerprint.endswith("Model best.pt")


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (IMAGE[..., 0], ValueError, r"photo\.jpg is \(20, 30\) of uint8"),
        (np.zeros((20, 30, 4), np.uint8), ValueError, r"photo\.jpg is \(20, 30, 4\) of uint8"),
        (IMAGE[:0], ValueError, r"photo\.jpg is \(0, 30, 3\) of uint8"),
        (IMAGE / 255, ValueError, r"photo\.jpg is \(20, 30, 3\) of float64"),
        ("photo.jpg", TypeError, "not str"),
    ],
)
def test_other_images_are_refused(image: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=rf"a detector takes an array \(H, W, 3\) of uint8, BGR.*{said}"):
        load_detector(detector)(image, "photo.jpg")
    with pytest.raises(error, match=said):
        load_detector(Counting()).batch([IMAGE, image], ["a.jpg", "photo.jpg"])


def test_filters_keep_the_order_of_detections() -> None:
    assert load_detector(detector)(IMAGE).scores.tolist() == pytest.approx([0.9, 0.4, 0.6])
    assert load_detector(detector, conf=0.4)(IMAGE).scores.tolist() == pytest.approx([0.9, 0.6])
    assert load_detector(detector, classes={0, 7})(IMAGE).class_ids.tolist() == [0]
    assert load_detector(detector, classes=2)(IMAGE).class_ids.tolist() == [2, 2]
    assert load_detector(detector, max_det=2)(IMAGE).scores.tolist() == pytest.approx([0.9, 0.6])
    assert load_detector(detector, max_det=1, classes=0)(IMAGE).scores.tolist() == pytest.approx([0.4])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_det": 0}, ValueError, "max_det must be at least 1, not 0"),
        ({"max_det": "3"}, TypeError, "max_det must be an integer, not '3'"),
        ({"conf": "0.5"}, TypeError, "conf must be a number, not '0.5'"),
        ({"classes": [1.7]}, TypeError, r"classes must be a class id, or a list of them, not \[1\.7\]"),
        ({"classes": "person"}, TypeError, "classes must be a class id, or a list of them, not 'person'"),
    ],
)
def test_invalid_filters_are_refused_before_the_first_image(options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        load_detector(detector, **options)


def test_batches_call_the_detector_once_if_it_can() -> None:
    counting = Counting()
    found = load_detector(counting, conf=0.5).batch([IMAGE] * 3)
    assert [len(one.boxes) for one in found] == [2, 2, 2] and counting.calls == [3]
    assert len(load_detector(detector).batch([IMAGE] * 2)) == 2
    assert load_detector(counting).batch([]) == []
    counting.batch = lambda images: [GOOD]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="1 results for 2 images"):
        load_detector(counting).batch([IMAGE] * 2)


def test_errors_in_a_batch_name_the_image() -> None:
    with pytest.raises(ValueError, match=r"for b\.jpg"):
        CheckedDetector(lambda image: None).batch([IMAGE], ["b.jpg"])  # type: ignore[arg-type, return-value]


def test_fingerprint_of_a_callable_is_its_qualified_name() -> None:
    assert load_detector(detector).fingerprint == f"{__name__}.detector"
    assert load_detector(functools.partial(detector)).fingerprint == f"{__name__}.detector"
    assert load_detector(Counting()).fingerprint == f"{__name__}.Counting"
    assert "0x" not in qualified_name(lambda image: GOOD)
    named = Counting()
    named.fingerprint = "weights 1"  # type: ignore[attr-defined]
    assert load_detector(named).fingerprint == "weights 1"
    filtered = load_detector(load_detector(named, classes=[2, 0], max_det=1), conf=0.25)
    assert filtered.fingerprint == "weights 1 classes=(0, 2) max_det=1"
    assert load_detector(filtered, max_det=9).fingerprint == f"{filtered.fingerprint} conf=0.25"


def test_checked_detector_is_not_wrapped_again() -> None:
    once = load_detector(detector, conf=0.5)
    assert load_detector(once) is once
    assert len(load_detector(once, max_det=1)(IMAGE).boxes) == 1


def test_non_detectors_are_refused() -> None:
    for wrong in (None, 3, ["yolov8n.pt"]):
        with pytest.raises(TypeError, match="a detector is a name"):
            load_detector(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callable"):
        CheckedDetector("yolov8n.pt")  # type: ignore[arg-type]
    assert isinstance(detector, Detector)
