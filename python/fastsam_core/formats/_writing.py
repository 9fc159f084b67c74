"""Base classes and helpers of the writers of label formats."""

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

# Control characters and lone surrogates, except U+DC80 to U+DCFF, which stand for the bytes of names that aren't UTF-8.
_FORBIDDEN = re.compile(r"[\x00-\x1f\ud800-\udc7f\udd00-\udfff]")


class LabelWriter:
    """A writer of labels, one image after the other. Close it, or use it as a context manager.

    If the body of a `with` fails, files that cover all images (a COCO file, class names) are not written; files of
    single images that are done stay.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._last_names: Mapping[int, str] | None = None

    def write(self, labels: ImageLabels) -> int:
        """Write one image's labels and return the number of objects written; the format may not hold all of them."""
        # All images may share one `names`, which may gain entries while a set is read.
        if labels.names is not self._last_names or len(labels.names) != len(self.names):
            self.names.update(labels.names)
            self._last_names = labels.names
        return self._write(labels)

    def _write(self, labels: ImageLabels) -> int:
        raise NotImplementedError

    def close(self) -> None:
        """Write the files that cover all images."""

    def discard(self) -> None:
        """Finish without writing the files that cover all images."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.discard()


class FolderWriter(LabelWriter):
    """A writer of one file per image in `folder`, at the image's relative path: `a/b.jpg` gives `a/b<suffix>`."""

    suffix: str

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(
                f"labels are written to a folder, a file per image, but {self.folder} or a folder above it is a file"
            ) from None
        # Hashes of the paths written, which take less memory than millions of names.
        self._written: set[int] = set()

    def path_for(self, file_name: str) -> Path:
        """Return the path of an image's label file. ValueError for a name that leads out of the folder."""
        return self.folder / safe_relative_path(file_name).with_suffix(self.suffix)

    def _write(self, labels: ImageLabels) -> int:
        target = self.path_for(labels.file_name)
        # Case is ignored, since many file systems ignore it.
        key = hash(os.fspath(target).casefold())
        if key in self._written:
            raise ValueError(
                f"{labels.file_name} and an earlier image would both have their labels in {target}, since the format "
                "identifies images by name without suffix; rename one of them"
            )
        content, num_objects = self.render(labels, target)
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        self._written.add(key)
        return num_objects

    def render(self, labels: ImageLabels, target: Path) -> tuple[bytes, int]:
        """Return the content of the image's label file if it lies at `target`, and the number of objects in it."""
        raise NotImplementedError


def safe_relative_path(file_name: str) -> PurePosixPath:
    """Convert an image's name from a label file to a relative path that stays below any folder it is joined to.

    Backslashes separate folders too, the root or drive of an absolute path is dropped, and `..` cancels the folder
    before it. ValueError for names that lead out of their first folder or have no last part, for control characters,
    for lone surrogates, and on Windows for parts that begin with a drive.
    """
    without_drive = re.sub(r"^[A-Za-z]:(?=[\\/])", "", file_name)
    parts: list[str] = []
    for part in re.split(r"[\\/]+", without_drive):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    # On Windows, joining a path with a part such as "C:a.jpg" leads to another drive.
    has_drive = any(os.path.splitdrive(part)[0] for part in parts)
    if not parts or ".." in parts or has_drive or _FORBIDDEN.search(file_name):
        raise ValueError(
            f"the image name {file_name[:200]!r} can't be used: a relative path without '..', control characters, "
            "broken characters and drives within it is needed"
        )
    return PurePosixPath(*parts)


def json_text(value: Any) -> str:
    """Return compact JSON in ASCII, which readers decode correctly whatever their default encoding is."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def round_for_json(value: float, decimals: int) -> float | int:
    """Round a number for JSON; the result is an int if it is integral."""
    rounded = round(float(value), decimals)
    return int(rounded) if rounded.is_integer() else rounded
