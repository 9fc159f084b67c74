"""Labelled images for the trainer: prefetched by worker processes and pooled on the device."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

# Number of values in a plane, including 0 for no region. Regions of a generated scene with higher numbers are dropped;
# labelled images are arranged so that there are none.
MAX_REGIONS = 256
MAX_PLANES = 3
# Number of images per message from a worker process.
_TOGETHER = 4


@dataclass(frozen=True)
class LabelledImage:
    """An image and its labelled regions.

    image: (h, w, 3) uint8 RGB. planes: (K, h, w) int16, the number of each pixel's region in each plane, 0 for none.
    Regions of different planes may overlap.
    """

    image: np.ndarray
    planes: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """N labelled images in one tensor, each in the upper left corner, padded with zeros.

    data: (N, 3 + K, h, w) uint8, the colours and then the planes; K, h and w are the largest of the images'. shapes:
    height and width of each image.
    """

    data: Tensor
    shapes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.shapes)

    def part(self, first: int, end: int) -> Pictures:
        return Pictures(self.data[first:end], self.shapes[first:end])


class Pool:
    """The latest `capacity` labelled images, each in the upper left corner of a square of `size` pixels."""

    def __init__(self, capacity: int, size: int, planes: int, device: torch.device) -> None:
        self.capacity, self.size = capacity, size
        # Colours and planes share a tensor, so that adding an image takes one copy.
        self.data = torch.zeros(capacity, 3 + planes, size, size, dtype=torch.uint8, device=device)
        self.shapes = [(0, 0)] * capacity
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def images(self) -> Tensor:  # (capacity, 3, size, size) uint8
        return self.data[:, :3]

    @property
    def planes(self) -> Tensor:  # (capacity, planes, size, size) uint8
        return self.data[:, 3:]

    def add(self, pictures: Pictures) -> None:
        """Add images, of at most the pool's size and number of planes. In a full pool they replace the oldest."""
        # The copy may run asynchronously, since nothing writes to `pictures` any more.
        staged, done = pictures.data.to(self.data.device, non_blocking=True), 0
        channels, height, width = staged.shape[1:]
        while done < len(pictures):
            place = self.added % self.capacity
            count = min(len(pictures) - done, self.capacity - place)
            kept = self.data[place : place + count]
            kept[:, :channels, :height, :width] = staged[done : done + count]
            kept[:, channels:].zero_()
            self.shapes[place : place + count] = pictures.shapes[done : done + count]
            self.added, done = self.added + count, done + count


class Feeder:
    """Endless stream of a dataset's images from index `start` on, starting over after the last.

    workers: processes that load images in advance; 0 loads them in a thread. ahead: approximate number of images in
    the queue. device: where the images will be copied; for a GPU they are put into pinned memory.
    """

    def __init__(
        self,
        data: Dataset[LabelledImage],
        start: int,
        workers: int,
        ahead: int = 64,
        device: torch.device | None = None,
    ) -> None:
        # Receiving a message holds up the trainer's thread (GIL), so several images share one. Without workers there
        # are no messages.
        together = _TOGETHER if workers else 1
        self._queue: queue.Queue[Pictures | BaseException] = queue.Queue(max(1, ahead // together))
        self._rest: Pictures | None = None
        self._stop = threading.Event()
        self._device = device
        self._loader: DataLoader[LabelledImage] = DataLoader(
            data,
            batch_sampler=_Endless(len(data), start, together),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=together_of,
            prefetch_factor=2 if workers else None,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, count: int) -> Iterator[Pictures]:
        """Yield the next `count` images, several at a time. Waits for them."""
        while count > 0:
            pictures = self._next(count, wait=True)
            assert pictures is not None
            count -= len(pictures)
            yield pictures

    def take_ready(self, most: int) -> Iterator[Pictures]:
        """Yield up to `most` of the next images, several at a time. Stops instead of waiting."""
        while most > 0 and (pictures := self._next(most, wait=False)) is not None:
            most -= len(pictures)
            yield pictures

    def close(self) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _next(self, most: int, *, wait: bool) -> Pictures | None:
        """Return the next images, one to `most`, and keep the rest of their message. None if it would have to wait."""
        pictures, self._rest = self._rest, None
        if pictures is None:
            try:
                item = self._queue.get(block=wait)
            except queue.Empty:
                return None
            if isinstance(item, BaseException):
                raise item
            pictures = item
        if len(pictures) > most:
            self._rest = pictures.part(most, len(pictures))
        return pictures.part(0, most)

    def _run(self) -> None:
        try:
            for pictures in self._loader:
                if self._device is not None and self._device.type == "cuda":
                    # Copy in this thread so that the trainer's doesn't wait.
                    with torch.cuda.device(self._device):
                        pictures = Pictures(pictures.data.pin_memory(), pictures.shapes)
                while not self._stop.is_set():
                    try:
                        self._queue.put(pictures, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if self._stop.is_set():
                    return
        except BaseException as error:  # re-raised in the trainer's thread
            # The traceback's frames hold the loader's iterator. If only the garbage collector released it, its worker
            # processes would not end by themselves, and each would be waited for, for seconds.
            traceback.clear_frames(error.__traceback__)
            self._queue.put(error)


class _Endless(Sampler[list[int]]):
    def __init__(self, length: int, start: int, together: int) -> None:
        self.length, self.start, self.together = length, start, together

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start
        while True:
            yield [index % self.length for index in range(first, first + self.together)]
            first += self.together


def together_of(examples: Sequence[LabelledImage]) -> Pictures:
    """Combine one or more examples in one tensor. Regions with numbers of `MAX_REGIONS` or above are dropped."""
    shapes = [(int(example.image.shape[0]), int(example.image.shape[1])) for example in examples]
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    levels = max(len(example.planes) for example in examples)
    data = np.zeros((len(examples), 3 + levels, height, width), np.uint8)
    for place, example, (tall, wide) in zip(data, examples, shapes, strict=True):
        place[:3, :tall, :wide] = example.image.transpose(2, 0, 1)
        place[3 : 3 + len(example.planes), :tall, :wide] = np.where(example.planes < MAX_REGIONS, example.planes, 0)
    # As tensors, because these are passed between processes without a copy.
    return Pictures(torch.from_numpy(data), shapes)
