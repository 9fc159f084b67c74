"""Resolve strings and paths to files and URLs: folders, glob patterns, list files, addresses."""

from __future__ import annotations

import csv
import difflib
import glob
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from .._log import hide_passwords

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
)
VIDEO_SUFFIXES = frozenset(
    (".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv", ".webm")
)
LIST_SUFFIXES = frozenset((".txt", ".csv"))
STREAM_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "tcp://", "udp://")
_MAX_PATH_LENGTH = 4096  # Linux's limit; other systems have lower ones
_MAX_COMPARED_NAMES = 10_000  # names in a folder that are compared with a misspelt one; a million would take a minute
# Values of a CSV file's first cell that mark a header row.
_CSV_HEADERS = frozenset(
    ("path", "paths", "file", "files", "filename", "file_name", "image", "images", "image_path", "url")
)


@dataclass(frozen=True)
class Entry:
    """One file or URL that yields one or more items. `location` is its absolute path or its URL."""

    kind: Literal["image", "video", "image_url", "video_url"]
    location: str

    def exists(self) -> bool:
        return self.kind.endswith("url") or os.path.lexists(self.location)


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def suffix_of(text: str) -> str:
    """Return the lower-case suffix of a path, or of the path part of a URL; "" for a malformed URL."""
    if is_url(text):
        try:
            text = urlsplit(text).path
        except ValueError:  # reported when the URL is opened
            return ""
    return Path(text).suffix.lower()


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that puts `img2` before `img10`. Different strings have different keys."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p.casefold()) for p in parts], text


def file_entry(path: str) -> Entry:
    return Entry("video" if suffix_of(path) in VIDEO_SUFFIXES else "image", os.path.abspath(path))


def url_entry(url: str) -> Entry:
    return Entry("video_url" if suffix_of(url) in VIDEO_SUFFIXES else "image_url", url)


def folder_entries(folder: str) -> list[Entry]:
    """Return the images, then the videos of a folder, in natural order.

    Sub-folders and hidden files are skipped. Raises FileNotFoundError if there is no image or video.
    """
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    entries = _media_entries(os.path.join(folder, name) for name in names)
    if not entries:
        raise FileNotFoundError(
            f"no image or video in the folder {folder} ({len(names)} other entries; suffixes looked for: "
            f"{' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}). For its sub-folders too, pass "
            f"{os.path.join(glob.escape(folder), '**', '*')!r}"
        )
    return entries


