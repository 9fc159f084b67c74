"""Files that earlier runs wrote among the images, which are no images to label: label maps and contact sheets."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from pathlib import Path

from .file_list import FileList
from .files import LAYOUTS
from .manifest import formats_written
from .preview import PREVIEW_FILE, has_thumbnails

_MAPS = LAYOUTS["png"]


def find_earlier_output(files: FileList) -> set[str]:
    """Return the keys of the label maps and contact sheets of earlier runs, whose folders are known by a manifest."""
    root = Path(files.root)

    @cache
    def formats(folder: str) -> frozenset[str]:
        return formats_written(root / folder)

    def is_output(key: str) -> bool:
        *folders, name = key.split("/")
        if name == PREVIEW_FILE:
            folder = "/".join(folders)
            return bool(formats(folder)) and has_thumbnails(root / folder)
        if not name.endswith(_MAPS.suffix):
            return False
        paths = accumulate(folders, "{}/{}".format)
        return any(
            path.rpartition("/")[2] == _MAPS.folder and "png" in formats(path[: -len(_MAPS.folder)]) for path in paths
        )

    return {key for key in files.keys if is_output(key)}
