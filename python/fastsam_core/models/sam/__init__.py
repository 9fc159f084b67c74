"""`SAM` and `Predictor` under the path that users of the Ultralytics package know; loaded on first use.

The modules beside this file have what those users know of such modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...predictor import Predictor
    from ...sam import SAM

__all__ = ["SAM", "Predictor"]


def __getattr__(name: str) -> Any:
    # Not imported at the top: this package's models are imported by those modules.
    if name in __all__:
        import fastsam_core

        return getattr(fastsam_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
