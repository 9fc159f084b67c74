"""The manifest of a folder of labels: a record of what is done, from which an interrupted run resumes.

It is a file of JSON lines: first the settings, then one line per image, appended once its label files are in place.
Each line is normally appended by a single write. The file is flushed to disk at most once a second and at the end of a
run: after a power failure about a second of lines may be missing, and those images are labelled again, to the same
bytes. Killing the process loses nothing that was written. An incomplete last line is ignored, and removed before the
next one is written.

Each shard of a run writes its own manifest, as several machines can't append to one file; all of them are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, _locks
from .._log import logger
from .file_list import default_label_name
from .shards import UNSHARDED, Shard

FORMAT = "fastsam_core.annotate 1"
_FLUSH_INTERVAL = 1.0
_LOCK_TIMEOUT = 1.0  # seconds to wait for a lock: shards that start afresh briefly lock each other's old manifests
_REQUIRED_FIELD = {"ok": "classes", "error": "error", "video": "key"}  # the field that a line of each status must have


@dataclass
class History:
    """Content of the manifests of a folder.

    finished: keys of labelled images. videos: keys of videos that were labelled to their end. failed: reasons by key.
    class_counts: number of objects by class id and name. names: ids and names of the detector's classes, found or not.
    num_empty: number of images without objects. renamed: names of label files by key, for images whose own name another
    image had when they were labelled. digests: hashes of the pixels by key, for images that aren't files. relabelled:
    finished keys that were recorded once more.
    """

    finished: set[str] = field(default_factory=set)
    videos: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    class_counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    names: set[tuple[int, str]] = field(default_factory=set)
    num_empty: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    relabelled: set[str] = field(default_factory=set)
    _classes_by_key: dict[str, list[Any]] = field(default_factory=dict)  # classes of the images that have a digest

    def label_name(self, key: str) -> str:
        """Return the name that a finished image's label files were written under, relative and without suffix."""
        return self.renamed.get(key) or default_label_name(key)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add one line. An image counts once: later lines for a finished key are ignored and noted in `relabelled`."""
        key = line["key"]
        if line["status"] == "ok":
            self.renamed.pop(key, None)
            if "name" in line:
                self.renamed[key] = line["name"]
            if "digest" in line:
                self._add_digest(key, line["digest"], line["classes"])
        if key in self.finished:
            self.relabelled.add(key)
            return
        if line["status"] == "video":
            self.videos.add(key)
            self.failed.pop(key, None)
            return
        if line["status"] == "error":
            self.failed[key] = line["error"]
            return
        self.failed.pop(key, None)
        self.finished.add(key)
        for class_id, name, count in line["classes"]:
            self.class_counts[class_id, name] += count
        self.add_names(line)
        self.num_empty += not line["classes"]

    def add_names(self, line: Mapping[str, Any]) -> None:
        """Add the class names in a line. Each process notes those of the detector in its first line."""
        self.names.update((class_id, name) for class_id, name in line.get("names", ()))

    def _add_digest(self, key: str, digest: str, classes: list[Any]) -> None:
        """Note an image that isn't a file; if another one was recorded under its name, forget that one."""
        if self.digests.get(key, digest) != digest:
            self.finished.discard(key)
            for class_id, name, count in self._classes_by_key[key]:
                self.class_counts[class_id, name] -= count
            self.class_counts = +self.class_counts
            self.num_empty -= not self._classes_by_key[key]
        self.digests[key], self._classes_by_key[key] = digest, classes


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return the sha256 of the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def manifest_name(shard: Shard) -> str:
    """Return the name of a shard's manifest within the folder of labels."""
    return "manifest.jsonl" if shard == UNSHARDED else f"manifest-{shard.index}-of-{shard.count}.jsonl"


def is_started(folder: Path) -> bool:
    """Return whether a run has already begun in `folder`."""
    return any(path.stat().st_size for path in folder.glob("manifest*.jsonl"))


def read_history(
    folder: Path, settings: Mapping[str, Any], is_included: Callable[[str], bool] = lambda key: True
) -> History:
    """Return the content of all manifests of `folder`, limited to keys for which `is_included` returns True.

    If an image was labelled again because its files had been removed, its last line counts.
    ValueError if one of the manifests was made with other settings, or is not a manifest.
    """
    history = History()
    for line in _read_manifests(folder, settings):
        if is_included(line["key"]):
            history.add(line)
        else:
            history.add_names(line)
    if not history.relabelled:
        return history
    # Keeping each image's classes, to subtract superseded ones, would take much memory. Reading twice is rare.
    relabelled, latest = history.relabelled, dict[str, dict[str, Any]]()
    history = History()
    for line in _read_manifests(folder, settings):
        key = line["key"]
        if key in relabelled:
            # Lines of different shards may not come in the order in which they were written.
            if key not in latest or line.get("time", 0) >= latest[key].get("time", 0):
                latest[key] = line
        elif is_included(key):
            history.add(line)
        else:
            history.add_names(line)
    for line in latest.values():
        history.add(line)
    return history


