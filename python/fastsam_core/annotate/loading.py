"""Groups of images to label together, from a list of files or any other source.

Groups depend on the list alone. A run that resumes after a stop therefore encodes the same images together as an
uninterrupted one, and rounding can't differ.
"""

from __future__ import annotations

import hashlib
import os
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
from ..sources.video import video_items
from .shards import Shard
from .worklist import FileList, file_of, is_video


class Loaded(NamedTuple):
    """One image, or the reason why it could not be loaded.

    key: the image's name in the manifest. name: name of its label files, relative and without suffix. file_name: the
    image's name within label files, its relative path; for a frame, the name that a JPEG of it would have. image: BGR
    uint8 (H, W, 3), or None. error: why there is no image. digest: hash of the pixels, for images that aren't files:
    another image may come under the same name in a later run.
    """

    key: str
    name: str
    file_name: str
    image: NDArray[np.uint8] | None
    error: str = ""
    digest: str = ""


Load = Callable[[], Loaded]


def groups_of_files(
    files: FileList, shard: Shard, finished: Collection[str], batch: int, videos: list[str]
) -> Iterator[list[Load]]:
    """Yield the groups of this shard in which an image isn't finished, as functions that load one image each.

    A video is added to `videos` once its last frame has been yielded.
    """
    for keys in key_groups((key for key in files.keys if key in shard), batch):
        if all(key in finished for key in keys):
            continue
        if is_video(keys[0]):
            yield from _grouped(_frames(files, keys[0], videos), finished, batch)
        else:
            yield [partial(load_file, files, key) for key in keys]


def key_groups(keys: Iterable[str], batch: int) -> Iterator[list[str]]:
    """Yield groups of up to `batch` consecutive keys of images. Each video is a group by itself."""
    group: list[str] = []
    for key in keys:
        if group and (len(group) == batch or is_video(key) or is_video(group[-1])):
            yield group
            group = []
        group.append(key)
    if group:
        yield group


def groups_of_source(
    source: Source, shard: Shard, finished: set[str], batch: int, digests: Mapping[str, str], seen: set[str]
) -> Iterator[list[Load]]:
    """Yield groups as `groups_of_files` does, for a source whose images can only be read one after the other.

    digests: hashes of the images that were labelled before. If another image comes under such a name, the name is
    removed from `finished`. The keys of all images of the shard are added to `seen`.
    """

    def pictures() -> Iterator[Loaded]:
        for loaded in _named(source):
            if loaded.key in shard:
                seen.add(loaded.key)
                if loaded.image is not None and digests.get(loaded.key) != loaded.digest:
                    finished.discard(loaded.key)
                yield loaded

    return _grouped(pictures(), finished, batch)


def load_file(files: FileList, key: str) -> Loaded:
    """Load an image file. If that fails, log it and return the reason instead of the image."""
    name = files.name(key)
    try:
        return Loaded(key, name, key, read_image(files.path(key)))
    except (ValueError, OSError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        logger.warning("skipped %s: %s", files.path(key), reason)
        return Loaded(key, name, key, None, reason)


def finished_names(files: FileList | None, finished: Collection[str]) -> Iterator[str]:
    """Yield the names of the label files of what is finished, in an order that depends on the images' names alone."""
    if files is None:
        yield from (posixpath.splitext(key)[0] for key in sorted(finished))
        return
    frames: dict[str, list[int]] = defaultdict(list)
    for key in finished:
        video = file_of(key)
        if video != key:
            frames[video].append(int(key[len(video) + 1 :]))
    for key in files.keys:
        if is_video(key):
            yield from (f"{files.name(key)}_{frame}" for frame in sorted(frames[key]))
        elif key in finished:
            yield files.name(key)


def _frames(files: FileList, key: str, videos: list[str]) -> Iterator[Loaded]:
    name = files.name(key)
    path = files.path(key)
    try:
        for item in video_items(path, path):
            frame = f"{name}_{item.frame}"
            yield Loaded(f"{key}#{item.frame}", frame, f"{frame}.jpg", item.image)
    except (ValueError, OSError) as error:
        logger.warning("skipped %s: %s", path, error)
        yield Loaded(key, name, key, None, str(error))
    else:
        videos.append(key)


def _named(source: Source) -> Iterator[Loaded]:
    """Yield a source's images under unique names, made from the last part of their path or address."""
    taken: set[str] = set()
    for item in source:
        stem, suffix = posixpath.splitext(_base(item))
        unique, number = stem, 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{stem}-{number}"
        taken.add(unique.casefold())
        digest = "" if item.image is None else _digest(item.image)
        yield Loaded(unique + suffix, unique, unique + suffix, item.image, item.error or "", digest)


def _digest(image: NDArray[np.uint8]) -> str:
    content = hashlib.blake2b("{}x{}:".format(*image.shape[:2]).encode(), digest_size=16)
    content.update(np.ascontiguousarray(image).data)
    return content.hexdigest()


def _base(item: Item) -> str:
    base = os.path.basename(item.path.rstrip("/")).split("?")[0] or "image"
    if item.frame is None:
        return base
    stem, suffix = posixpath.splitext(base)
    return f"{stem}_{item.frame}{suffix}"


def _grouped(pictures: Iterator[Loaded], finished: Collection[str], batch: int) -> Iterator[list[Load]]:
    while group := list(islice(pictures, batch)):
        if any(one.key not in finished for one in group):
            yield [partial(_same, one) for one in group]
        group.clear()  # release these images before the next ones are decoded


def _same(loaded: Loaded) -> Loaded:
    return loaded
