"""Labelled pictures for the trainer: made by worker processes ahead of time, kept on the device, drawn at random."""

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

# Regions in a plane that can be told apart, with 0 for none. A generated scene that has more goes without the others;
# labelled images are arranged so that none has.
MAX_REGIONS = 256
MAX_PLANES = 3
# So many pictures come from a process in one message.
_TOGETHER = 4


@dataclass(frozen=True)
class LabelledImage:
    """A picture and the regions that count as objects in it.

    image: (h, w, 3) uint8 RGB. planes: (K, h, w) int16; 0 is nothing, other numbers name the regions of a plane, which
    can't overlap within it.
    """

    image: np.ndarray
    planes: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """N pictures in one tensor, each in the upper left, zeros around it.

    data: (N, 3 + K, h, w) uint8, the colours and then the planes; K, h and w are those of the largest. shapes: height
    and width of each.
    """

    data: Tensor
    shapes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.shapes)

    def part(self, first: int, end: int) -> Pictures:
        return Pictures(self.data[first:end], self.shapes[first:end])


class Pool:
    """The latest `capacity` labelled pictures, in the upper left of squares of `size` pixels."""

    def __init__(self, capacity: int, size: int, planes: int, device: torch.device) -> None:
        self.capacity, self.size = capacity, size
        # Three colours, then the planes: one tensor, so that a picture is one copy.
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
        """Pictures of at most the pool's size and number of planes, one after the other; the oldest make room."""
        staged, done = pictures.data.to(self.data.device, non_blocking=True), 0  # nobody writes to pictures
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
    """The pictures of a dataset, `start`, `start + 1` and so on, over and over; made ahead by `workers` processes.

    ahead: about so many wait to be taken. device: where they will go; what is for a GPU lies in memory that it reads.
    """

    def __init__(
        self,
        data: Dataset[LabelledImage],
        start: int,
        workers: int,
        ahead: int = 64,
        device: torch.device | None = None,
    ) -> None:
        # Each message takes the interpreter from the trainer's thread for a while; without processes there is none.
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
        """The next `count` pictures, several at a time; waits for them."""
        while count > 0:
            pictures = self._next(count, wait=True)
            assert pictures is not None
            count -= len(pictures)
            yield pictures

    def take_ready(self, most: int) -> Iterator[Pictures]:
        """As `take`, but only those that are ready."""
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
        """At most so many of the pictures that came together; None where there would be something to wait for."""
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
                    # Copied here, not in the trainer's thread, which need not wait for it.
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
        except BaseException as error:  # the trainer's thread raises it
            # Its frames hold the loader's processes: let go only when the garbage is collected, these end no more by
            # themselves, and are waited for, seconds each.
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
    """Examples, at least one, in one tensor. A region whose number is `MAX_REGIONS` or above is left out."""
    shapes = [(int(example.image.shape[0]), int(example.image.shape[1])) for example in examples]
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    levels = max(len(example.planes) for example in examples)
    data = np.zeros((len(examples), 3 + levels, height, width), np.uint8)
    for place, example, (tall, wide) in zip(data, examples, shapes, strict=True):
        place[:3, :tall, :wide] = example.image.transpose(2, 0, 1)
        place[3 : 3 + len(example.planes), :tall, :wide] = np.where(example.planes < MAX_REGIONS, example.planes, 0)
    # Tensors go from process to process without a copy.
    return Pictures(torch.from_numpy(data), shapes)
