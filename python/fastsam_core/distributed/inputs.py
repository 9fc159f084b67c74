"""Inputs of a cluster: folders, parquet files and webdatasets as Ray datasets, and their rows as batches of images."""

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

from .._log import hide_passwords
from ..annotate.file_list import FileList, find_renames, list_files
from ..annotate.loading import ImageLoader, LoadedImage, batched_keys, batches_of_files
from ..annotate.rows import load_row
from ..annotate.shards import UNSHARDED, stable_hash
from ..formats._writing import safe_relative_path
from ..sources.paths import IMAGE_SUFFIXES, find_files

KINDS = ("folder", "parquet", "webdataset")
_IMAGE_EXTENSIONS = tuple(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))

Columns = Mapping[str, Sequence[Any]]


def expand_home(data: Any) -> Any:
    """Return `data` with `~` replaced in a path, or in each path of a list."""
    if isinstance(data, (list, tuple)):
        return type(data)(map(expand_home, data))
    return os.path.expanduser(os.fspath(data)) if isinstance(data, (str, os.PathLike)) else data


def infer_kind(data: Any) -> str:
    """Return which of `KINDS` `data` is, by its name and, for a folder, by the files in it."""
    first_source = data[0] if isinstance(data, (list, tuple)) and data else data
    name = os.fspath(first_source).lower() if isinstance(first_source, (str, os.PathLike)) else ""
    if name.endswith((".tar", ".parquet")):
        return "webdataset" if name.endswith(".tar") else "parquet"
    if name and os.path.isdir(name := os.fspath(first_source)):
        for suffix, kind in ((".parquet", "parquet"), (".tar", "webdataset")):
            if any(entry.endswith(suffix) for entry in os.listdir(name)):
                return kind
    return "folder"


