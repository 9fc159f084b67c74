"""The networks: image encoders, prompt encoder, mask decoder, and the registry of model names and sizes.

`SAM`, `YOLO` and `FastSAM` can be imported from here too, because users of the Ultralytics package know this path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..detect.fastsam import FastSAM
    from ..detect.yolo.model import YOLO
    from ..sam import SAM

__all__ = ["SAM", "YOLO", "FastSAM"]


def __getattr__(name: str) -> Any:
    # Imported lazily to avoid a cycle: the modules that define these classes import this package.
    if name in __all__:
        import fastsam_core

        return getattr(fastsam_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
