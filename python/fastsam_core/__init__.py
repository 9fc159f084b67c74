"""fastsam_core: Segment Anything for production machines.

    from fastsam_core import SAM
    results = SAM("sam_nano.pt")("photo.jpg")

Public names are imported on first use, so importing the package itself is fast.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import tiles
    from .annotate import Annotator, auto_annotate
    from .bbox2segment import yolo_bbox2segment
    from .detect.fastsam import FastSAM
    from .detect.yolo.model import YOLO
    from .predictor import Predictor
    from .results import Boxes, Masks, Results
    from .sam import SAM

__version__ = "0.1.0"
# Folder with a sample image, generated like the training scenes. It is the source when a call names none.
ASSETS = Path(__file__).parent / "assets"
__all__ = [
    "ASSETS",
    "SAM",
    "YOLO",
    "Annotator",
    "Boxes",
    "FastSAM",
    "Masks",
    "Predictor",
    "Results",
    "__version__",
    "auto_annotate",
    "checks",
    "tiles",
    "yolo_bbox2segment",
]

_HOMES = {
    "SAM": ".sam",
    "YOLO": ".detect.yolo.model",
    "FastSAM": ".detect.fastsam",
    "Predictor": ".predictor",
    "Annotator": ".annotate",
    "auto_annotate": ".annotate",
    "Results": ".results",
    "Boxes": ".results",
    "Masks": ".results",
    "yolo_bbox2segment": ".bbox2segment",
}
_MODULES = ("tiles",)
_OTHER_MODELS = (
    "YOLO runs YOLOv8, YOLO11, YOLO12 and YOLO26, detect.from_onnx YOLO networks exported to ONNX, "
    "detect.from_transformers RT-DETR and others, and SAM(...)(image, texts=['a dog']) finds objects by words"
)
# What Ultralytics' package has and this one hasn't, and what there is instead.
_NOT_OFFERED = {
    **dict.fromkeys(("RTDETR", "YOLOWorld", "YOLOE", "NAS"), _OTHER_MODELS),
    "settings": "the environment variable FASTSAM_HOME names the folder of checkpoints, project=... that of results",
}


def checks() -> None:
    """Print the report of `fastsam doctor`: versions, compiled modules, threads."""
    from .doctor import report

    print(report())


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _NOT_OFFERED:
        raise ImportError(f"{name} isn't supported: {_NOT_OFFERED[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES) | set(_MODULES))
