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
_IMAGES_PER_MESSAGE = 4


@dataclass(frozen=True)
class LabelledImage:
    """An image and its labelled regions.

    image: (h, w, 3) uint8 RGB. planes: (K, h, w) int16, the number of each pixel's region in each plane, 0 for none.
    Regions of different planes may overlap.
    """

    image: np.ndarray
    planes: np.ndarray


@dataclass(frozen=True)
class ImageBatch:
    """N labelled images in one tensor, each in the upper left corner, padded with zeros.

    data: (N, 3 + K, h, w) uint8, the colours and then the planes; K, h and w are the largest of the images'. shapes:
    height and width of each image.
    """

    data: Tensor
    shapes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.shapes)

    def slice(self, first: int, end: int) -> ImageBatch:
        return ImageBatch(self.data[first:end], self.shapes[first:end])


class ImagePool:
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

    def add(self, batch: ImageBatch) -> None:
        """Add images, of at most the pool's size and number of planes. In a full pool they replace the oldest."""
        # The copy may run asynchronously, since nothing writes to `batch` any more.
        source, num_copied = batch.data.to(self.data.device, non_blocking=True), 0
        channels, height, width = source.shape[1:]
        while num_copied < len(batch):
            position = self.added % self.capacity
            count = min(len(batch) - num_copied, self.capacity - position)
            target = self.data[position : position + count]
            target[:, :channels, :height, :width] = source[num_copied : num_copied + count]
            target[:, channels:].zero_()
            self.shapes[position : position + count] = batch.shapes[num_copied : num_copied + count]
            self.added, num_copied = self.added + count, num_copied + count


class Prefetcher:
    """Endless stream of a dataset's images from index `start` on, starting over after the last.

    workers: processes that load images in advance; 0 loads them in a thread. queue_size: approximate number of images
    in the queue. device: where the images will be copied; for a GPU they are put into pinned memory.

    Taking images raises the data set's errors, and ChildProcessError if a worker process died.
    """

    def __init__(
        self,
        data: Dataset[LabelledImage],
        start: int,
        workers: int,
        queue_size: int = 64,
        device: torch.device | None = None,
    ) -> None:
        # Receiving a message holds up the trainer's thread (GIL), so several images share one. Without workers there
        # are no messages.
        batch_size = _IMAGES_PER_MESSAGE if workers else 1
        self._queue: queue.Queue[ImageBatch | BaseException] = queue.Queue(max(1, queue_size // batch_size))
        self._remainder: ImageBatch | None = None
        self._stop = threading.Event()
        self._device = device
        self._loader: DataLoader[LabelledImage] = DataLoader(
            data,
            batch_sampler=_EndlessBatchSampler(len(data), start, batch_size),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=2 if workers else None,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, count: int) -> Iterator[ImageBatch]:
        """Yield the next `count` images, several at a time. Waits for them."""
        while count > 0:
            batch = self._next(count, wait=True)
            assert batch is not None
            count -= len(batch)
            yield batch

    def take_ready(self, max_images: int) -> Iterator[ImageBatch]:
        """Yield up to `max_images` of the next images, several at a time. Stops instead of waiting."""
        while max_images > 0 and (batch := self._next(max_images, wait=False)) is not None:
            max_images -= len(batch)
            yield batch

    def close(self) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _next(self, max_images: int, *, wait: bool) -> ImageBatch | None:
        """Return the next images, 1 to `max_images`, and keep the rest of their message; None if it would wait."""
        batch, self._remainder = self._remainder, None
        if batch is None:
            try:
                message = self._queue.get(block=wait)
            except queue.Empty:
                return None
            if isinstance(message, BaseException):
                raise message
            batch = message
        if len(batch) > max_images:
            self._remainder = batch.slice(max_images, len(batch))
        return batch.slice(0, max_images)

    def _run(self) -> None:
        try:
            for batch in self._loader:
                if self._device is not None and self._device.type == "cuda":
                    # Copy in this thread so that the trainer's doesn't wait.
                    with torch.cuda.device(self._device):
                        batch = ImageBatch(batch.data.pin_memory(), batch.shapes)
                while not self._stop.is_set():
                    try:
                        self._queue.put(batch, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if self._stop.is_set():
                    return
        except BaseException as error:  # re-raised in the trainer's thread
            # The traceback's frames hold the loader's iterator. If only the garbage collector released it, its worker
            # processes would not end by themselves, and each would be waited for, for seconds.
            traceback.clear_frames(error.__traceback__)
            self._queue.put(_plain_error(error))


def _plain_error(error: BaseException) -> BaseException:
    """Return an error that says what happened if a worker process died or had no memory left, else `error` itself."""
    reason = (str(error).splitlines() or [""])[-1]  # the text of an error in a worker begins with its traceback
    if isinstance(error, MemoryError):
        return MemoryError(f"the memory is too small for loading images; use fewer worker processes ({reason})")
    if type(error) is RuntimeError and reason.startswith("DataLoader worker"):
        return ChildProcessError(
            f"a worker process that loads images died, perhaps for lack of memory; use fewer of them ({reason})"
        )
    return error


class _EndlessBatchSampler(Sampler[list[int]]):
    def __init__(self, length: int, start: int, batch_size: int) -> None:
        self.length, self.start, self.batch_size = length, start, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start
        while True:
            yield [index % self.length for index in range(first, first + self.batch_size)]
            first += self.batch_size


def collate(examples: Sequence[LabelledImage]) -> ImageBatch:
    """Combine one or more examples in one tensor. Regions with numbers of `MAX_REGIONS` or above are dropped."""
    shapes = [(int(example.image.shape[0]), int(example.image.shape[1])) for example in examples]
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    num_planes = max(len(example.planes) for example in examples)
    data = np.zeros((len(examples), 3 + num_planes, height, width), np.uint8)
    for target, example, (image_height, image_width) in zip(data, examples, shapes, strict=True):
        target[:3, :image_height, :image_width] = example.image.transpose(2, 0, 1)
        target[3 : 3 + len(example.planes), :image_height, :image_width] = np.where(
            example.planes < MAX_REGIONS, example.planes, 0
        )
    # As tensors, because these are passed between processes without a copy.
    return ImageBatch(torch.from_numpy(data), shapes)
