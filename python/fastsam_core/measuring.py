"""Masks that are being measured: first their numbers, by which some are chosen, then the runs of those.

On the CPU all of it is there at once. On a GPU it is on its way to the host's memory; who asks for it waits until it
has arrived, and no longer: the GPU goes on with what it was given since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .models.common import to_device
from .ops._masks.cuda import MeasuredMasks, split_numbers


@dataclass(frozen=True)
class MaskNumbers:
    """Of N masks: areas (N,) int64; boxes (N, 4) int64 and stability (N,) float32, see `postprocess.MaskRecord`."""

    areas: np.ndarray
    boxes: np.ndarray
    stability: np.ndarray

    @classmethod
    def of(cls, boxes: np.ndarray, sizes: np.ndarray) -> MaskNumbers:
        """From what `ops.mask_runs` gives."""
        area, inner, outer = sizes.T
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

    def ask(self, kept: np.ndarray | None) -> None:
        """Choose the masks, by their numbers (K,) int64, whose runs are wanted; None for all."""
        self._kept = kept

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """The run lengths (R,) of the chosen masks, one after the other, and where each one's begin, (K + 1,) int64."""
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

    def __init__(self, masks: MeasuredMasks, pixels: int) -> None:
        """pixels: of the picture that the runs are in."""
        self.device = masks.flat.device
        self._masks: MeasuredMasks | None = masks
        self._numbers = Fetched(masks.flat)
        self._dtype = torch.int32 if pixels < 2**31 else torch.int64  # half as much to carry
        self._counts: Fetched | None = None
        self._offsets = torch.empty(0, dtype=torch.int64, device="cpu")

    def numbers(self) -> MaskNumbers:
        assert self._masks is not None
        error, _, boxes, sizes = self._fetched()
        self._masks.check(int(error[0]))
        return MaskNumbers.of(boxes, sizes)

    def ask(self, kept: np.ndarray | None) -> None:
        masks, self._masks = self._masks, None  # after this, nobody needs the logits
        assert masks is not None
        _, lengths, _, _ = self._fetched()
        if kept is None:
            kept = np.arange(len(lengths))
        k = len(kept)
        both = np.zeros(2 * k + 1, np.int64)  # the chosen, and then their offsets; carried at once
        both[:k] = kept
        np.cumsum(lengths[kept], out=both[k + 1 :])
        self._offsets = torch.from_numpy(both[k:])
        there = to_device(torch.from_numpy(both), self.device)
        self._counts = Fetched(masks.write_runs(there[:k], there[k:], int(both[-1]), self._dtype))

    def _fetched(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The arrays of `Numbers`."""
        return split_numbers(self._numbers.wait().numpy())

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        return self._run_lengths().numpy(), self._offsets.numpy()

    def joined(self) -> tuple[Tensor, Tensor]:
        return self._run_lengths().to(torch.int64), self._offsets

    def _run_lengths(self) -> Tensor:
        assert self._counts is not None
        return self._counts.wait()


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