def find_files(
    root: str | os.PathLike[str], suffixes: Collection[str], excluded: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return the sorted paths, relative to `root` with `/`, of all files below it that have one of the suffixes.

    Hidden files and folders, the folder `excluded` and `lost+found`, which only root can read, are left out. Symbolic
    links are followed, except in cycles.
    """
    excluded_id = _folder_id(excluded) if excluded is not None and os.path.isdir(excluded) else None
    files: list[str] = []

    def visit(folder: str, prefix: str, ancestors: frozenset[tuple[int, int]]) -> None:
        identity = _folder_id(folder)
        if identity in ancestors or (prefix and identity == excluded_id):
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "lost+found":
                    continue
                if _is_folder(entry):
                    visit(entry.path, f"{prefix}{entry.name}/", ancestors | {identity})
                elif os.path.splitext(entry.name)[1].lower() in suffixes:
                    files.append(prefix + entry.name)

    visit(os.fspath(root), "", frozenset())
    return sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link to itself
        return False


def _folder_id(folder: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def glob_entries(pattern: str) -> list[Entry]:
    """Return the images, then the videos that match a pattern with `*`, `?`, `[...]` or a recursive `**`.

    Raises FileNotFoundError if there is none.
    """
    matches = glob.glob(pattern, recursive=True)
    entries = _media_entries(matches)
    if not entries:
        what = f"{len(matches)} entries match, but none is an image or video" if matches else "nothing matches"
        raise FileNotFoundError(f"{what}: {pattern} (looked up from {os.getcwd()})")
    return entries


def list_entries(path: str) -> list[Entry]:
    """Return the entries of a list file: one path, URL, folder or pattern per line (.txt) or first column (.csv).

    Relative paths are looked up from the list file's folder, then from the current folder. A missing file or a folder
    without images is kept as an entry, so that iterating reports it. Raises FileNotFoundError if all files are missing,
    ValueError if the list can't be parsed, isn't UTF-8 text, or names a stream or another list file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list of files: it is not UTF-8 text ({error})") from error
    if suffix_of(path) == ".csv":
        try:
            lines = [row[0].strip() for row in csv.reader(text.splitlines()) if row]
        except csv.Error as error:
            raise ValueError(f"{path} is not a list of files: {error}") from error
        if lines and lines[0].lower() in _CSV_HEADERS:
            lines = lines[1:]
    else:
        lines = [line.strip() for line in text.splitlines()]
    base = os.path.dirname(os.path.abspath(path))
    entries = [entry for line in lines if line for entry in _line_entries(line, base, path)]
    if not entries:
        raise FileNotFoundError(f"the list file {path} names no file")
    if not any(entry.exists() for entry in entries):
        raise FileNotFoundError(
            f"none of the {len(entries)} files that {path} names exists, the first being {entries[0].location}; paths "
            f"are taken relative to the list file, then to {os.getcwd()}"
        )
    return entries


def text_entries(text: str) -> list[Entry]:
    """Return the entries of one string in a list of sources. A missing file becomes an entry, to be reported later."""
    if is_url(text):
        return [url_entry(text)]
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return folder_entries(path)
    if not os.path.lexists(path) and glob.has_magic(path):
        return glob_entries(path)
    if suffix_of(path) in LIST_SUFFIXES and os.path.isfile(path):
        return list_entries(path)
    return [file_entry(path)]


def last_part(path: str) -> str:
    """Return the last part of a path, or of an address without password and query; empty if there is none."""
    if "://" in path:
        path = re.split("[?#]", re.sub("(?<=://)[^/]*@", "", path))[0]
    return os.path.basename(path.rstrip("/"))


def missing_file_error(path: str) -> FileNotFoundError:
    """Return the error for a path that doesn't exist. Its message says where it was looked for and suggests names."""
    if len(path) > _MAX_PATH_LENGTH or path.startswith("data:"):
        return FileNotFoundError(
            f"no such file: {path[:30]!r}..., of {len(path):,} characters; for an image in base64 pass the bytes, "
            "base64.b64decode(text), and for a data: URL those of the part after the comma"
        )
    absolute = Path(os.path.abspath(path))
    if os.path.isdir(absolute.parent):
        names: list[str] = []
        with suppress(OSError):  # a folder may be searched by name without being listed
            names = sorted(os.listdir(absolute.parent))[:_MAX_COMPARED_NAMES]
        similar = difflib.get_close_matches(absolute.name, names, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
    else:
        nearest = next((folder for folder in absolute.parents if os.path.isdir(folder)), None)
        hint = f"; the folder {absolute.parent} does not exist" + (f", but {nearest} does" if nearest else "")
    return FileNotFoundError(f"no such file or folder: {path} (looked for {absolute}){hint}")


def _line_entries(line: str, base: str, list_file: str) -> list[Entry]:
    if is_url(line):
        return [url_entry(line)]
    if line.lower().startswith(STREAM_SCHEMES):
        raise ValueError(f"{list_file} names a stream, {hide_passwords(line)}: streams are listed in a *.streams file")
    line = os.path.expanduser(line)
    path = next((candidate for candidate in (os.path.join(base, line), line) if os.path.lexists(candidate)), None)
    if path is None and glob.has_magic(line):
        pattern = os.path.join(glob.escape(base), line)
        matches = _media_entries(glob.glob(pattern, recursive=True)) or _media_entries(glob.glob(line, recursive=True))
        if matches:
            return matches
    if path is None:
        return [file_entry(os.path.join(base, line))]
    if os.path.isdir(path):
        try:
            return folder_entries(path)
        except FileNotFoundError:
            return [file_entry(path)]  # a folder without images is reported later, not fatal
    if suffix_of(path) in LIST_SUFFIXES:
        raise ValueError(f"{list_file} names {line}: list files can't be nested")
    return [file_entry(path)]


def _media_entries(paths: Iterable[str]) -> list[Entry]:
    files = sorted((path for path in paths if not os.path.isdir(path)), key=natural_key)
    images = [file_entry(path) for path in files if suffix_of(path) in IMAGE_SUFFIXES]
    return images + [file_entry(path) for path in files if suffix_of(path) in VIDEO_SUFFIXES]
