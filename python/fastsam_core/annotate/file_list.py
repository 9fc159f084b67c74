"""The list of files to label: a key for each, the same on every machine, and the name of its label files."""

from __future__ import annotations

import glob
import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..sources.paths import (
    IMAGE_SUFFIXES,
    LIST_SUFFIXES,
    VIDEO_SUFFIXES,
    Entry,
    file_entry,
    find_files,
    glob_entries,
    list_entries,
    suffix_of,
    text_entries,
)


@dataclass
class FileList:
    """Image and video files below one folder.

    root: the folder. keys: paths of the files relative to it, with `/`, sorted. renamed: for keys whose own name is
    taken by another file, the name of the label files, relative and without suffix.
    """

    root: str
    keys: list[str]
    renamed: dict[str, str] = field(default_factory=dict)

    def label_name(self, key: str) -> str:
        """Return the relative path of the label files of `key`, without suffix; for a video, without `_<frame>` too."""
        return self.renamed.get(key) or posixpath.splitext(key)[0]

    def path(self, key: str) -> str:
        """Return the path of the file of `key`."""
        return os.path.join(self.root, *key.split("/"))


def list_files(data: Any, output: str | os.PathLike[str] | None = None) -> FileList | None:
    """Return the files that `data` stands for, or None if it is not a file, folder, pattern or list of files.

    A folder is searched with its sub-folders; hidden files and folders are left out. Files in `output` are left out of
    a folder or pattern. FileNotFoundError if there is no image or video.
    """
    files = _list_folder(data, output) or _list_given_files(data, output)
    if files is not None:
        files.renamed = find_renames(files.keys)
    return files


def is_video(key: str) -> bool:
    """Return whether the file has frames instead of one image, judged by its suffix."""
    return suffix_of(key) in VIDEO_SUFFIXES


def file_key(key: str) -> str:
    """Return the file that a manifest key belongs to: for a frame, `<video>#<number>`, the video."""
    video, _, frame = key.rpartition("#")
    return video if frame.isdecimal() and is_video(video) else key


def default_label_name(key: str) -> str:
    """Return the name of an image's or frame's label files, provided that no other image has the same one."""
    file = file_key(key)
    stem = posixpath.splitext(file)[0]
    return stem if file == key else f"{stem}_{key[len(file) + 1 :]}"


def find_renames(keys: Sequence[str]) -> dict[str, str]:
    """Return new names for keys whose stem another key has: of `a.jpg` and `a.png`, the second becomes `a-2`.

    Which key keeps its name depends on the whole list alone. Case is ignored, since many file systems ignore it. The
    label files of a video are called `<name>_<frame>`.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        folders[posixpath.dirname(key).casefold()].append(key)
    renamed: dict[str, str] = {}
    for members in folders.values():
        taken = _rename_images([key for key in members if not is_video(key)], renamed)
        _rename_videos([key for key in members if is_video(key)], renamed, taken)
    return renamed


def _rename_images(keys: Sequence[str], renamed: dict[str, str]) -> set[str]:
    """Add new names to `renamed` where they are needed, and return all names in lower case."""
    taken: set[str] = set()
    duplicates: list[str] = []
    for key in keys:
        stem = posixpath.splitext(key)[0].casefold()
        # Every image with a unique name keeps it; only then do the others get new names.
        if stem in taken:
            duplicates.append(key)
        taken.add(stem)
    for key in duplicates:
        renamed[key] = _unused_name(posixpath.splitext(key)[0], taken.__contains__)
        taken.add(renamed[key].casefold())
    return taken


def _rename_videos(keys: Sequence[str], renamed: dict[str, str], image_names: set[str]) -> None:
    # Names of videos whose frames could have the name of an image.
    taken = {stem for stem, _, number in (name.rpartition("_") for name in image_names) if number.isdecimal()}
    for key in keys:
        stem = posixpath.splitext(key)[0]
        name = _unused_name(stem, taken.__contains__, first_number=1)
        taken.add(name.casefold())
        if name != stem:
            renamed[key] = name


def _unused_name(stem: str, is_taken: Callable[[str], bool], first_number: int = 2) -> str:
    number = first_number
    while is_taken((name := stem if number == 1 else f"{stem}-{number}").casefold()):
        number += 1
    return name


def _list_folder(data: Any, output: str | os.PathLike[str] | None) -> FileList | None:
    path = os.path.expanduser(os.fsdecode(data)) if isinstance(data, (str, os.PathLike)) else ""
    if not path or not os.path.isdir(path):
        return None
    root = os.path.abspath(path)
    keys = find_files(root, IMAGE_SUFFIXES | VIDEO_SUFFIXES, output)
    if not keys:
        raise FileNotFoundError(
            f"no image or video in the folder {root} or below it; suffixes looked for: "
            f"{' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}"
        )
    return FileList(root, keys)


def _list_given_files(data: Any, output: str | os.PathLike[str] | None) -> FileList | None:
    """Return files that are given one by one, by a pattern, or in a list file; None for anything else."""
    if isinstance(data, (list, tuple)):
        if not data or not all(isinstance(element, (str, os.PathLike)) for element in data):
            return None
        texts = [os.fsdecode(element) for element in data]
        paths = [os.path.expanduser(text) for text in texts]
        if not all(os.path.lexists(path) and not os.path.isdir(path) for path in paths):
            return None
        return _from_entries([entry for text in texts for entry in text_entries(text)], None)
    if not isinstance(data, (str, os.PathLike)):
        return None
    path = os.path.expanduser(os.fsdecode(data))
    if os.path.isfile(path) and suffix_of(path) in LIST_SUFFIXES:
        return _from_entries(list_entries(path), os.path.dirname(os.path.abspath(path)))
    if os.path.isfile(path) and suffix_of(path) != ".streams":
        return _from_entries([file_entry(path)], None)
    if not os.path.lexists(path) and glob.has_magic(path) and "://" not in path:
        # Keys are relative to the part before the first wildcard, so that they don't depend on what else matches.
        base = path
        while glob.has_magic(base):
            base = os.path.dirname(base)
        entries = glob_entries(path)
        if output is not None:
            output_prefix = os.path.join(os.path.abspath(output), "")
            entries = [entry for entry in entries if not entry.location.startswith(output_prefix)] or entries
        return _from_entries(entries, os.path.abspath(base))
    return None


def _from_entries(entries: list[Entry], base: str | None) -> FileList | None:
    if any(entry.kind.endswith("url") for entry in entries):
        return None
    paths = [entry.location for entry in entries]
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # on Windows only
        drives = sorted({os.path.splitdrive(path)[0].upper() for path in paths})
        raise ValueError(
            f"files on the drives {' and '.join(drives)} have no folder in common; label the files of each drive in a "
            "run of their own"
        ) from None
    with suppress(ValueError):  # a list on another drive than its files
        if base is not None and os.path.commonpath([base, root]) == base:
            root = base
    return FileList(root, sorted({os.path.relpath(path, root).replace(os.sep, "/") for path in paths}))
