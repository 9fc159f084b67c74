"""`Source` and the `Item`s that it yields, one per image or frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ItemKind = Literal["image", "video", "stream"]
SourceKind = Literal["image", "images", "folder", "arrays", "video", "stream", "iterator"]


@dataclass
class Item:
    """One image, or the reason why it could not be read.

    image: BGR uint8 (H, W, 3), or None if it could not be read.
    path: absolute path of a file, address of a URL or stream, `image<i>.jpg` for an image in memory.
    error: why `image` is None. It has been logged already, so callers may just skip the item.
    index, total: position of the file (array, stream) within the source, from 0, and the number of files; total is None
    if unknown. Frames of one video share their index.
    kind: what the image came from. frame: frame number within the video or stream, from 0; None for images.
    frames: number of frames that the video's header announces; None if unknown. fps: announced frames per second of the
    video or stream; None for images and if unknown.
    """

    image: NDArray[np.uint8] | None
    path: str
    error: str | None = None
    frame: int | None = None
    index: int = 0
    total: int | None = None
    kind: ItemKind = "image"
    fps: float | None = None
    frames: int | None = None

    @property
    def label(self) -> str:
        """Beginning of its line in the log, such as "image 2/7 /data/a.jpg: "; no total where it is unknown."""
        total = "" if self.total is None else f"/{self.total}"
        frames = f"/{self.frames}" if self.frames else ""
        frame = "" if self.frame is None else f" (frame {self.frame + 1}{frames})"
        return f"{self.kind} {self.index + 1}{total}{frame} {self.path}: "

    def __getitem__(self, index: int) -> list[Any]:
        # So that an item can be unpacked and assigned to `batch` as in Ultralytics: paths, images, beginnings of lines.
        return ([self.path], [self.image], [self.label])[index]


class Source:
    """An iterable of `Item`s with a kind and, if known, a length.

    kind: "image" (one image; iterating raises instead of yielding an item with an error), "images" (several, by name,
    glob, list or list file), "folder", "arrays" (images in memory), "video", "stream" or "iterator".
    path: the folder, file, glob or address that was given; None for images in memory.
    total: number of items; None if only iterating can tell (videos, streams, iterators). `len()` returns it too, or
    raises TypeError.

    Iterating again starts from the beginning, except for streams and iterators. Call `close`, or use the source as a
    context manager, if iteration may stop early; files are closed by themselves at the end of the iteration.
    """

    def __init__(
        self,
        kind: SourceKind,
        items: Callable[[], Iterator[Item]],
        *,
        path: str | None = None,
        total: int | None = None,
        estimate_total: Callable[[], int | None] | None = None,
    ) -> None:
        self.kind = kind
        self.path = path
        self.total = total
        self._items = items
        self._estimate_total = estimate_total
        self._iterators: list[Iterator[Item]] = []
        self._last_kind: ItemKind = "image"

    @property
    def mode(self) -> ItemKind:
        """Kind of the last item; before the first, "stream" or "video" if all items are of that kind, else "image"."""
        return self.kind if self.kind in ("video", "stream") else self._last_kind

    def __iter__(self) -> Iterator[Item]:
        iterator = self._items()
        self._iterators.append(iterator)
        try:
            for item in iterator:
                self._last_kind = item.kind
                yield item
        finally:
            if iterator in self._iterators:
                self._iterators.remove(iterator)

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError(f"the number of items of a {self.kind} source is not known beforehand")
        return self.total

    def __bool__(self) -> bool:
        return True

    def estimate_total(self) -> int | None:
        """Return the number of items for progress bars: `total`, or else the sum from video headers, or else None."""
        if self.total is not None:
            return self.total
        return self._estimate_total() if self._estimate_total is not None else None

    def close(self) -> None:
        """Stop running iterations: end stream readers and close files. Safe to call twice."""
        for iterator in self._iterators:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        self._iterators.clear()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