def _read_manifests(folder: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the lines of all manifests, the oldest manifest first; their headers are checked."""
    for path in sorted(folder.glob("manifest*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        with open(path, "rb") as file:
            lines = _parse_lines(file, path)
            header = next(lines, None)
            if header is None:  # a run that was stopped before it wrote anything
                continue
            _check_header(path, header, settings)
            yield from lines


def _parse_lines(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    for line_number, text in enumerate(file, 1):
        if not text.endswith(b"\n"):
            return
        try:
            line = json.loads(text)
            if line_number > 1:
                _ = line["key"], line[_REQUIRED_FIELD[line["status"]]]
        except (ValueError, KeyError, TypeError):
            if line_number == 1:
                raise ValueError(
                    f"{path} is not a manifest of labels; move it away, or give another output_dir"
                ) from None
            logger.warning("%s: line %d can't be read; its image is labelled again", path, line_number)
            continue
        yield line


def _check_header(path: Path, header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    if not isinstance(header, Mapping) or header.get("manifest") != FORMAT:
        raise ValueError(f"{path} is not a manifest of this version; move it away, or give another output_dir")
    previous = header.get("settings")
    if not isinstance(previous, Mapping):
        raise ValueError(
            f"{path} is a damaged manifest: its first line has no settings; move it away, or give another output_dir"
        )
    if previous == settings:
        return
    missing = object()
    differences = [
        f"{key} was {_format_value(previous.get(key, missing), missing)} "
        f"and is {_format_value(settings.get(key, missing), missing)}"
        for key in sorted({*previous, *settings})
        if previous.get(key, missing) != settings.get(key, missing)
    ]
    raise ValueError(
        f"{path.parent} holds labels that were made with other settings: {'; '.join(differences)} (fingerprint "
        f"{fingerprint(previous)[:12]} in {path.name}, now {fingerprint(settings)[:12]}). Give another output_dir, or "
        "resume=False to label everything again"
    )


def _format_value(value: Any, missing: object) -> str:
    return "not given" if value is missing else json.dumps(value)


class Manifest:
    """The manifest that this process appends to, locked against other processes.

    ValueError if another process is writing it. resume=False starts it afresh.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], shard: Shard = UNSHARDED, resume: bool = True
    ) -> None:
        self.path = folder / manifest_name(shard)
        self._descriptor = _open_locked(self.path, os.O_CREAT)
        self._flushed = time.monotonic()
        try:
            self._size = _end_of_last_line(self._descriptor) if resume else 0
            os.ftruncate(self._descriptor, self._size)
            if self._size == 0:
                self.append(
                    {
                        "manifest": FORMAT,
                        "package": __version__,
                        "fingerprint": fingerprint(settings),
                        "settings": dict(settings),
                    }
                )
                self.flush()
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, line: Mapping[str, Any]) -> None:
        """Append a line, whole or not at all. Not thread-safe: callers must take turns."""
        data = json.dumps(line).encode() + b"\n"
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)
        if time.monotonic() - self._flushed >= _FLUSH_INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Wait until everything written is on disk."""
        os.fsync(self._descriptor)
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush, and release the manifest for other processes."""
        try:
            self.flush()
        finally:
            os.close(self._descriptor)


def remove_other_manifests(own_path: Path, settings: Mapping[str, Any], shard: Shard) -> None:
    """Remove the other manifests beside `own_path`, for a run that starts afresh.

    A shard leaves manifests with its own settings, since the other shards of its run write them; a run over all images
    leaves none. ValueError if another process is writing one that has to be removed.
    """

    def should_keep(path: Path) -> bool:
        return path == own_path or (shard != UNSHARDED and _has_settings(path, settings))

    for path in sorted(own_path.parent.glob("manifest*.jsonl")):
        if should_keep(path):
            continue
        try:
            descriptor = _open_locked(path)
        except FileNotFoundError:  # another shard has removed it
            continue
        except ValueError:
            # The process that holds it may have started it afresh in the meantime, with the settings of this run.
            if should_keep(path):
                continue
            raise
        if should_keep(path):
            os.close(descriptor)
        else:
            _locks.close_and_remove(descriptor, path)


def formats_written(folder: Path) -> frozenset[str]:
    """Return the formats of the label files that runs have written into `folder`; none if no run has."""
    formats: set[str] = set()
    for path in folder.glob("manifest*.jsonl"):
        listed = (_read_settings(path) or {}).get("formats")
        formats.update(map(str, listed if isinstance(listed, list) else ()))
    return frozenset(formats)


def _has_settings(path: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a manifest begins with these settings."""
    return _read_settings(path) == settings


def _read_settings(path: Path) -> Mapping[str, Any] | None:
    """Return the settings that a manifest begins with, or None if it can't be read or is not one of this version."""
    try:
        with open(path, "rb") as file:
            header = next(_parse_lines(file, path), None)
    except (OSError, ValueError):
        return None
    if not isinstance(header, Mapping) or header.get("manifest") != FORMAT:
        return None
    settings = header.get("settings")
    return settings if isinstance(settings, Mapping) else None


def _open_locked(path: Path, flags: int = 0) -> int:
    """Return a descriptor of a manifest, locked for this process. ValueError if another process keeps it locked."""
    while True:
        descriptor = _locks.open_file(path, os.O_APPEND | flags)
        try:
            _acquire_lock(descriptor, path)
            if _locks.is_same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _acquire_lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while not _locks.try_lock(descriptor, path):
        if time.monotonic() >= deadline:
            raise ValueError(f'another process is writing {path}; wait for it, or divide the images with shard="i/n"')
        time.sleep(0.05)


def _end_of_last_line(descriptor: int) -> int:
    """Return the number of bytes up to the end of the last complete line."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
