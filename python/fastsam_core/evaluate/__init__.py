"""How well a model segments the objects of a data set: `SAM(...).val(data=...)`, and `fastsam val`.

run.py is `evaluate`; settings.py its options, report.py its result. truth.py and label_maps.py read data sets.
image_scores.py measures one image: prompted.py has the masks of clicks and boxes, clicks.py where to click,
boundary.py, recall.py and baselines.py one measure each. statistics.py: intervals and rank correlation. cases.py: the
picture of the best and the worst.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import Evaluation, Measure
    from .run import evaluate
    from .settings import EvaluateConfig
    from .truth import Failure

__all__ = ["EvaluateConfig", "Evaluation", "Failure", "Measure", "evaluate"]

_HOMES = {
    "EvaluateConfig": "settings",
    "Evaluation": "report",
    "Failure": "truth",
    "Measure": "report",
    "evaluate": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
