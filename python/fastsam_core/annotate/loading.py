"""Batches of images to label together, from a list of files or any other source.

Batches depend on the list alone. A run that resumes after a stop therefore encodes the same images together as an
uninterrupted one, and rounding can't differ.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._log import logger
from ..sources.decode import read_image
from ..sources.item import Item, Source
from ..sources.paths import last_part
from ..sources.video import video_items
from .file_list import FileList, file_key, is_video
from .shards import Shard


class LoadedImage(NamedTuple):
    """One image, or the reason why it could not be loaded.

    key: the image's name in the manifest. label_name: name of its label files, relative and without suffix. file_name:
    the image's name within label files, its relative path; for a frame, the name that a JPEG of it would have. image:
    BGR uint8 (H, W, 3), or None. error: why there is no image. digest: hash of the pixels, for images that aren't
    files: another image may come under the same name in a later run.
    """

    key: str
    label_name: str
    file_name: str
    image: NDArray[np.uint8] | None
    error: str = ""
    digest: str = ""


ImageLoader = Callable[[], LoadedImage]


def batches_of_files(
    files: FileList, shard: Shard, finished: Collection[str], batch_size: int, videos: list[str]
) -> Iterator[list[ImageLoader]]:
    """Yield the batches of this shard in which an image isn't finished, as functions that load one image each.

    A video is added to `videos` once its last frame has been yielded.
    """
    for keys in batched_keys((key for key in files.keys if key in shard), batch_size):
        if all(key in finished for key in keys):
            continue
        if is_video(keys[0]):
            yield from _batched(_load_frames(files, keys[0], videos), finished, batch_size)
        else:
            yield [partial(load_file, files, key) for key in keys]


def batched_keys(keys: Iterable[str], batch_size: int) -> Iterator[list[str]]:
    """Yield batches of up to `batch_size` consecutive keys of images. Each video is a batch by itself."""
    batch: list[str] = []
    for key in keys:
        if batch and (len(batch) == batch_size or is_video(key) or is_video(batch[-1])):
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def batches_of_source(
    source: Source, shard: Shard, finished: set[str], batch_size: int, digests: Mapping[str, str], seen_keys: set[str]
) -> Iterator[list[ImageLoader]]:
    """Yield batches as `batches_of_files` does, for a source whose images can only be read one after the other.

    digests: hashes of the images that were labelled before. If another image comes under such a name, the name is
    removed from `finished`. The keys of all images of the shard are added to `seen_keys`.
    """

    def images() -> Iterator[LoadedImage]:
        for loaded in _with_unique_names(source):
            if loaded.key in shard:
                seen_keys.add(loaded.key)
                if loaded.image is not None and digests.get(loaded.key) != loaded.digest:
                    finished.discard(loaded.key)
                yield loaded

    return _batched(images(), finished, batch_size)


def load_file(files: FileList, key: str) -> LoadedImage:
    """Load an image file. If that fails, log it and return the reason instead of the image."""
    label_name = files.label_name(key)
    try:
        return LoadedImage(key, label_name, key, read_image(files.path(key)))
    except (ValueError, OSError, MemoryError) as error:
        return _skipped(key, label_name, files.path(key), error)


def finished_label_names(files: FileList | None, finished: Collection[str]) -> Iterator[str]:
    """Yield the names of the label files of what is finished, in an order that depends on the images' names alone."""
    if files is None:
        yield from (posixpath.splitext(key)[0] for key in sorted(finished))
        return
    frames: dict[str, list[int]] = defaultdict(list)
    for key in finished:
        video = file_key(key)
        if video != key:
            frames[video].append(int(key[len(video) + 1 :]))
    for key in files.keys:
        if is_video(key):
            yield from (f"{files.label_name(key)}_{frame}" for frame in sorted(frames[key]))
        elif key in finished:
            yield files.label_name(key)


def _load_frames(files: FileList, key: str, videos: list[str]) -> Iterator[LoadedImage]:
    label_name = files.label_name(key)
    path = files.path(key)
    try:
        for item in video_items(path, path):
            frame_name = f"{label_name}_{item.frame}"
            yield LoadedImage(f"{key}#{item.frame}", frame_name, f"{frame_name}.jpg", item.image)
    except (ValueError, OSError, MemoryError) as error:
        yield _skipped(key, label_name, path, error)
    else:
        videos.append(key)


def _skipped(key: str, label_name: str, path: str, error: Exception) -> LoadedImage:
    reason = str(error) or type(error).__name__
    logger.warning("skipped %s: %s", path, reason)
    return LoadedImage(key, label_name, key, None, reason)


def _with_unique_names(source: Source) -> Iterator[LoadedImage]:
    """Yield a source's images under unique names, made from the last part of their path or address."""
    taken: set[str] = set()
    counters: dict[str, int] = {}  # highest number so far of each name, from which the search for a free one goes on
    for item in source:
        stem, suffix = posixpath.splitext(_file_name(item))
        unique, counter = stem, counters.get(stem.casefold(), 1)
        while unique.casefold() in taken:
            counter += 1
            unique = f"{stem}-{counter}"
        taken.add(unique.casefold())
        if counter > 1:
            counters[stem.casefold()] = counter
        digest = "" if item.image is None else _digest(item.image)
        yield LoadedImage(unique + suffix, unique, unique + suffix, item.image, item.error or "", digest)


def _digest(image: NDArray[np.uint8]) -> str:
    content = hashlib.blake2b("{}x{}:".format(*image.shape[:2]).encode(), digest_size=16)
    content.update(np.ascontiguousarray(image).data)
    return content.hexdigest()


def _file_name(item: Item) -> str:
    name = last_part(item.path) or "image"
    if item.frame is None:
        return name
    stem, suffix = posixpath.splitext(name)
    return f"{stem}_{item.frame}{suffix}"


def _batched(images: Iterator[LoadedImage], finished: Collection[str], batch_size: int) -> Iterator[list[ImageLoader]]:
    while batch := list(islice(images, batch_size)):
        if any(loaded.key not in finished for loaded in batch):
            yield [partial(_return, loaded) for loaded in batch]
        batch.clear()  # release these images before the next ones are decoded


def _return(loaded: LoadedImage) -> LoadedImage:
    return loaded
