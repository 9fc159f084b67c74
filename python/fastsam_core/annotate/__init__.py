"""Label files for sets of images of any size: boxes from a detector, masks from SAM.

run.py is `auto_annotate`. worklist.py: which images; shards.py: whose; job.py: which are left, by manifest.py. work.py:
loading.py, annotator.py, rendering.py and files.py take an image from file to label files, in pipeline.py's threads.
assemble.py and preview.py: what belongs to all images. rows.py: batches of other engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .annotator import Annotator
    from .run import auto_annotate
    from .settings import AnnotateConfig

__all__ = ["AnnotateConfig", "Annotator", "auto_annotate"]

__getattr__, __dir__ = lazy(__name__, {"AnnotateConfig": "settings", "Annotator": "annotator", "auto_annotate": "run"})
