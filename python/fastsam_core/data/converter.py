"""`yolo_bbox2segment` under the path that users of the Ultralytics package know."""

from __future__ import annotations

from ..bbox2segment import yolo_bbox2segment

__all__ = ["yolo_bbox2segment"]
