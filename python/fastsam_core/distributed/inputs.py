"""Inputs of a cluster: folders, parquet files and webdatasets as Ray datasets, and their rows as groups of images."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..annotate.loading import Load, Loaded, groups_of_files, key_groups
from ..annotate.rows import load_row
from ..annotate.shards import WHOLE, stable_hash
from ..annotate.worklist import FileList, label_names, list_files
from ..formats._writing import relative_path
from ..sources.paths import IMAGE_SUFFIXES, find_files

KINDS = ("folder", "parquet", "webdataset")
_IMAGE_EXTENSIONS = tuple(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))

Batch = Mapping[str, Sequence[Any]]


def kind_of(data: Any) -> str:
    """Return which of `KINDS` `data` is, by its name and, for a folder, by the files in it."""
    first = data[0] if isinstance(data, (list, tuple)) and data else data
    name = os.fspath(first).lower() if isinstance(first, (str, os.PathLike)) else ""
    if name.endswith((".tar", ".parquet")):
        return "webdataset" if name.endswith(".tar") else "parquet"
    if name and os.path.isdir(name := os.fspath(first)):
        for suffix, kind in ((".parquet", "parquet"), (".tar", "webdataset")):
            if any(entry.endswith(suffix) for entry in os.listdir(name)):
                return kind
    return "folder"


@dataclass
class FolderInput:
    """Image files that every node can read. A row is a group of up to `batch` images, which are encoded together."""

    files: FileList
    batch: int
    images_per_task: int

    @classmethod
    def open(cls, data: Any, output: Any, batch: int, images_per_task: int) -> FolderInput:
        """List the files. ValueError if `data` is not a folder, pattern or list of files."""
        files = list_files(data, output)
        if files is None:
            raise ValueError(f"data must be a folder, a pattern or a list of image files, not {data!r}"[:300])
        return cls(files, batch, images_per_task)

    def dataset(self, ray: Any, done: Collection[str]) -> Any:
        """Return a dataset of the groups in which an image isn't done, or None if all are done."""
        import pyarrow

        rows = [keys for keys in key_groups(self.files.keys, self.batch) if any(key not in done for key in keys)]
        tables = []
        step = max(1, self.images_per_task // self.batch)
        for first in range(0, len(rows), step):  # an actor processes one table at a time
            part = rows[first : first + step]
            columns = {
                # File names are stored as bytes: they may not be valid text.
                "keys": [[os.fsencode(key) for key in keys] for keys in part],
                "names": [[os.fsencode(self.files.name(key)) for key in keys] for keys in part],
                "done": [[key in done for key in keys] for keys in part],
            }
            tables.append(pyarrow.table(columns))
        return ray.data.from_arrow(tables) if tables else None

    def reader(self, done: Collection[str]) -> FolderRows:
        """Return the object that turns rows into images in the workers."""
        return FolderRows(self.files.root)


@dataclass
class FolderRows:
    """The reader of `FolderInput` in the workers, which turns its rows into images."""

    root: str
    done: set[str] = field(default_factory=set)

    def first(self, rows: Batch) -> str:
        """Return the name of the first image."""
        return os.fsdecode(rows["keys"][0][0])

    def groups(self, rows: Batch, batch: int, videos: list[str]) -> Iterator[list[Load]]:
        """Yield groups of functions that load one image each; keys that are done already are added to `self.done`."""
        for keys, names, done in zip(rows["keys"], rows["names"], rows["done"], strict=True):
            texts = [os.fsdecode(key) for key in keys]
            renamed = dict(zip(texts, map(os.fsdecode, names), strict=True))
            self.done.update(key for key, is_done in zip(texts, done, strict=True) if is_done)
            files = FileList(self.root, texts, renamed)
            yield from groups_of_files(files, WHOLE, (), batch, videos)


@dataclass
class ParquetInput:
    """Encoded images in parquet files. path: column of their names. image: column of their bytes, or of a struct."""

    data: Any
    path: str
    image: str
    files: FileList

    @classmethod
    def open(cls, ray: Any, data: Any, path: str, image: str) -> ParquetInput:
        """Read the names alone. ValueError for missing columns, and for invalid or duplicate names."""
        read = ray.data.read_parquet(data)
        known = read.schema().names
        missing = [column for column in (path, image) if column not in known]
        if missing:
            raise ValueError(
                f"no column {' and '.join(missing)}; columns: {', '.join(known)}. Set path_column= and image_column="
            )
        keys = sorted(
            str(relative_path(str(name)))
            for rows in ray.data.read_parquet(data, columns=[path]).iter_batches(batch_size=None)
            for name in rows[path]
        )
        twice = next((first for first, second in pairwise(keys) if first == second), None)
        if twice is not None:
            raise ValueError(f"{twice} occurs twice in the column {path}; each image needs a unique name")
        return cls(data, path, image, FileList("", keys, label_names(keys)))

    def dataset(self, ray: Any, done: Collection[str]) -> Any:
        """Return all rows, or None if all are done; workers skip what is done before they decode it."""
        if all(key in done for key in self.files.keys):
            return None
        return ray.data.read_parquet(self.data, columns=[self.path, self.image])

    def reader(self, done: Collection[str]) -> EncodedRows:
        """Return the object that turns rows into images in the workers."""
        return EncodedRows("parquet", self.path, self.image, self.files.renamed, hashes(done))


@dataclass
class WebInput:
    """Tar files of samples in the webdataset format; the first image of each sample is used."""

    data: Any
    files: None = None

    @classmethod
    def open(cls, data: Any) -> WebInput:
        """Check the names of the tar files, which name the images. ValueError if two are equal, in any folders."""
        given = data if isinstance(data, (list, tuple)) else [data]
        tars = [
            path
            for one in map(str, given)
            for path in ([f"{one}/{name}" for name in find_files(one, {".tar"})] if os.path.isdir(one) else [one])
        ]
        first: dict[str, str] = {}
        for path in tars:
            name = _tar_name(path).casefold()
            if name in first:
                raise ValueError(f"{first[name]} and {path} would give their images the same names; rename one of them")
            first[name] = path
        return cls(data)

    def dataset(self, ray: Any, done: Collection[str]) -> Any:
        """Return all samples; workers skip what is done."""
        return ray.data.read_webdataset(self.data, decoder=None, suffixes=is_image)

    def reader(self, done: Collection[str]) -> EncodedRows:
        """Return the object that turns rows into images in the workers."""
        return EncodedRows("webdataset", "__key__", "", {}, hashes(done))


@dataclass
class EncodedRows:
    """The reader of encoded images in the workers. passed: sorted hashes of the keys that are done."""

    kind: str
    path: str
    image: str
    renamed: dict[str, str]
    passed: NDArray[np.uint64]
    done: set[str] = field(default_factory=set)

    def first(self, rows: Batch) -> str:
        """Return the name of the first image."""
        return str(rows[self.path][0])

    def groups(self, rows: Batch, batch: int, videos: list[str]) -> Iterator[list[Load]]:
        """Yield groups of functions that load one image each, leaving out what is done already."""
        group: list[Load] = []
        for row in range(len(rows[self.path])):
            found = self._row(rows, row)
            if found is None or self._is_done(found[0]):
                continue
            group.append(partial(self._load, *found))
            if len(group) == batch:
                yield group
                group = []
        if group:
            yield group

    def _row(self, rows: Batch, row: int) -> tuple[str, Any] | None:
        if self.kind == "parquet":
            return str(relative_path(str(rows[self.path][row]))), rows[self.image][row]
        for column in sorted(filter(is_image, rows), key=lambda name: (name.count("."), name)):
            content = rows[column][row]
            if isinstance(content, bytes):
                shard = _tar_name(str(rows["__url__"][row]))
                return str(relative_path(f"{shard}/{rows['__key__'][row]}.{column}")), content
        return None

    def _is_done(self, key: str) -> bool:
        wanted = np.uint64(stable_hash(key))
        place = int(np.searchsorted(self.passed, wanted))
        return place < len(self.passed) and self.passed[place] == wanted

    def _load(self, key: str, content: Any) -> Loaded:
        loaded = load_row(key, key, content)
        return loaded._replace(name=self.renamed.get(key, loaded.name))


def is_image(suffix: str) -> bool:
    """Return whether files of a webdataset with this suffix, all that follows a name's first dot, are images."""
    return suffix.rpartition(".")[2].lower() in _IMAGE_EXTENSIONS


def _tar_name(address: str) -> str:
    """Return the tar file's name without suffix, by which its images are named."""
    return posixpath.splitext(posixpath.basename(address))[0]


def hashes(keys: Collection[str]) -> NDArray[np.uint64]:
    """Return the keys as sorted 64-bit hashes, which take 8 bytes each instead of about a hundred."""
    return np.sort(np.fromiter((stable_hash(key) for key in keys), np.uint64, len(keys)))
