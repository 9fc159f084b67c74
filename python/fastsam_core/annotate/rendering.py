"""What is in the label files of an image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..formats import ImageLabels, LabelMapWriter, LabelMeWriter, Sa1bWriter, YoloWriter, coco
from ..formats._writing import FolderWriter, json_text
from ..results import Results
from .files import path_of
from .shards import stable_hash


class Renderer:
    """Contents of label files in some formats. Threads may share one.

    folder: of the labels. images: of the images, to which label files lead that name their image.
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
        self._writers = {form: writers[form] for form in formats}

    def __call__(self, results: Results, file_name: str, name: str) -> dict[str, bytes]:
        """Contents by format. file_name: the image's relative path. name: of its label files, without suffix."""
        labels = ImageLabels.from_results(
            results,
            file_name=file_name,
            class_ids=[int(row[5]) for row in results.rows()],
            names=results.names,
            # The same whatever other images there are, and below 2^53, which every reader of JSON can hold.
            image_id=stable_hash(file_name) >> 11,
        )
        return {
            form: _coco_part(labels) if writer is None else writer.render(labels, self.folder / path_of(form, name))[0]
            for form, writer in self._writers.items()
        }


def _coco_part(labels: ImageLabels) -> bytes:
    """The image's share of the COCO file; ids are given when it is put together."""
    annotations = [coco.annotation(found, 0, 0, found.class_id + 1) for found in labels.objects]
    return (json_text({"image": coco.image_dict(labels, 0), "annotations": annotations}) + "\n").encode()
