"""Adapters that make transformers models and ONNX files usable as detectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import option_parsers as parse
from ._transformers import to_model, to_pil_image, weights_digest
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
    """Return a detector that runs an object detection model of transformers.

    model: a loaded model with a fixed set of classes (DETR, RT-DETR, YOLOS ..., whose image processor has
        `post_process_object_detection`), or, with `texts`, one that takes texts (Grounding DINO, OWLv2, OWL-ViT).
    processor: the model's image processor, or its full processor if there are texts.
    conf: keep boxes with a greater score. Default 0.25; with texts it depends on the kind of model. iou: with texts
        only, see `OpenVocabularyDetector`. max_det, classes: see `CheckedDetector`. device: "" is the GPU if there is
        one.

    ValueError if model, processor and settings don't fit together.
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
    return CheckedDetector(_ClosedSetDetector(model, processor, conf, device), max_det=max_det, classes=classes)


class _ClosedSetDetector:
    """A model of transformers with a fixed set of classes."""

    def __init__(self, model: Any, processor: Any, conf: float | None, device: Any) -> None:
        from ..device import select_device

        self.model, self.processor = model.eval().to(select_device(device)), processor
        self.conf = parse.number(0, 1)("conf", _CONF if conf is None else conf)
        self.names = {int(index): str(name) for index, name in model.config.id2label.items()}

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever the boxes may: kind of model, hash of its weights, threshold."""
        return f"{self.model.config.model_type} weights={weights_digest(self.model)} conf={self.conf:g}"

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8], /) -> Detections:
        inputs = self.processor(images=to_pil_image(image), return_tensors="pt")
        outputs = self.model(**to_model(inputs, self.model))
        (detected,) = self.processor.post_process_object_detection(
            outputs, threshold=self.conf, target_sizes=[(image.shape[0], image.shape[1])]
        )
        boxes, scores = (detected[key].float().cpu().numpy() for key in ("boxes", "scores"))
        class_ids = detected["labels"].cpu().numpy()
        # Rounding may have swapped the corners of a box without extent.
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
    """Return a detector that runs an ONNX file of a YOLO network with ONNX Runtime.

    The input is one RGB image (1, 3, H, W) in 0 to 1, letterboxed. The first output is one of

    - (1, 4 + classes, places) with centre, size and class scores, as YOLOv8 and its successors are exported;
    - (1, N, 6) with x1, y1, x2, y2, score, class, as exports with built-in non-maximum suppression give, and those of
      YOLO26 that need none.

    The mask coefficients of a segmentation network may follow.

    names: class names, {id: name} or a list; by default from the file's metadata. conf: keep boxes with a greater
    score; default 0.25. iou: threshold of non-maximum suppression; default 0.7, unused for (1, N, 6). imgsz: input size
    for files that accept any; default 640. max_det: the most boxes per image; default 300. classes: keep these class
    ids only. providers: of ONNX Runtime; by default all that it has.

    ImportError without the package onnxruntime, FileNotFoundError, and ValueError for another kind of network.
    """
    from .onnx import OnnxDetector

    detector = OnnxDetector(
        path, names=names, conf=conf, iou=iou, imgsz=imgsz, max_det=max_det, classes=classes, providers=providers
    )
    return CheckedDetector(detector)
