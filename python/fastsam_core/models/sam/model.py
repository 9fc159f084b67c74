"""`SAM` under the path `models.sam.model`, as users of the Ultralytics package know it."""

from __future__ import annotations

from ...sam import SAM

__all__ = ["SAM"]
