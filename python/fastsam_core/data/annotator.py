"""`auto_annotate` under the path that users of the Ultralytics package know."""

from __future__ import annotations

from ..annotate import auto_annotate

__all__ = ["auto_annotate"]
