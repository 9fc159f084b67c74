"""Making a detector from a name, a path or a callable."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .protocol import CheckedDetector, Detector

if TYPE_CHECKING:
    from .yolo.model import YOLO


def load_detector(
    detector: str | os.PathLike[str] | YOLO | Detector,
    *,
    conf: float | None = None,
    iou: float | None = None,
    imgsz: int | Sequence[int] | None = None,
    max_det: int | None = None,
    classes: Sequence[int] | int | None = None,
    device: Any = "",
) -> CheckedDetector:
    """Return a detector whose output is checked.

    detector: an official name ("yolov8x.pt", "yolo11x.pt", "yolo26x-seg.pt" ..., "FastSAM-s.pt", "FastSAM-x.pt"), a
        YOLO or FastSAM checkpoint by path (.pt or .safetensors), a `YOLO` or `FastSAM`, or any callable
        `detector(image)`, see `Detector`.
    conf: keep boxes with a greater score; default 0.25 for a network.
    iou: of two boxes of one class that overlap by more, drop the one with the lower score; default 0.7.
    imgsz: long side of the network's input in pixels; by default the size it was trained with.
    max_det: keep this many boxes per image, those with the highest scores; default 300 for a network.
    classes: keep these class ids only.
    device: of the network; "" is the GPU if there is one.

    For a callable, iou, imgsz and device are ignored, and conf, max_det and classes filter its output if given.
    Raises TypeError for anything else, and FileNotFoundError, ValueError or ConnectionError for a checkpoint that can't
    be obtained or isn't one.
    """
    from .yolo.model import YOLO

    if isinstance(detector, YOLO) and not _is_usual(detector):
        device = None if device == "" else device
        options = {"conf": conf, "iou": iou, "imgsz": imgsz, "max_det": max_det, "classes": classes, "device": device}
        given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        return CheckedDetector(functools.partial(detector, verbose=False, save=False, **given))
    if isinstance(detector, (str, os.PathLike, YOLO)):
        from .yolo import YoloDetector

        network = detector.loaded if isinstance(detector, YOLO) else detector
        yolo_detector = YoloDetector(
            network, conf=conf, iou=iou, imgsz=imgsz, max_det=max_det, classes=classes, device=device
        )
        return CheckedDetector(yolo_detector)
    if isinstance(detector, CheckedDetector) and conf is None and max_det is None and classes is None:
        return detector
    if not callable(detector):
        raise TypeError(
            f"a detector is a name such as 'yolov8x.pt', a checkpoint's path or a callable, not {detector!r}"
        )
    return CheckedDetector(detector, conf=conf, classes=classes, max_det=max_det)


def _is_usual(model: YOLO) -> bool:
    """Return whether the checkpoint says all about a model: nothing was overridden, replaced or set."""
    from .fastsam import FastSAM
    from .yolo.model import YOLO

    return (
        type(model) in (YOLO, FastSAM)
        and "predict" not in vars(model)
        and model.model is model.loaded.network
        and not any(model.callbacks.values())
        and not model.overrides.keys() - {"task"}
        and (model.predictor is None or not model.predictor.has_own_steps)
    )


def load_text_detector(
    texts: Any,
    model: Any = None,
    *,
    processor: Any = None,
    conf: float | None = None,
    iou: float | None = None,
    max_det: int | None = None,
    device: Any = "",
) -> CheckedDetector:
    """Return a detector that finds what texts describe; class i is text i.

    texts: a text such as "a dog", or a list of them. model, processor, conf, iou, device: see `OpenVocabularyDetector`;
        the default model is Grounding DINO (tiny) from transformers. An `OpenVocabularyDetector` as the model keeps its
        own conf, iou and device. max_det: keep this many boxes, those with the highest scores; by default all.

    ImportError without the package transformers (extra `text`); TypeError and ValueError for invalid arguments.
    """
    from .open_vocabulary import OpenVocabularyDetector, TextDetector

    if not isinstance(model, OpenVocabularyDetector):
        model = OpenVocabularyDetector(model, processor, conf=conf, iou=iou, device=device)
    return CheckedDetector(TextDetector(model, texts), max_det=max_det)
