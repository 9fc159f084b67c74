"""`Results`, `Boxes`, `Masks` and their `BaseTensor` under the path that users of the Ultralytics package know."""

from __future__ import annotations

from ..results import BaseTensor, Boxes, Masks, Results

__all__ = ["BaseTensor", "Boxes", "Masks", "Results"]
