"""Data set files of Ultralytics (data.yaml): which images belong to a split, and where their YOLO labels are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from . import _yaml, yolo_folder
from ._reading import read_text

SUFFIXES = (".yaml", ".yml")
# Keys of each split, the usual one first.
_KEYS = {name: (name, "validation", "valid") if name == "val" else (name,) for name in _yaml.SPLITS}


def read_split(
    path: Path, split: str, on_error: Callable[[str, Exception], None]
) -> tuple[Path, list[tuple[str, Path | None]]]:
    """Return a folder, and the split's images relative to it, each with its label file, or None if it has none.

    The entry `train`, `val` or `test` is a folder of images, a text file that lists images, or a list of these. They
    are relative to the entry `path`, which is relative to the file, or else to the current folder; without it they are
    relative to the file. Labels are where `labels` takes the place of the last `images` in the path, or else beside
    the images.

    on_error: called with the path and the error of each label file in these folders that belongs to no image. Raises
    ValueError if the file has no such entry or can't be read, and FileNotFoundError for a path that doesn't exist.
    """
    lines = read_text(path).split("\n")
    root = _root(path, _texts(path, lines, "path"))
    splits = {
        name: next((texts for key in keys if (texts := _texts(path, lines, key))), []) for name, keys in _KEYS.items()
    }
    if not splits[split]:
        present = ", ".join(name for name, texts in splits.items() if texts) or "none"
        raise ValueError(f"{path} has no entry {split!r} that names images; splits that it has: {present}")
    images: dict[str, Path | None] = {}
    for text in splits[split]:
        for image, label in _images_of(_locate(path, root, text), on_error):
            name = os.path.relpath(image, root) if _is_below(image, root) else os.path.abspath(image)
            images[Path(name).as_posix()] = label
    return root, sorted(images.items())


def _texts(path: Path, lines: list[str], key: str) -> list[str]:
    """Return the text or texts of an entry of the file at `path`; none if there is no such entry."""
    try:
        value = _yaml.read_entry(lines, key)
    except ValueError as error:
        raise ValueError(f"{path}: {key} can't be read ({error}); write one `- path` a line below it") from None
    if isinstance(value, dict):
        raise ValueError(f"{path}: {key} is a mapping; a path, or a list of paths, is needed")
    return [value] if isinstance(value, str) else value


def _root(path: Path, given: list[str]) -> Path:
    if not given:
        return path.parent
    root = Path(os.path.expanduser(given[0]))
    candidates = (path.parent / root, root)
    found = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"{path}: its path is {given[0]}, and there is no such folder")
    return found


def _locate(path: Path, root: Path, text: str) -> Path:
    # Roboflow writes ../train/images for a folder train beside the file.
    for candidate in (root / text, root / text.removeprefix("../")):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{path}: there is no {root / text}")


def _images_of(source: Path, on_error: Callable[[str, Exception], None]) -> Iterator[tuple[Path, Path | None]]:
    """Yield the images in a folder or in a list of images, with their label files."""
    if source.is_dir():
        labels = yolo_folder.sibling_folder(source, "images", "labels")
        folders = (labels, source) if labels else yolo_folder.find_folders(source, None)
        for name, label in yolo_folder.pair_files(*folders, on_error):
            yield folders[1] / name, label
        return
    for line in read_text(source).split("\n"):
        if line.strip():
            image = source.parent / line.strip()  # an absolute path stays as it is
            yield image, _label_of(image)


def _label_of(image: Path) -> Path | None:
    parts = image.parts
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    folder = Path(*parts[: places[-1]], "labels", *parts[places[-1] + 1 : -1]) if places else image.parent
    label = folder / f"{image.stem}.txt"
    return label if label.is_file() else None


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
