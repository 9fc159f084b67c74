"""Labelled pictures for the trainer: made by worker processes ahead of time, kept on the device, drawn at random."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

# Regions in a plane that can be told apart, with 0 for none. A generated scene that has more goes without the others;
# labelled images are arranged so that none has.
MAX_REGIONS = 256


@dataclass(frozen=True)
class LabelledImage:
    """A picture and the regions that count as objects in it.

    image: (h, w, 3) uint8 RGB. planes: (K, h, w) int16; 0 is nothing, other numbers name the regions of a plane, which
    can't overlap within it.
    """

    image: np.ndarray
    planes: np.ndarray


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, for which the host doesn't wait; the memory it comes from is kept until it is done."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


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

    def add(self, image: Tensor, planes: Tensor) -> None:
        """image: (3, h, w) uint8; planes: (K, h, w) uint8, at most as many as the pool has; h, w <= size."""
        place = self.added % self.capacity
        height, width = image.shape[-2:]
        self.images[place, :, :height, :width].copy_(image, non_blocking=True)
        self.planes[place, len(planes) :].zero_()
        self.planes[place, : len(planes), :height, :width].copy_(planes, non_blocking=True)
        self.shapes[place] = (height, width)
        self.added += 1


class Feeder:
    """The pictures of a dataset, `start`, `start + 1` and so on, over and over; made ahead by `workers` processes."""

    def __init__(self, data: Dataset[LabelledImage], start: int, workers: int, ahead: int = 64) -> None:
        self._queue: queue.Queue[tuple[Tensor, Tensor] | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._loader: DataLoader[LabelledImage] = DataLoader(
            data,
            batch_size=None,
            sampler=_Endless(len(data), start),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=as_tensors,  # type: ignore[arg-type]  # without batches it gets one example
            prefetch_factor=4 if workers else None,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The next `count` pictures as image (3, h, w) and planes (K, h, w), uint8; waits for them."""
        for _ in range(count):
            yield self._checked(self._queue.get())

    def take_ready(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `take`, but only those that are ready."""
        for _ in range(most):
            try:
                yield self._checked(self._queue.get_nowait())
            except queue.Empty:
                return

    def close(self) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _run(self) -> None:
        try:
            for pair in self._loader:
                while not self._stop.is_set():
                    try:
                        self._queue.put(pair, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if self._stop.is_set():
                    return
        except BaseException as error:  # the trainer's thread raises it
            self._queue.put(error)

    @staticmethod
    def _checked(item: tuple[Tensor, Tensor] | BaseException) -> tuple[Tensor, Tensor]:
        if isinstance(item, BaseException):
            raise item
        return item


class _Endless(Sampler[int]):
    def __init__(self, length: int, start: int) -> None:
        self.length, self.start = length, start

    def __iter__(self) -> Iterator[int]:
        index = self.start
        while True:
            yield index % self.length
            index += 1


def as_tensors(example: LabelledImage) -> tuple[Tensor, Tensor]:
    """Image (3, h, w) and planes (K, h, w), uint8; tensors go from process to process without a copy."""
    planes = np.where(example.planes < MAX_REGIONS, example.planes, 0).astype(np.uint8)
    image = np.ascontiguousarray(example.image.transpose(2, 0, 1))
    return torch.from_numpy(image), torch.from_numpy(planes)
