"""`FastSAMPredictor` under the path `models.fastsam.predict`, as users of the Ultralytics package know it."""

from __future__ import annotations

from ...detect.fastsam import FastSAMPredictor

__all__ = ["FastSAMPredictor"]
