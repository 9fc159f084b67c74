"""`yolo_bbox2segment` under its import path in the Ultralytics package."""

from __future__ import annotations

from ..bbox2segment import yolo_bbox2segment

__all__ = ["yolo_bbox2segment"]
