"""YOLO networks exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

import ast
import importlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..config import DetectConfig
from ..models.download import sha256_of
from .protocol import Detections
from .yolo.letterbox import Letterbox

_IMGSZ = 640


class OnnxDetector:
    """A `Detector` that runs an ONNX file; see `from_onnx` for the arguments."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        names: Any = None,
        conf: float | None = None,
        iou: float | None = None,
        imgsz: int | Sequence[int] | None = None,
        max_det: int | None = None,
        classes: Sequence[int] | int | None = None,
        providers: Sequence[Any] | None = None,
    ) -> None:
        self.config = DetectConfig(conf=conf, iou=iou, imgsz=imgsz, max_det=max_det, classes=classes)  # type: ignore[arg-type]
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no such ONNX file: {self.path}")
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise ImportError(f"ONNX files need the package onnxruntime: pip install onnxruntime ({error})") from error
        chosen_providers = list(onnxruntime.get_available_providers() if providers is None else providers)
        try:
            self.session: Any = onnxruntime.InferenceSession(str(self.path), providers=chosen_providers)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{self.path} can't be run: {reason[:300]}") from error
        self._read_inputs()
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.names = _to_class_names(names) if names is not None else _names_from_metadata(metadata.get("names", ""))

    def _read_inputs(self) -> None:
        inputs = self.session.get_inputs()
        shape = list(inputs[0].shape)
        dtype = inputs[0].type
        fits = len(inputs) == 1 and len(shape) == 4 and shape[1] == 3 and dtype in ("tensor(float)", "tensor(float16)")
        if not fits or (isinstance(shape[0], int) and shape[0] != 1):
            description = ", ".join(
                f"{model_input.name} {model_input.type} {model_input.shape}" for model_input in inputs
            )
            raise ValueError(f"{self.path} takes {description}; accepted: one image (1, 3, H, W) of floats")
        self._input_name, self._dtype = inputs[0].name, np.float16 if dtype == "tensor(float16)" else np.float32
        # A fixed side is an integer in the shape; a variable one is a name.
        self._fixed_hw = (shape[2], shape[3]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None

    @cached_property
    def fingerprint(self) -> str:
        """Text that changes whenever the boxes may: hash of the file, and settings."""
        config = self.config
        settings = (
            f"conf={config.conf:g} iou={config.iou:g} imgsz={self._fixed_hw or self._input_hw} max_det={config.max_det}"
        )
        return f"onnx sha256={sha256_of(self.path)} {settings} classes={config.classes}"

    @property
    def _input_hw(self) -> tuple[int, int]:
        input_hw: tuple[int, int] = self.config.imgsz or (_IMGSZ, _IMGSZ)
        return input_hw

    def __call__(self, image: NDArray[np.uint8], /) -> Detections:
        """Return the boxes of one image, (H, W, 3) uint8 BGR, sorted by falling score."""
        original_hw = image.shape[0], image.shape[1]
        letterbox = Letterbox.fit(original_hw, self._fixed_hw or self._input_hw, self._fixed_hw)
        pixels = (letterbox.to_input(image)[None].astype(np.float32) / 255).astype(self._dtype)
        outputs = [np.asarray(output, np.float32) for output in self.session.run(None, {self._input_name: pixels})]
        boxes, scores, class_ids = self._decode_output(
            torch.from_numpy(outputs[0]), [output.shape for output in outputs[1:]]
        )
        if self.config.classes is not None:
            keep = torch.isin(class_ids, torch.tensor(self.config.classes, device=class_ids.device))
            boxes, scores, class_ids = boxes[keep], scores[keep], class_ids[keep]
        boxes, scores, class_ids = (values[: self.config.max_det] for values in (boxes, scores, class_ids))
        return Detections(letterbox.to_image_boxes(boxes).numpy(), scores.numpy(), class_ids.numpy(), self.names)

    def _decode_output(self, output: Tensor, other_shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (N, 4) in pixels of the input, scores (N,) and class ids (N,), sorted by falling score.

        other_shapes: shapes of the further outputs. ValueError if `output` has none of the shapes that `from_onnx`
        names, or if scores are NaN.
        """
        # A segmentation network also outputs prototypes (1, C, h, w), and each object has C coefficients at the end.
        num_coefficients = next((shape[1] for shape in other_shapes if len(shape) == 4), 0)
        if output.ndim == 3 and len(output) == 1 and output.shape[2] == 6 + num_coefficients:
            rows = output[0]
            rows = rows[self._is_confident(rows[:, 4])]
            rows = rows[rows[:, 4].argsort(descending=True, stable=True)]
            return rows[:, :4], rows[:, 4], rows[:, 5].long()
        num_classes = output.shape[1] - 4 - num_coefficients if output.ndim == 3 else 0
        if num_classes < 1 or len(output) != 1 or output.shape[1] > output.shape[2]:
            raise ValueError(
                f"{self.path} gives {tuple(output.shape)}; accepted: (1, 4 + classes, boxes) or (1, N, 6), see "
                "from_onnx"
            )
        scores, class_ids = output[0, 4 : 4 + num_classes].max(0)
        rows = self._is_confident(scores).nonzero()[:, 0]
        centre, box_size = output[0, :2, rows].T, output[0, 2:4, rows].T
        boxes = torch.cat([centre - box_size / 2, centre + box_size / 2], 1)
        scores, class_ids = scores[rows], class_ids[rows]
        keep = ops.batched_nms(boxes, scores, class_ids, self.config.iou)
        return boxes[keep], scores[keep], class_ids[keep]

    def _is_confident(self, scores: Tensor) -> Tensor:
        if bool(scores.isnan().any()):
            raise ValueError(f"{self.path} gives scores that are NaN: damaged weights, or too large for half precision")
        return scores > self.config.conf


def _names_from_metadata(text: str) -> dict[int, str]:
    """Read the names in a file's metadata, a Python literal; empty if they can't be read."""
    try:
        return _to_class_names(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {}


def _to_class_names(names: Any) -> dict[int, str]:
    try:
        if isinstance(names, str):
            raise TypeError("its letters would become names")
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
        return {int(index): str(name) for index, name in pairs}
    except (TypeError, ValueError):
        raise TypeError(f"names must be {{id: name}} or a list of names, not {names!r}"[:300]) from None
