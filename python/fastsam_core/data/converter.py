"""`yolo_bbox2segment` under its import path in the Ultralytics package."""

from __future__ import annotations

from typing import NoReturn

from ..bbox2segment import yolo_bbox2segment

__all__ = ["yolo_bbox2segment"]


def __getattr__(name: str) -> NoReturn:
    if name == "convert_coco":
        raise ImportError(
            "convert_coco isn't supported: use fastsam_core.formats.convert_labels('instances.json', 'labels', "
            "from_='coco', to='yolo'), or fastsam convert data=instances.json from=coco to=yolo output=labels"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
