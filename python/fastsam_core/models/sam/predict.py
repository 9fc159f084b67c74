"""`Predictor` under the path `models.sam.predict`, as users of the Ultralytics package know it."""

from __future__ import annotations

from ...predictor import Predictor

__all__ = ["Predictor"]
