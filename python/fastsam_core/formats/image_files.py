"""Images that label files belong to: finding them by name, and their sizes by header."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..sources.arrays import exif_orientation
from ..sources.decode import open_image, read_image, read_size
from ..sources.paths import IMAGE_SUFFIXES, find_files


def walk(folder: str | os.PathLike[str], suffixes: frozenset[str] | set[str]) -> Iterator[str]:
    """Iterate over the files below a folder that have one of the suffixes, as sorted relative paths with "/".

    Hidden files and folders are left out, as they are not labels or images. Links are followed, never in circles.
    NotADirectoryError if there is no such folder.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"no such folder: {os.fspath(folder)}")
    return iter(find_files(folder, suffixes))


def by_stem(folder: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Return the sorted relative paths of the images below a folder, grouped by their path without suffix."""
    images: dict[str, list[str]] = {}
    for name in walk(folder, IMAGE_SUFFIXES):
        images.setdefault(os.path.splitext(name)[0], []).append(name)
    return images


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of an image file, upright by EXIF. ValueError, naming the file, if it can't be read."""
    try:
        return read_size(path)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def upright_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return an image file's bytes, or those of an upright copy if EXIF says that the image is rotated.

    The copy is a JPEG if the file is one, otherwise a PNG. This is for readers that ignore EXIF orientation.
    ValueError, naming the file, if it can't be read.
    """
    try:
        with open(path, "rb") as file:
            image_format, image = open_image(file)
            if not 2 <= exif_orientation(image) <= 8:
                file.seek(0)
                return file.read()
        import cv2

        return cv2.imencode(".jpg" if image_format == "JPEG" else ".png", read_image(path))[1].tobytes()
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
