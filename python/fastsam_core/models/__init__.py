"""The networks: image encoders, prompt encoder, mask decoder, and the registry that names their sizes.

`SAM`, `YOLO` and `FastSAM` are here too for users of the Ultralytics package, who know them under this path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..detect.fastsam import FastSAM
    from ..detect.yolo.model import YOLO
    from ..sam import SAM

__all__ = ["SAM", "YOLO", "FastSAM"]


def __getattr__(name: str) -> Any:
    # Not imported at the top: this package's models are imported by those modules.
    if name in __all__:
        import fastsam_core

        return getattr(fastsam_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
