"""`SAM` and `Predictor` under the path that users of the Ultralytics package know, imported on first use.

The modules in this package contain what those users expect in modules of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ...predictor import Predictor
    from ...sam import SAM

__all__ = ["SAM", "Predictor"]


def __getattr__(name: str) -> Any:
    # Imported lazily to avoid a cycle: the modules that define these classes import `models`.
    if name in __all__:
        import fastsam_core

        return getattr(fastsam_core, name)
    refuse_later_models(name)


def refuse_later_models(name: str) -> NoReturn:
    """Raise ImportError for names of SAM 2 and SAM 3, AttributeError for others."""
    if name.startswith(("SAM2", "SAM3")):
        raise ImportError(f"{name} isn't supported: only the first Segment Anything and MobileSAM are")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
