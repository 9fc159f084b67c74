"""Masks that are being measured: first their numbers, by which some are chosen, then the runs of those.

On the CPU all of it is there at once. On a GPU it is on its way to the host's memory; who asks for it waits until it
has arrived, and no longer: the GPU goes on with what it was given since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .ops._masks.cuda import MeasuredMasks, PreparedAxes, split_numbers
from .ops._native_cuda import on_device_of

# Counts that a GPU gives at once, where masks of noise have up to one for each pixel: with one mask more they are still
# less than 256 MiB, as PyTorch takes pinned memory by powers of two.
_MOST_COUNTS = 60_000_000


@dataclass(frozen=True)
class MaskNumbers:
    """Of N masks: areas (N,) int64; boxes (N, 4) int64 and stability (N,) float32, see `postprocess.MaskRecord`."""

    areas: np.ndarray
    boxes: np.ndarray
    stability: np.ndarray

    @classmethod
    def of(cls, boxes: np.ndarray, sizes: np.ndarray) -> MaskNumbers:
        """From what `ops.mask_runs` gives."""
        area, inner, outer = sizes.T.copy()  # an array of their own: areas stay with a user's results
        # The reference divides int32 by int32 in float32.
        stability = inner.astype(np.float32) / np.maximum(outer, 1).astype(np.float32)
        return cls(area, boxes, stability)


class MasksOnHost:
    """The results of `ops.mask_runs`, on the CPU."""

    device = torch.device("cpu")
    on_gpu = False

    def __init__(self, counts: Tensor, offsets: Tensor, boxes: Tensor, sizes: Tensor) -> None:
        self._counts, self._offsets = counts, offsets
        self._numbers = MaskNumbers.of(boxes.numpy(), sizes.numpy())
        self._kept: np.ndarray | None = None

    def numbers(self) -> MaskNumbers:
        return self._numbers

    def in_parts(self, kept: np.ndarray) -> list[np.ndarray]:
        """Masks (K,), at least one, in as many parts as their runs have to be asked for in, or memory might not do."""
        return [kept]

    def ask(self, kept: np.ndarray | None, last: bool = True) -> None:
        """Choose the masks, by their numbers (K,) int64, whose runs are wanted; None for all.

        last: whether no others will be asked for.
        """
        self._kept = kept

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """The run lengths (R,) of the chosen masks, one after the other, and where each one's begin, (K + 1,) int64.

        They are the caller's own where a GPU gives them.
        """
        bounds, counts = self._offsets.numpy(), self._counts.numpy()
        if self._kept is None:
            return counts, bounds
        begins, ends = bounds[self._kept], bounds[self._kept + 1]
        parts = [counts[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        return np.concatenate([counts[:0], *parts]), np.concatenate([bounds[:1], np.cumsum(ends - begins)])

    def joined(self) -> tuple[Tensor, Tensor]:
        """Counts and offsets of all masks, as `ops.mask_runs` gives them; after `ask(None)`."""
        return self._counts, self._offsets


class MasksOnGpu:
    """As `MasksOnHost`. `numbers`, and after `ask` what gives runs, wait until they have arrived."""

    on_gpu = True

    def __init__(
        self, logits: Tensor, axes: PreparedAxes, threshold: float, offset: float, place: tuple[int, int, int, int]
    ) -> None:
        """See `ops._masks.cuda.MeasuredMasks`; the error of `axes` has been asked for."""
        self.device = logits.device
        self._axes = axes
        self._narrow = place[0] * place[1] < 2**31  # half as much to carry
        flat = _host_memory(8 * logits.shape[0], self.device)
        self._numbers = split_numbers(flat.numpy())
        with on_device_of(logits, axes.memory) as (cuda, stream):
            self._arrival = cuda.Arrival()
            # Kernels write the numbers, which are few, to the host's memory: a copy of them would take longer.
            self._masks: MeasuredMasks | None = MeasuredMasks(
                logits, axes, threshold, offset, place, flat, cuda, stream
            )
            self._arrival.record(stream)
        self._runs = np.zeros(0, np.int32), np.zeros(1, np.int64)

    def __del__(self) -> None:
        # Memory that a GPU still writes to is nobody else's yet.
        if "_arrival" in self.__dict__:
            self._arrival.wait()

    def numbers(self) -> MaskNumbers:
        self._arrival.wait()
        self._axes.check(int(self._axes.known[0]))
        _, boxes, sizes = self._numbers
        return MaskNumbers.of(boxes, sizes)

    def in_parts(self, kept: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum(self._numbers[0][kept])
        if ends[-1] <= _MOST_COUNTS:
            return [kept]
        return np.split(kept, np.flatnonzero(np.diff(ends // _MOST_COUNTS)) + 1)

    def ask(self, kept: np.ndarray | None, last: bool = True) -> None:
        masks, device = self._masks, self.device
        assert masks is not None
        if last:
            self._masks = None  # nobody needs the logits any more
        self._arrival.wait()
        lengths = self._numbers[0]
        if kept is None:
            kept = np.arange(len(lengths))
        k, ends = len(kept), np.cumsum(lengths[kept])
        total = int(ends[-1]) if k else 0
        # The chosen, their offsets and then their counts: one piece of memory there, and one here, for the three.
        head, words = 2 * k + 1, (total + 1) // 2 if self._narrow else total
        host = _host_memory(head + words, device)
        numbers = host.numpy()
        numbers[:k], numbers[k], numbers[k + 1 : head] = kept, 0, ends
        there = torch.empty(head + words, dtype=torch.int64, device=device)
        with on_device_of(there) as (cuda, stream):
            here, at, item = host.data_ptr(), there.data_ptr(), numbers.itemsize
            cuda.copy(at, here, item * head, stream)
            masks.write_runs(at, k, at + item * k, at + item * head, self._narrow, stream)
            cuda.copy(here + item * head, at + item * head, item * words, stream)
            self._arrival.record(stream)
        counts = numbers[head:]
        self._runs = counts.view(np.int32)[:total] if self._narrow else counts, numbers[k:head]

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        self._arrival.wait()
        return self._runs

    def joined(self) -> tuple[Tensor, Tensor]:
        counts, offsets = self.runs()
        # Copies, as they stay with a user's results: pinned memory is little, and never given back.
        return torch.from_numpy(counts).to(torch.int64, copy=True), torch.from_numpy(offsets.copy())


def _host_memory(count: int, device: torch.device) -> Tensor:
    """int64 of the host's, for copies to or from the device."""
    return torch.empty(count, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")


class Fetched:
    """A copy of a tensor in the host's memory, of a GPU's tensor under way on the current stream."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """The copy, once it is there, whatever else the GPU has to do."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return self._copy
