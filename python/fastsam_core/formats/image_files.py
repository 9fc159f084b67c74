"""The images that label files belong to: found by name, measured by header."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..sources.arrays import orientation
from ..sources.decode import opened, read_image, read_size
from ..sources.paths import IMAGE_SUFFIXES, files_below


def walk(folder: str | os.PathLike[str], suffixes: frozenset[str] | set[str]) -> Iterator[str]:
    """Relative paths with forward slashes of the files below a folder that have one of the suffixes, sorted.

    Hidden files and folders are left out: they are nobody's labels or images. Links are followed, never in circles.
    NotADirectoryError where there is no such folder.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"no such folder: {os.fspath(folder)}")
    return iter(files_below(folder, suffixes))


def by_stem(folder: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Relative paths of the images below a folder by their path without suffix, sorted."""
    images: dict[str, list[str]] = {}
    for name in walk(folder, IMAGE_SUFFIXES):
        images.setdefault(os.path.splitext(name)[0], []).append(name)
    return images


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of an image file; the error for one that can't be read names it."""
    try:
        return read_size(path)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def upright_bytes(path: str | os.PathLike[str]) -> bytes:
    """An image file as it is; one that is stored turned is encoded anew, upright, as JPEG if it is one, else as PNG.

    For readers that go by the pixels as they are stored. The error for one that can't be read names it.
    """
    try:
        with open(path, "rb") as file:
            name, picture = opened(file)
            if not 2 <= orientation(picture) <= 8:
                file.seek(0)
                return file.read()
        import cv2

        return cv2.imencode(".jpg" if name == "JPEG" else ".png", read_image(path))[1].tobytes()
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
