"""Label files for sets of images of any size: boxes from a detector, masks from SAM."""

from __future__ import annotations

from .annotator import Annotator
from .run import auto_annotate
from .settings import AnnotateConfig

__all__ = ["AnnotateConfig", "Annotator", "auto_annotate"]
