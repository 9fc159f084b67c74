"""Detectors, which find the boxes that SAM turns into masks.

A detector is any callable `detector(image) -> boxes, scores, class_ids, names`: see `Detector`. `load_detector` makes
one from an official YOLO name, a checkpoint's path or a callable, and checks its output. `load_text_detector` makes
one that finds what texts describe. `from_transformers` and `from_onnx` wrap other models.
"""

from __future__ import annotations

from .adapters import from_onnx, from_transformers
from .load import load_detector, load_text_detector
from .protocol import CheckedDetector, Detections, Detector

__all__ = [
    "CheckedDetector",
    "Detections",
    "Detector",
    "from_onnx",
    "from_transformers",
    "load_detector",
    "load_text_detector",
]
