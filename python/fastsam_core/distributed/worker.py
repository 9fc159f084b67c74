"""`Worker`, the part of `annotate_ray` that runs on the nodes: an actor that labels rows and writes their files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..annotate.annotator import Annotator
from ..annotate.batch_labeller import BatchLabeller, ManifestLine
from ..annotate.files import LabelFiles
from ..annotate.manifest import manifest_name
from ..annotate.preview import Preview
from ..annotate.rendering import Renderer
from ..annotate.settings import AnnotateConfig
from ..annotate.shards import UNSHARDED, stable_hash
from .inputs import Columns

SCRATCH_PREFIX = "ray-"  # prefix of the folders for unfinished files
_MAX_ATTEMPTS = 5


class Worker:
    """An actor that labels rows of an input, writes the label files and returns rows of manifest lines.

    A task that runs again because a node was lost writes the same files again.
    """

    def __init__(
        self,
        config: AnnotateConfig,
        reader: Any,
        folder: str,
        image_root: str | None,
        preview: Preview,
        num_threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(num_threads)
        target = Path(folder)
        if not (target / manifest_name(UNSHARDED)).exists():
            raise FileNotFoundError(f"{target} isn't the same folder on every node; output_dir must be shared storage")
        self._reader = reader
        self._annotator = Annotator(config)
        labels = LabelFiles(target, config.formats, SCRATCH_PREFIX + secrets.token_hex(8))
        self._attempts_folder = labels.scratch.parent / f"{SCRATCH_PREFIX}attempts"
        labels.__enter__()  # never exited: an actor may be killed, so `annotate_ray` clears the folder instead
        self._labeller = BatchLabeller(self._annotator, labels, Renderer(config.formats, target, image_root), preview)

    def __call__(self, rows: Any) -> Any:
        """Label a pyarrow Table of rows and return one with the column `line`: a JSON object per image."""
        import pyarrow

        lines = self.label({name: rows[name].to_pylist() for name in rows.column_names}) if rows.num_rows else []
        return pyarrow.table({"line": pyarrow.array(map(json.dumps, lines), pyarrow.string())})

    def label(self, columns: Columns) -> list[ManifestLine]:
        """Label the images of some rows and return their manifest lines."""
        lines: list[ManifestLine] = []
        videos: list[str] = []
        batches = self._reader.batches(columns, self._annotator.config.batch, videos)
        with self._count_attempts(self._reader.first_name(columns)):
            self._labeller.run(batches, self._reader.done, lines.append)
        return [*lines, *({"key": video, "status": "video"} for video in videos)]

    @contextmanager
    def _count_attempts(self, name: str) -> Iterator[None]:
        """Count attempts at a task in a file named after its first image; only a process that dies leaves it behind.

        RuntimeError if too many processes have died: Ray would retry for ever.
        """
        attempts_file = self._attempts_folder / f"{stable_hash(name):016x}"
        attempts_file.parent.mkdir(parents=True, exist_ok=True)
        with open(attempts_file, "ab") as file:
            file.write(b".")
            num_attempts = file.tell()
        try:
            if num_attempts > _MAX_ATTEMPTS:
                raise RuntimeError(
                    f"{_MAX_ATTEMPTS} processes in a row died while labelling the images from {name} on; remove the "
                    "image that kills them, or give the actors more memory, and run again"
                )
            yield
        finally:
            attempts_file.unlink(missing_ok=True)
