"""`auto_annotate` under its import path in the Ultralytics package."""

from __future__ import annotations

from ..annotate import auto_annotate

__all__ = ["auto_annotate"]
