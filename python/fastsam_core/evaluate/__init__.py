"""How well a model segments the objects of a data set: `SAM(...).val(data=...)`, and `fastsam val`.

run.py is `evaluate`; settings.py its options, report.py its result. truth.py and label_maps.py read data sets.
image_scores.py measures one image: prompted.py has the masks of clicks and boxes, clicks.py where to click,
boundary.py, recall.py and baselines.py one measure each. statistics.py: intervals and rank correlation. cases.py: the
picture of the best and the worst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .report import Evaluation, Measure
    from .run import evaluate
    from .settings import EvaluateConfig
    from .truth import Failure

__all__ = ["EvaluateConfig", "Evaluation", "Failure", "Measure", "evaluate"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "EvaluateConfig": "settings",
        "Evaluation": "report",
        "Failure": "truth",
        "Measure": "report",
        "evaluate": "run",
    },
)
