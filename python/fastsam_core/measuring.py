"""Two-step measurement of masks: first areas, boxes and stability, then the run lengths of the masks that are chosen.

On the CPU all results are available at once. On a GPU they are copied to the host asynchronously. Reading them waits
until they have arrived, but not for work that was queued on the GPU later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .ops._masks.cuda import MeasuredMasks, ResamplingAxes, split_measurements
from .ops._native_cuda import on_device_of

# Run lengths to fetch from a GPU at once; noisy masks have up to one per pixel. Chosen so that one mask more still fits
# 256 MiB: PyTorch rounds pinned allocations up to a power of two.
_MAX_COUNTS_PER_REQUEST = 60_000_000


@dataclass(frozen=True)
class MaskMeasurements:
    """Measurements of N masks.

    areas: (N,) int64, set pixels. boxes: (N, 4) int64 and stability: (N,) float32, as in `postprocess.MaskRecord`.
    """

    areas: np.ndarray
    boxes: np.ndarray
    stability: np.ndarray

    @classmethod
    def from_boxes_and_sizes(cls, boxes: np.ndarray, sizes: np.ndarray) -> MaskMeasurements:
        """Create them from the boxes (N, 4) and sizes (N, 3) that `ops.mask_runs` returns."""
        area, inner, outer = sizes.T.copy()  # areas outlive the measurement in a user's results
        # In float32, as the reference divides int32 tensors.
        stability = inner.astype(np.float32) / np.maximum(outer, 1).astype(np.float32)
        return cls(area, boxes, stability)


class CpuMaskResults:
    """Results of `ops.mask_runs` on the CPU, behind the same interface as `GpuMaskResults`."""

    device = torch.device("cpu")
    is_cuda = False

    def __init__(self, counts: Tensor, offsets: Tensor, boxes: Tensor, sizes: Tensor) -> None:
        self._counts, self._offsets = counts, offsets
        self._measurements = MaskMeasurements.from_boxes_and_sizes(boxes.numpy(), sizes.numpy())
        self._requested: np.ndarray | None = None

    def measurements(self) -> MaskMeasurements:
        """Return areas, boxes and stability of all masks."""
        return self._measurements

    def split_indices(self, indices: np.ndarray) -> list[np.ndarray]:
        """Split mask indices (K,), K >= 1, into parts whose run lengths should be requested one part at a time."""
        return [indices]

    def request_runs(self, indices: np.ndarray | None, is_last: bool = True) -> None:
        """Request the run lengths of the masks with these indices, (K,) int64; None for all.

        is_last: whether this is the last request, so that the logits can be freed.
        """
        self._requested = indices

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the run lengths (R,) of the requested masks, concatenated, and their offsets (K + 1,) int64.

        From a GPU the arrays belong to the caller; on the CPU they may share memory with this object.
        """
        bounds, counts = self._offsets.numpy(), self._counts.numpy()
        if self._requested is None:
            return counts, bounds
        begins, ends = bounds[self._requested], bounds[self._requested + 1]
        parts = [counts[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        return np.concatenate([counts[:0], *parts]), np.concatenate([bounds[:1], np.cumsum(ends - begins)])

    def runs_as_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the counts and offsets of all masks, as `ops.mask_runs` does. Call `request_runs(None)` first."""
        return self._counts, self._offsets


class GpuMaskResults:
    """Results of mask kernels on a GPU, with the interface of `CpuMaskResults`.

    `measurements` and `request_runs` wait for the measurements to arrive, `runs` and `runs_as_tensors` for the
    requested run lengths.
    """

    is_cuda = True

    def __init__(
        self,
        logits: Tensor,
        axes: ResamplingAxes,
        threshold: float,
        offset: float,
        placement: tuple[int, int, int, int],
    ) -> None:
        """Queue the measuring; see `ops._masks.cuda.MeasuredMasks`. `axes.fetch()` must have been called.

        placement: height and width of the whole image, then x and y of the crop's corner in it.
        """
        self.device = logits.device
        self._axes = axes
        self._use_int32 = placement[0] * placement[1] < 2**31  # int32 run lengths suffice, half the size to transfer
        flat = _allocate_host(8 * logits.shape[0], self.device)
        self._raw_measurements = split_measurements(flat.numpy())
        with on_device_of(logits, axes.buffer) as (cuda, stream):
            self._event = cuda.Event()
            # Kernels write these few numbers directly to pinned host memory, which is faster than a copy.
            self._masks: MeasuredMasks | None = MeasuredMasks(
                logits, axes, threshold, offset, placement, flat, cuda, stream
            )
            self._event.record(stream)
        self._runs = np.zeros(0, np.int32), np.zeros(1, np.int64)

    def __del__(self) -> None:
        # The GPU may still be writing to this memory; wait before it is freed and reused.
        if "_event" in self.__dict__:
            self._event.synchronize()

    def measurements(self) -> MaskMeasurements:
        self._event.synchronize()
        self._axes.check(int(self._axes.host_error[0]))
        _, boxes, sizes = self._raw_measurements
        return MaskMeasurements.from_boxes_and_sizes(boxes, sizes)

    def split_indices(self, indices: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum(self._raw_measurements[0][indices])
        if ends[-1] <= _MAX_COUNTS_PER_REQUEST:
            return [indices]
        return np.split(indices, np.flatnonzero(np.diff(ends // _MAX_COUNTS_PER_REQUEST)) + 1)

    def request_runs(self, indices: np.ndarray | None, is_last: bool = True) -> None:
        masks, device = self._masks, self.device
        assert masks is not None
        if is_last:
            self._masks = None  # frees the logits
        self._event.synchronize()
        lengths = self._raw_measurements[0]
        if indices is None:
            indices = np.arange(len(lengths))
        k, ends = len(indices), np.cumsum(lengths[indices])
        total = int(ends[-1]) if k else 0
        # Indices, offsets and run lengths lie in one buffer, in that order, on the GPU and on the host.
        header, words = 2 * k + 1, (total + 1) // 2 if self._use_int32 else total
        host_buffer = _allocate_host(header + words, device)
        host_array = host_buffer.numpy()
        host_array[:k], host_array[k], host_array[k + 1 : header] = indices, 0, ends
        device_buffer = torch.empty(header + words, dtype=torch.int64, device=device)
        with on_device_of(device_buffer) as (cuda, stream):
            host_ptr, device_ptr, itemsize = host_buffer.data_ptr(), device_buffer.data_ptr(), host_array.itemsize
            cuda.copy_async(device_ptr, host_ptr, itemsize * header, stream)
            masks.write_runs(
                device_ptr, k, device_ptr + itemsize * k, device_ptr + itemsize * header, self._use_int32, stream
            )
            cuda.copy_async(host_ptr + itemsize * header, device_ptr + itemsize * header, itemsize * words, stream)
            self._event.record(stream)
        counts = host_array[header:]
        self._runs = counts.view(np.int32)[:total] if self._use_int32 else counts, host_array[k:header]

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        self._event.synchronize()
        return self._runs

    def runs_as_tensors(self) -> tuple[Tensor, Tensor]:
        counts, offsets = self.runs()
        # Copied, because they stay in a user's results: pinned memory is scarce, and PyTorch never releases it.
        return torch.from_numpy(counts).to(torch.int64, copy=True), torch.from_numpy(offsets.copy())


def _allocate_host(count: int, device: torch.device) -> Tensor:
    """Allocate int64 host memory for copies to or from the device; pinned for CUDA."""
    return torch.empty(count, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")


class AsyncHostCopy:
    """Host copy of a tensor. From a GPU it is copied asynchronously on the current stream."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """Return the copy once it has arrived, without waiting for work queued later."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._copy
