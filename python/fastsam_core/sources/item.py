"""What every source gives: a stream of items, one per picture or frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ItemKind = Literal["image", "video", "stream"]
SourceKind = Literal["image", "images", "folder", "arrays", "video", "stream", "iterator"]


@dataclass
class Item:
    """One picture, or the reason why there is none.

    image: BGR uint8 (H, W, 3), or None when `error` says what is wrong with it (already logged; skip it and go on).
    path: absolute path of a file, the address of a URL or stream, `image<i>.jpg` for pictures in memory.
    index, total: position of the file (array, stream) within the source, from 0, and their number; total is None when
    it is not known. Frames of one video share their index.
    kind: what the picture came from; frame: number of the frame within its video or stream, from 0, None for
    pictures; frames: how many frames the video's header announces, None where it says nothing; fps: frames per second
    of the video or stream as announced, None for pictures.
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


class Source:
    """An iterable of `Item`s that knows what it is and, where possible, how many there are.

    kind: "image" (one picture; iterating raises instead of giving an item with an error), "images" (several by name,
    glob, list or list file), "folder", "arrays" (pictures in memory), "video", "stream", "iterator".
    path: the folder, file, glob or address that was given, None for pictures in memory.
    total: the number of items, None where only iterating can tell (videos, streams, iterators); `len()` gives it too,
    or raises TypeError. expected(): the number of items as far as headers tell, for progress bars.

    Iterating again starts from the beginning, except for streams and iterators. Close it, or use it as a context
    manager, when it may be left before its end; iteration that ends closes its files itself.
    """

    def __init__(
        self,
        kind: SourceKind,
        items: Callable[[], Iterator[Item]],
        *,
        path: str | None = None,
        total: int | None = None,
        expected: Callable[[], int | None] | None = None,
    ) -> None:
        self.kind = kind
        self.path = path
        self.total = total
        self._items = items
        self._expected = expected
        self._running: list[Iterator[Item]] = []

    def __iter__(self) -> Iterator[Item]:
        running = self._items()
        self._running.append(running)
        try:
            yield from running
        finally:
            if running in self._running:
                self._running.remove(running)

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError(f"the number of items of a {self.kind} source is not known beforehand")
        return self.total

    def __bool__(self) -> bool:
        return True

    def expected(self) -> int | None:
        """Number of items: exact where `total` is, else what the videos' headers say, else None."""
        if self.total is not None:
            return self.total
        return self._expected() if self._expected is not None else None

    def close(self) -> None:
        """Stop readers and close files. Safe to call twice."""
        for running in self._running:
            close = getattr(running, "close", None)
            if close is not None:
                close()
        self._running.clear()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
