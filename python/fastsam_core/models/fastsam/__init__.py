"""`FastSAM` and `FastSAMPredictor` under the path that users of the Ultralytics package know, imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...detect.fastsam import FastSAM, FastSAMPredictor

__all__ = ["FastSAM", "FastSAMPredictor"]


def __getattr__(name: str) -> Any:
    # Imported lazily to avoid a cycle: that module imports this package.
    if name in __all__:
        from ...detect import fastsam

        return getattr(fastsam, name)
    if name == "FastSAMPrompt":
        raise ImportError(
            "FastSAMPrompt isn't supported (nor by Ultralytics since 8.2.69): give bboxes, points or texts to the call "
            "of FastSAM, or to prompt() of a FastSAMPredictor for existing results"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
