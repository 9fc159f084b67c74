"""From a name, a path or a callable to a detector."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .protocol import CheckedDetector, Detector


def load_detector(
    detector: str | os.PathLike[str] | Detector,
    *,
    conf: float | None = None,
    iou: float | None = None,
    imgsz: int | Sequence[int] | None = None,
    max_det: int | None = None,
    classes: Sequence[int] | int | None = None,
    device: Any = "",
) -> CheckedDetector:
    """A detector whose output is checked.

    detector: an official name ("yolov8n.pt" to "yolov8x.pt", "yolov8n-seg.pt" ..., "FastSAM-s.pt", "FastSAM-x.pt"), a
        checkpoint of that family by path (.pt or .safetensors), or any callable `detector(image)`, see `Detector`.
    conf: keep boxes with a greater score; 0.25 for a network if not given.
    iou: of two boxes of one class that overlap by more, the weaker one goes; 0.7 if not given.
    imgsz: the network's input in pixels, its long side; what it was trained with if not given.
    max_det: the most boxes per image, the best by score; 300 for a network if not given.
    classes: keep these class ids only.
    device: of the network; "" is the GPU if there is one.

    A callable does its own work: iou, imgsz and device don't reach it, and conf, max_det and classes filter what it
    gives, where given. TypeError for anything else; FileNotFoundError, ValueError and ConnectionError for a checkpoint
    that can't be had or is something else.
    """
    if isinstance(detector, (str, os.PathLike)):
        from .yolo import YoloDetector

        network = YoloDetector(
            detector, conf=conf, iou=iou, imgsz=imgsz, max_det=max_det, classes=classes, device=device
        )
        return CheckedDetector(network)
    if isinstance(detector, CheckedDetector) and conf is None and max_det is None and classes is None:
        return detector
    if not callable(detector):
        raise TypeError(
            f"a detector is a name such as 'yolov8x.pt', a checkpoint's path or a callable, not {detector!r}"
        )
    return CheckedDetector(detector, conf=conf, classes=classes, max_det=max_det)


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
    """A detector that finds what texts describe; class i is text i.

    texts: a text or a list of them, "a dog". model, processor, conf, iou, device: see `OpenVocabularyDetector`;
        Grounding DINO (tiny) from transformers if not given. max_det: keep that many boxes, the best by score; all if
        not given.

    ImportError without the package transformers (extra `text`); TypeError and ValueError for arguments.
    """
    from .open_vocabulary import OpenVocabularyDetector, TextDetector

    if not isinstance(model, OpenVocabularyDetector):
        model = OpenVocabularyDetector(model, processor, conf=conf, iou=iou, device=device)
    return CheckedDetector(TextDetector(model, texts), max_det=max_det)
