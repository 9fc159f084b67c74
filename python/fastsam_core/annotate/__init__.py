"""Label files for sets of images of any size: boxes from a detector, masks from SAM.

run.py is `auto_annotate`. worklist.py: which images; shards.py: whose; job.py: which are left, by manifest.py. work.py:
loading.py, annotator.py, rendering.py and files.py take an image from file to label files, in pipeline.py's threads.
assemble.py and preview.py: what belongs to all images. rows.py: batches of other engines.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .annotator import Annotator
    from .run import auto_annotate
    from .settings import AnnotateConfig

__all__ = ["AnnotateConfig", "Annotator", "auto_annotate"]

_HOMES = {"AnnotateConfig": "settings", "Annotator": "annotator", "auto_annotate": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
