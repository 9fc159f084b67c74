"""`Worker`, the part of `annotate_ray` that runs on the nodes: an actor that labels rows and writes their files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..annotate.annotator import Annotator
from ..annotate.files import LabelFiles
from ..annotate.manifest import file_name
from ..annotate.preview import Preview
from ..annotate.rendering import Renderer
from ..annotate.settings import AnnotateConfig
from ..annotate.shards import WHOLE, stable_hash
from ..annotate.work import Line, Work
from .inputs import Batch

OWNER = "ray-"  # prefix of the folders for unfinished files
_ATTEMPTS = 5


class Worker:
    """An actor that labels rows of an input, writes the label files and returns rows of manifest lines.

    A task that runs again because a node was lost writes the same files again.
    """

    def __init__(
        self, config: AnnotateConfig, reader: Any, folder: str, images: str | None, preview: Preview, threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        target = Path(folder)
        if not (target / file_name(WHOLE)).exists():
            raise FileNotFoundError(f"{target} isn't the same folder on every node; output_dir must be shared storage")
        self._reader = reader
        self._annotator = Annotator(config)
        labels = LabelFiles(target, config.formats, OWNER + secrets.token_hex(8))
        self._marks = labels.scratch.parent / f"{OWNER}attempts"
        labels.__enter__()  # never exited: an actor may be killed, so `annotate_ray` clears the folder instead
        self._work = Work(self._annotator, labels, Renderer(config.formats, target, images), preview)

    def __call__(self, rows: Any) -> Any:
        """Label a pyarrow Table of rows and return one with the column `line`: a JSON object per image."""
        import pyarrow

        lines = self.label({name: rows[name].to_pylist() for name in rows.column_names}) if rows.num_rows else []
        return pyarrow.table({"line": pyarrow.array(map(json.dumps, lines), pyarrow.string())})

    def label(self, columns: Batch) -> list[Line]:
        """Label the images of some rows and return their manifest lines."""
        lines: list[Line] = []
        videos: list[str] = []
        groups = self._reader.groups(columns, self._annotator.config.batch, videos)
        with self._attempt(self._reader.first(columns)):
            self._work.run(groups, self._reader.done, lines.append)
        return [*lines, *({"key": video, "status": "video"} for video in videos)]

    @contextmanager
    def _attempt(self, name: str) -> Iterator[None]:
        """Count attempts at a task in a file named after its first image; only a process that dies leaves it behind.

        RuntimeError if too many processes have died: Ray would retry for ever.
        """
        mark = self._marks / f"{stable_hash(name):016x}"
        mark.parent.mkdir(parents=True, exist_ok=True)
        with open(mark, "ab") as file:
            file.write(b".")
            tried = file.tell()
        try:
            if tried > _ATTEMPTS:
                raise RuntimeError(
                    f"{_ATTEMPTS} processes in a row died while labelling the images from {name} on; remove the "
                    "image that kills them, or give the actors more memory, and run again"
                )
            yield
        finally:
            mark.unlink(missing_ok=True)