@dataclass
class FolderInput:
    """Image files that every node can read. A row is a batch of up to `batch_size` images, encoded together."""

    files: FileList
    batch_size: int
    images_per_task: int

    @classmethod
    def open(cls, data: Any, output: Any, batch_size: int, images_per_task: int) -> FolderInput:
        """List the files. ValueError if `data` is not a folder, pattern or list of files."""
        files = list_files(data, output)
        if files is None:
            given = hide_passwords(repr(data))
            raise ValueError(f"data must be a folder, a pattern or a list of image files, not {given}"[:300])
        return cls(files, batch_size, images_per_task)

    def dataset(self, ray: Any, done: Collection[str]) -> Any:
        """Return a dataset of the batches in which an image isn't done, or None if all are done."""
        import pyarrow

        batches = [
            keys for keys in batched_keys(self.files.keys, self.batch_size) if any(key not in done for key in keys)
        ]
        tables = []
        batches_per_table = max(1, self.images_per_task // self.batch_size)
        for start in range(0, len(batches), batches_per_table):  # an actor processes one table at a time
            chunk = batches[start : start + batches_per_table]
            columns = {
                # File names are stored as bytes: they may not be valid text.
                "keys": [[os.fsencode(key) for key in keys] for keys in chunk],
                "names": [[os.fsencode(self.files.label_name(key)) for key in keys] for keys in chunk],
                "done": [[key in done for key in keys] for keys in chunk],
            }
            tables.append(pyarrow.table(columns))
        return ray.data.from_arrow(tables) if tables else None

    def reader(self, done: Collection[str]) -> FolderReader:
        """Return the object that turns rows into images in the workers."""
        return FolderReader(self.files.root)


@dataclass
class FolderReader:
    """The reader of `FolderInput` in the workers, which turns its rows into images."""

    root: str
    done: set[str] = field(default_factory=set)

    def first_name(self, columns: Columns) -> str:
        """Return the name of the first image."""
        return os.fsdecode(columns["keys"][0][0])

    def batches(self, columns: Columns, batch_size: int, videos: list[str]) -> Iterator[list[ImageLoader]]:
        """Yield batches of functions that load one image each; keys that are done already are added to `self.done`."""
        for keys, names, done in zip(columns["keys"], columns["names"], columns["done"], strict=True):
            decoded_keys = [os.fsdecode(key) for key in keys]
            renamed = dict(zip(decoded_keys, map(os.fsdecode, names), strict=True))
            self.done.update(key for key, is_done in zip(decoded_keys, done, strict=True) if is_done)
            files = FileList(self.root, decoded_keys, renamed)
            yield from batches_of_files(files, UNSHARDED, (), batch_size, videos)


@dataclass
class ParquetInput:
    """Encoded images in parquet files. path_column: their names. image_column: their bytes, or a struct of them."""

    data: Any
    path_column: str
    image_column: str
    files: FileList

    @classmethod
    def open(cls, ray: Any, data: Any, path_column: str, image_column: str) -> ParquetInput:
        """Read the names alone. ValueError for missing columns, and for invalid or duplicate names."""
        dataset = ray.data.read_parquet(data)
        available = dataset.schema().names
        missing = [column for column in (path_column, image_column) if column not in available]
        if missing:
            raise ValueError(
                f"no column {' and '.join(missing)}; columns: {', '.join(available)}. "
                "Set path_column= and image_column="
            )
        keys = sorted(
            str(safe_relative_path(str(name)))
            for rows in ray.data.read_parquet(data, columns=[path_column]).iter_batches(batch_size=None)
            for name in rows[path_column]
        )
        duplicate = next((first for first, second in pairwise(keys) if first == second), None)
        if duplicate is not None:
            raise ValueError(f"{duplicate} occurs twice in the column {path_column}; each image needs a unique name")
        return cls(data, path_column, image_column, FileList("", keys, find_renames(keys)))

    def dataset(self, ray: Any, done: Collection[str]) -> Any:
        """Return all rows, or None if all are done; workers skip what is done before they decode it."""
        if all(key in done for key in self.files.keys):
            return None
        return ray.data.read_parquet(self.data, columns=[self.path_column, self.image_column])

    def reader(self, done: Collection[str]) -> EncodedImageReader:
        """Return the object that turns rows into images in the workers."""
        return EncodedImageReader(
            "parquet", self.path_column, self.image_column, self.files.renamed, sorted_hashes(done)
        )


@dataclass
class WebDatasetInput:
    """Tar files of samples in the webdataset format; the first image of each sample is used."""

    data: Any
    files: None = None

    @classmethod
    def open(cls, data: Any) -> WebDatasetInput:
        """Check the names of the tar files, which name the images. ValueError if two are equal, in any folders."""
        sources = data if isinstance(data, (list, tuple)) else [data]
        tars = [
            path
            for source in map(str, sources)
            for path in (
                [f"{source}/{file_name}" for file_name in find_files(source, {".tar"})]
                if os.path.isdir(source)
                else [source]
            )
        ]
        path_of_stem: dict[str, str] = {}
        for path in tars:
            stem = _tar_stem(path).casefold()
            if stem in path_of_stem:
                raise ValueError(
                    f"{path_of_stem[stem]} and {path} would give their images the same names; rename one of them"
                )
            path_of_stem[stem] = path
        return cls(data)

    def dataset(self, ray: Any, done: Collection[str]) -> Any:
        """Return all samples; workers skip what is done."""
        return ray.data.read_webdataset(self.data, decoder=None, suffixes=is_image_suffix)

    def reader(self, done: Collection[str]) -> EncodedImageReader:
        """Return the object that turns rows into images in the workers."""
        return EncodedImageReader("webdataset", "__key__", "", {}, sorted_hashes(done))


@dataclass
class EncodedImageReader:
    """The reader of encoded images in the workers. done_hashes: sorted hashes of the keys that are done."""

    kind: str
    path_column: str
    image_column: str
    renamed: dict[str, str]
    done_hashes: NDArray[np.uint64]
    done: set[str] = field(default_factory=set)

    def first_name(self, columns: Columns) -> str:
        """Return the name of the first image, for a webdataset the tar file and the sample in it."""
        name = str(columns[self.path_column][0])
        return f"{columns['__url__'][0]}/{name}" if self.kind == "webdataset" else name

    def batches(self, columns: Columns, batch_size: int, videos: list[str]) -> Iterator[list[ImageLoader]]:
        """Yield batches of functions that load one image each, leaving out what is done already."""
        batch: list[ImageLoader] = []
        for row in range(len(columns[self.path_column])):
            key_and_content = self._key_and_content(columns, row)
            if key_and_content is None or self._is_done(key_and_content[0]):
                continue
            batch.append(partial(self._load, *key_and_content))
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _key_and_content(self, columns: Columns, row: int) -> tuple[str, Any] | None:
        if self.kind == "parquet":
            return str(safe_relative_path(str(columns[self.path_column][row]))), columns[self.image_column][row]
        for column in sorted(filter(is_image_suffix, columns), key=lambda name: (name.count("."), name)):
            content = columns[column][row]
            if isinstance(content, bytes):
                tar_stem = _tar_stem(str(columns["__url__"][row]))
                return str(safe_relative_path(f"{tar_stem}/{columns['__key__'][row]}.{column}")), content
        return None

    def _is_done(self, key: str) -> bool:
        key_hash = np.uint64(stable_hash(key))
        index = int(np.searchsorted(self.done_hashes, key_hash))
        return index < len(self.done_hashes) and self.done_hashes[index] == key_hash

    def _load(self, key: str, content: Any) -> LoadedImage:
        encoded = content.get("bytes") if isinstance(content, Mapping) else content
        if encoded is None:  # `load_row` would look for a file of this name on the node
            return LoadedImage(key, key, key, None, f"there is no image in the column {self.image_column}")
        loaded = load_row(key, key, encoded)
        return loaded._replace(label_name=self.renamed.get(key, loaded.label_name))


def is_image_suffix(suffix: str) -> bool:
    """Return whether files of a webdataset with this suffix, all that follows a name's first dot, are images."""
    return suffix.rpartition(".")[2].lower() in _IMAGE_EXTENSIONS


def _tar_stem(address: str) -> str:
    """Return the tar file's name without suffix, by which its images are named."""
    return posixpath.splitext(posixpath.basename(address))[0]


def sorted_hashes(keys: Collection[str]) -> NDArray[np.uint64]:
    """Return the keys as sorted 64-bit hashes, which take 8 bytes each instead of about a hundred."""
    return np.sort(np.fromiter((stable_hash(key) for key in keys), np.uint64, len(keys)))
