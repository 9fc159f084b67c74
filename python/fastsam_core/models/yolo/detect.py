"""The predictor of `YOLO`, by its name in Ultralytics."""

from __future__ import annotations

from ...detect.yolo.predictor import YoloPredictor as DetectionPredictor

__all__ = ["DetectionPredictor"]
