"""`AnnotateConfig`: the options of `auto_annotate` that decide what is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import option_parsers as parse
from ..prompts import parse_texts

FORMATS = ("yolo", "coco", "sa1b", "labelme", "png")
ON_ERROR = ("skip", "raise")
_DEFAULT_DETECTOR = "yolov8x.pt"  # the default det_model


@dataclass
class AnnotateConfig:
    """Options of `Annotator`. Picklable if its models are.

    det_model: a detector's official name or checkpoint, any callable `detect.Detector`, or None to segment everything.
    sam_model: a checkpoint's name or path or a `SamModel`, or a `SAM` or `Predictor`, whose own options then apply.
    device: of both models; "" is the GPU if there is one.
    conf, iou, imgsz, max_det, classes: of the detector, see `detect.load_detector`.
    texts: descriptions of what to find, for an open-vocabulary detector; class ids are positions in this list.
        det_model is then such a detector, see `detect.load_text_detector`, or keeps its default and is ignored.
    formats: formats of label files, any of yolo, coco, sa1b, labelme and png.
    min_area: drop masks of fewer pixels.
    batch: number of images encoded together.
    workers: number of threads that load, and of threads that write.

    Raises TypeError and ValueError for invalid values.
    """

    det_model: Any = _DEFAULT_DETECTOR
    sam_model: Any = "sam_b.pt"
    device: Any = ""
    conf: float = 0.25
    iou: float = 0.45
    imgsz: int | Sequence[int] = 640
    max_det: int = 300
    classes: Sequence[int] | None = None
    texts: Sequence[str] | None = None
    formats: Sequence[str] = ("yolo",)
    min_area: float = 0
    batch: int = 1
    workers: int = 2

    def __post_init__(self) -> None:
        self.conf = parse.number(0, 1)("conf", self.conf)
        self.iou = parse.number(0, 1)("iou", self.iou)
        height, width = parse.input_size("imgsz", self.imgsz)
        self.imgsz = height if height == width else [height, width]
        self.max_det = parse.integer(1)("max_det", self.max_det)
        self.min_area = parse.number(0)("min_area", self.min_area)
        self.batch = parse.integer(1)("batch", self.batch)
        self.workers = parse.integer(1)("workers", self.workers)
        self.classes = None if self.classes is None else list(parse.class_ids("classes", self.classes))
        self.texts = _parse_texts(self.texts)
        self.formats = parse_formats(self.formats)
        self.device = "" if self.device is None else self.device
        if self.det_model is None or isinstance(self.det_model, (str, os.PathLike)):
            if self.texts is not None and is_checkpoint(self.det_model):
                name = str(self.det_model)
                if name != _DEFAULT_DETECTOR:
                    raise ValueError(
                        f"texts need an open-vocabulary detector, but det_model={name!r} is a YOLO checkpoint: give "
                        "texts or det_model, not both"
                    )
            return
        if self.texts is not None and not hasattr(self.det_model, "find"):
            raise ValueError(
                "texts need an open-vocabulary detector, such as detect.OpenVocabularyDetector; leave them out with "
                "another det_model"
            )
        if self.texts is None and not callable(self.det_model):
            raise TypeError(
                f"det_model must be a detector's name, a callable or None, not {type(self.det_model).__name__}"
            )

    @property
    def uses_detector(self) -> bool:
        """Whether boxes come from a detector; if not, everything is segmented."""
        return self.det_model is not None or self.texts is not None

    def updated(self, **changes: Any) -> AnnotateConfig:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def is_checkpoint(det_model: Any) -> bool:
    """Return whether `det_model` names a checkpoint of the YOLO family (as the default does), which takes no texts."""
    return isinstance(det_model, (str, os.PathLike)) and os.fspath(det_model).endswith((".pt", ".safetensors"))


def parse_formats(formats: Any) -> tuple[str, ...]:
    """Return the formats named, each once, in a fixed order; `formats` is a list of names or text like "yolo,coco"."""
    given = formats.split(",") if isinstance(formats, str) else formats
    if not isinstance(given, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"formats must be a list of {', '.join(FORMATS)}, not {formats!r}")
    wanted = {name.strip().lower() for name in given}
    unknown = sorted(wanted - set(FORMATS))
    if unknown or not wanted:
        raise ValueError(
            f"formats={formats!r}: {', '.join(map(repr, unknown)) or 'none'}; accepted: {', '.join(FORMATS)}"
        )
    return tuple(name for name in FORMATS if name in wanted)


def _parse_texts(texts: Any) -> list[str] | None:
    if texts is None:
        return None
    given = parse_texts(texts)
    if not given:
        raise ValueError(f"texts={texts!r}: at least one is needed")
    return list(given)
