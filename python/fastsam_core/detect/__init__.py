"""Detectors: what finds the boxes that SAM cuts out.

A detector is any callable `detector(image) -> boxes, scores, class_ids, names`: see `Detector`. `load_detector` makes
one from an official YOLOv8 name, a checkpoint's path or a callable, and checks what it gives.
"""

from __future__ import annotations

from .load import load_detector
from .protocol import CheckedDetector, Detections, Detector

__all__ = ["CheckedDetector", "Detections", "Detector", "load_detector"]
