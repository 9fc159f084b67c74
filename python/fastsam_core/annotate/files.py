"""Where the label files of an image lie, whether they are there, and writing them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .._files import atomic_path


class Place(NamedTuple):
    """Where a format's files lie: `<folder>/<image's relative path without suffix><suffix>`."""

    folder: str
    suffix: str


# Of the COCO file's parts, hidden, one per image: they are put together at the end.
PLACES = {
    "yolo": Place("", ".txt"),
    "coco": Place(".coco", ".part"),
    "sa1b": Place("sa1b", ".json"),
    "labelme": Place("labelme", ".json"),
    "png": Place("png", ".png"),
}
_SCRATCH = ".partial"


class LabelFiles:
    """The files of some formats within a folder.

    owner: names the folder for unfinished files of the one process that writes, which it clears when it begins: a
    process that was killed leaves nothing behind for good. Use it as a context manager for writing.
    """

    def __init__(self, folder: Path, formats: Sequence[str], owner: str = "run") -> None:
        self.folder = folder
        self.formats = tuple(formats)
        self.scratch = folder / _SCRATCH / owner

    def __enter__(self) -> LabelFiles:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        with suppress(OSError):  # others are still writing
            self.scratch.parent.rmdir()

    def paths(self, name: str) -> list[str]:
        """The files of the image that is called `name`, relative to the folder."""
        return [path_of(form, name) for form in self.formats]

    def write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write files, by their relative paths, each whole or not at all."""
        for path, content in contents:
            with atomic_path(self.folder / path, self.scratch) as temporary:
                temporary.write_bytes(content)

    def present(self, names: Iterable[str], match: Callable[[Iterable[bool]], bool] = all) -> set[str]:
        """Those names of which all files are there (with match=any: at least one)."""

        @lru_cache(maxsize=64)  # names come folder by folder
        def listing(folder: str) -> frozenset[str]:
            try:
                return frozenset(os.listdir(self.folder / folder))
            except (FileNotFoundError, NotADirectoryError):
                return frozenset()

        def is_there(path: str) -> bool:
            folder, _, last = path.rpartition("/")
            return last in listing(folder)

        return {name for name in names if match(is_there(path) for path in self.paths(name))}


def path_of(form: str, name: str) -> str:
    """The file of a format for the image that is called `name`, relative to the folder of labels."""
    place = PLACES[form]
    return f"{place.folder}/{name}{place.suffix}" if place.folder else name + place.suffix
