"""Label files for image collections of any size: a detector finds boxes, SAM turns them into masks.

run.py holds `auto_annotate`. file_list.py lists the images, without what earlier runs wrote among them
(earlier_runs.py), shards.py divides them among processes, and job.py finds out from the manifest (manifest.py) which
are left. batch_labeller.py takes each image to its label files in the threads of pipeline.py, through loading.py,
annotator.py, rendering.py and files.py. dataset_files.py and preview.py write what covers all images: the COCO file,
the class names, the contact sheet. rows.py labels batches of data frames and Ray or Spark.
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
