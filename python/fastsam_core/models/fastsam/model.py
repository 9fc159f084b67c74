"""`FastSAM` under the path `models.fastsam.model`, as users of the Ultralytics package know it."""

from __future__ import annotations

from ...detect.fastsam import FastSAM

__all__ = ["FastSAM"]
