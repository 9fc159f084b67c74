"""`Predictor` under the path `models.sam.predict`, as users of the Ultralytics package know it."""

from __future__ import annotations

from ...predictor import Predictor
from . import refuse_later_models as __getattr__

__all__ = ["Predictor", "__getattr__"]
