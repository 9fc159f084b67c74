"""Evaluation of a model on a data set with true masks: `SAM(...).val(data=...)`, and `fastsam val`.

run.py holds `evaluate`, settings.py its options, report.py its result and command.py the command line. datasets.py and
label_maps.py read data sets. image_scores.py measures one image: prompted.py predicts masks from clicks and boxes,
clicks.py decides where to click, boundary.py and recall.py compute boundary F and average recall, and baselines.py
segments without a model. statistics.py computes intervals and rank correlation. cases.py draws the best, median and
worst cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .datasets import Failure
    from .report import Evaluation, Measure
    from .run import evaluate
    from .settings import EvaluateConfig

__all__ = ["EvaluateConfig", "Evaluation", "Failure", "Measure", "evaluate"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "EvaluateConfig": "settings",
        "Evaluation": "report",
        "Failure": "datasets",
        "Measure": "report",
        "evaluate": "run",
    },
)
