"""Detectors of other makers behind the protocol: models of transformers, and ONNX files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._transformers import as_picture, weights_digest
from .open_vocabulary import OpenVocabularyDetector, TextDetector
from .protocol import CheckedDetector, Detections

_CONF = 0.25


def from_transformers(
    model: Any,
    processor: Any,
    *,
    texts: Any = None,
    conf: float | None = None,
    iou: float | None = None,
    max_det: int | None = None,
    classes: Sequence[int] | int | None = None,
    device: Any = "",
) -> CheckedDetector:
    """A detector from an object detection model of transformers.

    model: a loaded model with a fixed set of classes (DETR, RT-DETR, YOLOS ..., whose image processor has
        `post_process_object_detection`), or, with `texts`, one that takes words (Grounding DINO, OWLv2, OWL-ViT).
    processor: the model's image processor, or for texts its processor.
    conf: keep boxes with a greater score; 0.25 if not given, with texts by the kind of model. iou: with texts only, see
        `OpenVocabularyDetector`. max_det, classes: see `CheckedDetector`. device: "" is the GPU if there is one.

    ValueError for models and settings that don't go together.
    """
    if texts is not None:
        open_vocabulary = OpenVocabularyDetector(model, processor, conf=conf, iou=iou, device=device)
        return CheckedDetector(TextDetector(open_vocabulary, texts), max_det=max_det, classes=classes)
    if not hasattr(processor, "post_process_object_detection"):
        raise ValueError(
            f"a {type(processor).__name__} has no post_process_object_detection: give a detection model's image "
            "processor, or texts=[...] for a model that takes words"
        )
    if iou is not None:
        raise ValueError("iou has no effect on a model of transformers without texts: it doesn't repeat its boxes")
    return CheckedDetector(_ClosedSet(model, processor, conf, device), max_det=max_det, classes=classes)


class _ClosedSet:
    """A model of transformers with a fixed set of classes."""

    def __init__(self, model: Any, processor: Any, conf: float | None, device: Any) -> None:
        from ..device import select_device

        self.model, self.processor = model.eval().to(select_device(device)), processor
        self.conf = _CONF if conf is None else float(conf)
        self.names = {int(index): str(name) for index, name in model.config.id2label.items()}

    @property
    def fingerprint(self) -> str:
        """What decides about the boxes."""
        return f"{self.model.config.model_type} weights={weights_digest(self.model)} conf={self.conf:g}"

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8], /) -> Detections:
        device = next(self.model.parameters()).device
        inputs = self.processor(images=as_picture(image), return_tensors="pt").to(device)
        outputs = self.model(**inputs)
        (found,) = self.processor.post_process_object_detection(
            outputs, threshold=self.conf, target_sizes=[(image.shape[0], image.shape[1])]
        )
        boxes, scores, class_ids = (found[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
        # The corners of a box without extent may have changed places in rounding.
        boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
        return Detections(boxes, scores, class_ids, self.names)


def from_onnx(
    path: str | os.PathLike[str],
    *,
    names: Any = None,
    conf: float | None = None,
    iou: float | None = None,
    imgsz: int | Sequence[int] | None = None,
    max_det: int | None = None,
    classes: Sequence[int] | int | None = None,
    providers: Sequence[Any] | None = None,
) -> CheckedDetector:
    """A detector from an ONNX file of a YOLO network, run by ONNX Runtime.

    The input is one RGB picture (1, 3, H, W) in 0 to 1, letterboxed; the first output is (1, 4 + classes, places) with
    centre, size and scores, as YOLOv8 and its successors are exported (mask coefficients of segmentation may follow the
    scores), or (1, N, 6) with x1, y1, x2, y2, score, class, as exports with their own suppression give.

    names: class names, {id: name} or a list; the file's metadata if not given. conf: keep boxes with a greater score;
    0.25 if not given. iou: 0.7 if not given, without effect on (1, N, 6). imgsz: for files whose input has any size;
    640 if not given. max_det: 300 if not given. providers: of ONNX Runtime; those that it has if not given.

    ImportError without the package onnxruntime, FileNotFoundError, and ValueError for another kind of network.
    """
    from .onnx import OnnxDetector

    detector = OnnxDetector(
        path, names=names, conf=conf, iou=iou, imgsz=imgsz, max_det=max_det, classes=classes, providers=providers
    )
    return CheckedDetector(detector)
