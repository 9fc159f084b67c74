"""Paths of an image's label files, whether they exist, and writing them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .._files import atomic_path


class LabelLayout(NamedTuple):
    """Where the files of a format go: `<folder>/<image's relative path without suffix><suffix>`."""

    folder: str
    suffix: str


# For coco these are hidden parts of the COCO file, one per image, which are merged at the end of a run.
LAYOUTS = {
    "yolo": LabelLayout("", ".txt"),
    "coco": LabelLayout(".coco", ".part"),
    "sa1b": LabelLayout("sa1b", ".json"),
    "labelme": LabelLayout("labelme", ".json"),
    "png": LabelLayout("png", ".png"),
}
_SCRATCH = ".partial"


class LabelFiles:
    """The label files of some formats within a folder. Use it as a context manager for writing.

    owner: name of this process's sub-folder for unfinished files. Only one process may write under it. It is cleared
    when writing begins, so that leftovers of a killed process are removed by the next run.
    """

    def __init__(self, folder: Path, formats: Sequence[str], owner: str = "run") -> None:
        self.folder = folder
        self.formats = tuple(formats)
        self.scratch = folder / _SCRATCH / owner

    def __enter__(self) -> LabelFiles:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True, exist_ok=True)  # a leftover that can't be removed does no harm
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        with suppress(OSError):  # not empty while other processes are writing
            self.scratch.parent.rmdir()

    def paths(self, name: str) -> list[str]:
        """Return the paths of the label files of the image called `name`, relative to the folder."""
        return [label_path(fmt, name) for fmt in self.formats]

    def write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write each content to its relative path; each file appears whole or not at all."""
        for path, content in contents:
            with atomic_path(self.folder / path, self.scratch) as temporary:
                temporary.write_bytes(content)

    def find_existing(self, names: Iterable[str], match: Callable[[Iterable[bool]], bool] = all) -> set[str]:
        """Return the names of which all label files exist (with match=any: at least one)."""

        @lru_cache(maxsize=64)  # callers pass names folder by folder
        def listing(folder: str) -> frozenset[str]:
            try:
                return frozenset(os.listdir(self.folder / folder))
            except (FileNotFoundError, NotADirectoryError):
                return frozenset()

        def exists(path: str) -> bool:
            folder, _, file_name = path.rpartition("/")
            return file_name in listing(folder)

        return {name for name in names if match(exists(path) for path in self.paths(name))}


def label_path(fmt: str, name: str) -> str:
    """Return the path of a format's file for the image called `name`, relative to the folder of labels."""
    layout = LAYOUTS[fmt]
    return f"{layout.folder}/{name}{layout.suffix}" if layout.folder else name + layout.suffix
