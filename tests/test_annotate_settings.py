"""Tests of `AnnotateConfig`: defaults, bounds of options, and which detectors go with texts."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsam_core import auto_annotate
from fastsam_core.annotate import AnnotateConfig
from fastsam_core.annotate.settings import is_checkpoint


class TextDetector:
    """Has the method of an open-vocabulary detector, and can't be called."""

    def find(self, image: Any, texts: Any) -> Any:
        raise AssertionError("not called")


def test_defaults_are_those_documented() -> None:
    assert dataclasses.asdict(AnnotateConfig()) == {
        "det_model": "yolov8x.pt", "sam_model": "sam_b.pt", "device": "", "conf": 0.25, "iou": 0.45, "imgsz": 640,
        "max_det": 300, "classes": None, "texts": None, "formats": ("yolo",), "min_area": 0, "batch": 1, "workers": 2,
    }  # fmt: skip


def test_auto_annotate_has_the_same_defaults() -> None:
    defaults = {name: option.default for name, option in inspect.signature(auto_annotate).parameters.items()}
    for option in dataclasses.fields(AnnotateConfig):
        assert defaults.pop(option.name) == option.default, option.name
    assert defaults == {
        "data": inspect.Parameter.empty, "output_dir": None, "resume": True, "shard": None, "on_error": "skip",
        "preview": 24,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("conf", (0, 1), (-0.01, 1.01)),
        ("iou", (0, 1), (-0.01, 1.01)),
        ("imgsz", (32, 640, [480, 640]), (0, -16)),
        ("max_det", (1,), (0,)),
        ("min_area", (0, 0.5, 1e6), (-0.01,)),
        ("batch", (1,), (0,)),
        ("workers", (1,), (0,)),
    ],
)
def test_bounds_of_numbers(name: str, accepted: tuple[float, ...], refused: tuple[float, ...]) -> None:
    for value in accepted:
        assert getattr(AnnotateConfig(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ValueError, match=f"{name} must be"):
            AnnotateConfig(**{name: value})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (0, [0]),
        ([5, 1, 5], [1, 5]),
        ((3,), [3]),
        ({11, 2}, [2, 11]),
        (frozenset({8}), [8]),
        (range(2), [0, 1]),
        (np.array([7, 2, 7]), [2, 7]),
        ([], []),
    ],
)
def test_classes_are_sorted_and_unique(given: Any, expected: list[int] | None) -> None:
    assert AnnotateConfig(classes=given).classes == expected


def test_imgsz_is_rounded_up_to_what_the_detector_takes(caplog: pytest.LogCaptureFixture) -> None:
    assert AnnotateConfig(imgsz=650).imgsz == 672 and AnnotateConfig(imgsz=(640, 640)).imgsz == 640
    assert AnnotateConfig(imgsz=(470, 640)).updated(conf=0.5).imgsz == [480, 640]
    assert "imgsz=650 is not a multiple of 32; using 672" in caplog.messages
    with pytest.raises(TypeError, match=r"imgsz must be an integer, in pixels, or \(height, width\)"):
        AnnotateConfig(imgsz=(640,))


@pytest.mark.parametrize("given", [-1, [0, -1], True, 1.5, [0.0], "person", np.array([0.5])])
def test_classes_that_are_no_ids_are_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="classes must be a class id, or a list of them, not"):
        AnnotateConfig(classes=given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("PNG , Coco", ("coco", "png")),
        (("png", "yolo", "png"), ("yolo", "png")),
        ({"labelme", "sa1b"}, ("sa1b", "labelme")),
        (frozenset({"coco"}), ("coco",)),
    ],
)
def test_formats_are_in_a_fixed_order(given: Any, expected: tuple[str, ...]) -> None:
    assert AnnotateConfig(formats=given).formats == expected


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (["yolo", 3], TypeError, r"formats must be a list of .*, not \['yolo', 3\]"),
        (["voc", "kitti"], ValueError, r"formats=\['voc', 'kitti'\]: 'kitti', 'voc'; accepted: yolo"),
        ((), ValueError, r"formats=\(\): none; accepted: yolo"),
    ],
)
def test_refused_formats_are_named(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        AnnotateConfig(formats=given)


def test_texts_become_a_list() -> None:
    assert AnnotateConfig(texts=("a dog", "a cat")).texts == ["a dog", "a cat"]


def test_texts_go_with_detectors_that_take_them() -> None:
    for det_model in ("yolov8x.pt", None, "owlv2", TextDetector()):
        assert AnnotateConfig(det_model, texts=["a dog"]).uses_detector
    for det_model in ("yolov8n.pt", Path("own.pt"), "own.safetensors"):
        with pytest.raises(ValueError, match="is a YOLO checkpoint: give texts or det_model, not both"):
            AnnotateConfig(det_model, texts=["a dog"])


def test_detector_without_texts_must_be_callable() -> None:
    with pytest.raises(TypeError, match=r"det_model must be a detector's name, a callable or None, not TextDetector"):
        AnnotateConfig(TextDetector())
    for det_model in ("yolov8n.pt", Path("own.pt"), "owlv2", print):
        assert AnnotateConfig(det_model).uses_detector
    assert not AnnotateConfig(None).uses_detector


def test_checkpoints_are_recognised_by_their_suffix() -> None:
    assert all(map(is_checkpoint, ("yolov8n.pt", "own.safetensors", Path("own.pt"))))
    assert not any(map(is_checkpoint, ("owlv2", "own.ptx", None, print)))


def test_updated_changes_a_copy() -> None:
    config = AnnotateConfig(None, conf=0.5)
    changed = config.updated(conf=0.75, formats="png,yolo")
    assert (changed.det_model, changed.conf, changed.formats) == (None, 0.75, ("yolo", "png"))
    assert (config.conf, config.formats) == (0.5, ("yolo",))
    with pytest.raises(ValueError, match="conf must be"):
        config.updated(conf=2)
