"""From a list of files, or any other source, to groups of images that are labelled together.

Groups follow from the list alone: a run that goes on after a stop encodes the same images together as one without a
stop would have, and rounding can't differ.
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
    """One image, or the reason why there is none.

    key: what the manifest calls it. name: its label files, relative and without suffix. file_name: what label files
    call the image: its relative path; a frame is called like a picture of it. image: BGR uint8 (H, W, 3). digest: of
    the pixels, where no file tells them from others of that name.
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
    """Groups in which something isn't finished, as functions that load their images.

    A video whose last frame has been given is added to `videos`.
    """
    for keys in key_groups((key for key in files.keys if key in shard), batch):
        if all(key in finished for key in keys):
            continue
        if is_video(keys[0]):
            yield from _grouped(_frames(files, keys[0], videos), finished, batch)
        else:
            yield [partial(load_file, files, key) for key in keys]


def key_groups(keys: Iterable[str], batch: int) -> Iterator[list[str]]:
    """Keys of images, up to `batch` together and none past a video, and each video by itself."""
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
    """The same for pictures that can only be had one after the other, whose keys are added to `seen`.

    digests: of the pictures that were labelled. Another one under the name of one of them is taken out of `finished`.
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
    """One image file."""
    name = files.name(key)
    try:
        return Loaded(key, name, key, read_image(files.path(key)))
    except (ValueError, OSError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        logger.warning("skipped %s: %s", files.path(key), reason)
        return Loaded(key, name, key, None, reason)


def finished_names(files: FileList | None, finished: Collection[str]) -> Iterator[str]:
    """Names of the label files of what is finished, in an order that depends on the images' names alone."""
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
    """A source's pictures under names of their own, by the last part of their path or address."""
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
        group.clear()  # before the next ones are decoded


def _same(loaded: Loaded) -> Loaded:
    return loaded
