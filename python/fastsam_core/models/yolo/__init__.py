"""`YOLO` and the predictors under the paths that users of the Ultralytics package know, imported on first use."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported lazily to avoid a cycle: that module imports `models`.
    if name == "YOLO":
        from ...detect.yolo.model import YOLO

        return YOLO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
