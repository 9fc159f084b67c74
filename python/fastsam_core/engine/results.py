"""`Results`, `Boxes`, `Masks` and their `BaseTensor` under their import path in the Ultralytics package."""

from __future__ import annotations

from ..results import BaseTensor, Boxes, Masks, Results

__all__ = ["BaseTensor", "Boxes", "Masks", "Results"]
