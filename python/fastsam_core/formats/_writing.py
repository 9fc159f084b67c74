"""What the writers of label formats share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, TypeVar

from .._files import atomic_path
from .labels import ImageLabels

Self = TypeVar("Self", bound="LabelWriter")


class LabelWriter:
    """Takes the labels of one image after the other. Close it, or use it as a context manager.

    When the body of a `with` fails, what belongs to all images (a COCO file, class names) is not written; files of
    single images that are done stay.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._last_names: Mapping[int, str] | None = None

    def write(self, labels: ImageLabels) -> int:
        """Write one image's labels; the number of objects that the format could take."""
        # Names may be shared by all images, and grow while they are read.
        if labels.names is not self._last_names or len(labels.names) != len(self.names):
            self.names.update(labels.names)
            self._last_names = labels.names
        return self._write(labels)

    def _write(self, labels: ImageLabels) -> int:
        raise NotImplementedError

    def close(self) -> None:
        """Write what belongs to all images."""

    def discard(self) -> None:
        """Leave that unwritten."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class FolderWriter(LabelWriter):
    """One file per image in `folder`, mirroring the images' relative paths: `a/b.jpg` gives `a/b<suffix>`."""

    suffix: str

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(
                f"labels go to a folder, a file per image, and {self.folder} or what it lies in is a file"
            ) from None
        # Hashes, because there may be millions of names.
        self._written: set[int] = set()

    def path_for(self, file_name: str) -> Path:
        """Where the labels of an image go. ValueError for a name that leads out of the folder."""
        return self.folder / relative_path(file_name).with_suffix(self.suffix)

    def _write(self, labels: ImageLabels) -> int:
        target = self.path_for(labels.file_name)
        # Case is ignored, since many file systems do.
        key = hash(os.fspath(target).casefold())
        if key in self._written:
            raise ValueError(
                f"{labels.file_name} and an image before it would both have their labels in {target}, since the format "
                "knows images by name without suffix; rename one of them"
            )
        content, written = self.render(labels, target)
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        self._written.add(key)
        return written

    def render(self, labels: ImageLabels, target: Path) -> tuple[bytes, int]:
        """What the image's file holds if it is `target`, and the number of objects in it."""
        raise NotImplementedError


def relative_path(file_name: str) -> PurePosixPath:
    """An image's name from a label file as a path that stays below any folder it is put to.

    Backslashes separate folders too, and the root or drive of an absolute path is dropped. ValueError for `..`, control
    characters and names without a last part.
    """
    without_drive = re.sub(r"^[A-Za-z]:(?=[\\/])", "", file_name)
    parts = [part for part in re.split(r"[\\/]+", without_drive) if part not in ("", ".")]
    if not parts or ".." in parts or re.search(r"[\x00-\x1f]", file_name):
        raise ValueError(
            f"the image name {file_name[:200]!r} can't be used: a relative path without '..' and control characters is "
            "needed"
        )
    return PurePosixPath(*parts)


def json_text(value: Any) -> str:
    """Compact JSON in ASCII, so that readers with any default encoding get it right."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def plain_number(value: float, decimals: int) -> float | int:
    """Rounded, and an int where that is whole: for JSON."""
    rounded = round(float(value), decimals)
    return int(rounded) if rounded.is_integer() else rounded
