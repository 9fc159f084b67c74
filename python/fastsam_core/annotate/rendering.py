"""Content of the label files of an image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..formats import ImageLabels, LabelMapWriter, LabelMeWriter, Sa1bWriter, YoloWriter, coco
from ..formats._writing import FolderWriter, json_text
from ..results import Results
from .files import label_path
from .shards import stable_hash


class Renderer:
    """A renderer of the label files of an image, in some formats. Thread-safe.

    folder: the folder of labels. images: the folder of the images, for formats whose files refer to their image.
    """

    def __init__(
        self, formats: Sequence[str], folder: Path = Path(), images: str | os.PathLike[str] | None = None
    ) -> None:
        self.folder = folder
        writers: dict[str, FolderWriter | None] = {
            "yolo": YoloWriter(folder),
            "coco": None,
            "sa1b": Sa1bWriter(folder),
            "labelme": LabelMeWriter(folder, images=images),
            "png": LabelMapWriter(folder),
        }
        self._writers = {fmt: writers[fmt] for fmt in formats}

    def __call__(self, results: Results, file_name: str, label_name: str) -> dict[str, bytes]:
        """Return contents by format. file_name: the image's relative path. label_name: of the files, without suffix."""
        labels = ImageLabels.from_results(
            results,
            file_name=file_name,
            class_ids=[int(row[5]) for row in results.rows()],
            names=results.names,
            # Independent of the other images, and below 2^53, which every JSON reader represents exactly.
            image_id=stable_hash(file_name) >> 11,
        )
        return {
            fmt: _coco_part(labels)
            if writer is None
            else writer.render(labels, self.folder / label_path(fmt, label_name))[0]
            for fmt, writer in self._writers.items()
        }


def _coco_part(labels: ImageLabels) -> bytes:
    """Return the image's part of the COCO file as JSON; `write_dataset_files` fills in the ids."""
    annotations = [coco.annotation(obj, 0, 0, obj.class_id + 1) for obj in labels.objects]
    return (json_text({"image": coco.image_dict(labels, 0), "annotations": annotations}) + "\n").encode()
