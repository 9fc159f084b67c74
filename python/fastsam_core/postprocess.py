"""Conversion of low-resolution mask logits to masks of the original image, without full-resolution arrays.

The reference enlarges each mask with two bilinear steps: from (l, l) to the square model input (S, S), and, after
cropping the padding, to the original (H, W). Both steps are separable. Along each axis they combine to one sparse
matrix with at most three consecutive, non-negative weights per row, also if the second step shrinks. `ops.mask_runs`
applies these matrices and thresholds the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .measuring import CpuMaskResults, GpuMaskResults
from .models.common import to_device
from .ops._masks.cuda import ResamplingAxes
from .ops._native import cpu_module
from .ops._native_cuda import has_kernels_for, stream_of
from .ops._threads import thread_count

# Masks measured together hold their run lengths and several times as much working memory for encoding. So take few at a
# time, but some for each thread; on a GPU, enough to keep it busy.
_MASKS_PER_THREAD, _MIN_BATCH_SIZE, _MAX_BATCH_SIZE = 8, 16, 64
_GPU_BATCH_SIZE = 256


def measure_batch_size() -> int:
    """Return how many masks to measure together on the CPU: fewest in plain PyTorch, which creates all their pixels."""
    return min(_MAX_BATCH_SIZE, max(_MIN_BATCH_SIZE, _MASKS_PER_THREAD * thread_count() if cpu_module else 0))


@dataclass(frozen=True)
class MaskRecord:
    """Measurements of one mask.

    rle: COCO RLE, {"size": [H, W], "counts": str}. area: number of set pixels. box_xyxy: the outermost set pixels,
    inclusive; zeros if there are none. stability_score: number of pixels above threshold + offset, divided by the
    number above threshold - offset; 0.0 if the latter is 0. There the reference has NaN from 0 / 0, which fails every
    positive threshold just as 0.0 does.
    """

    rle: dict[str, Any]
    area: int
    box_xyxy: tuple[int, int, int, int]
    stability_score: float


@dataclass(frozen=True)
class EncodedMasks:
    """Measurements of N masks, as arrays.

    counts: (R,) int64, uncompressed COCO RLE of all masks, concatenated. offsets: (N + 1,) int64, where the counts of
    each mask begin. areas: (N,) int64. boxes: (N, 4) int64, x1 y1 x2 y2 of the outermost set pixels; zeros if there are
    none. stability: (N,) float32, see `MaskRecord`.
    """

    counts: Tensor
    offsets: Tensor
    areas: np.ndarray
    boxes: np.ndarray
    stability: np.ndarray


@lru_cache(maxsize=32)  # shared by images of one size, and by the clicks on one image
def axis_weights(cells: int, padded: int, content: int, size: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Combine the two bilinear steps along one axis.

    Step one resizes `cells` to `padded` positions; step two takes `content` of these, from `start` on, and resizes them
    to `size`. Returns the first cell that each output position reads, (size,) int64, and the weights of that cell and
    the two after it, (size, 3) float32.
    """
    lower, upper, fraction = _bilinear_taps(size, content)
    cell_lower, cell_upper, cell_fraction = _bilinear_taps(padded, cells)
    lower, upper = lower + start, upper + start
    base = cell_lower[lower]
    weight = np.zeros((size, 3))
    rows = np.arange(size)
    for position, weight_part in ((lower, 1 - fraction), (upper, fraction)):
        weight[rows, cell_lower[position] - base] += weight_part * (1 - cell_fraction[position])
        weight[rows, cell_upper[position] - base] += weight_part * cell_fraction[position]
    return torch.from_numpy(base), torch.from_numpy(weight.astype(np.float32))


class MaskResizer:
    """Resizer of one image's low-resolution logits (l, l), l = image_size / 4, to the image's original pixels.

    input_hw: (h, w) of the resized image inside the model input, without padding. original_hw: (H, W).
    image_size: S, the side of the model input. Raises ValueError for invalid or incompatible sizes.
    """

    def __init__(self, input_hw: tuple[int, int], original_hw: tuple[int, int], image_size: int) -> None:
        if image_size < 4 or image_size % 4:
            raise ValueError(f"image_size must be a positive multiple of 4, got {image_size}")
        if not all(1 <= side <= image_size for side in input_hw):
            raise ValueError(f"input_hw must lie in 1..{image_size} (image_size), got {tuple(input_hw)}")
        if not all(side >= 1 for side in original_hw):
            raise ValueError(f"original_hw must be positive, got {tuple(original_hw)}")
        self.input_hw = int(input_hw[0]), int(input_hw[1])
        self.original_hw = int(original_hw[0]), int(original_hw[1])
        self.image_size = int(image_size)
        self.low_res_size = self.image_size // 4
        self._axes = tuple(
            axis_weights(self.low_res_size, self.image_size, content, size)
            for content, size in zip(self.input_hw, self.original_hw, strict=True)
        )
        y, x = zip(self.input_hw, self.original_hw, strict=True)
        self._key = self.low_res_size, self.image_size, y, x

    @torch.no_grad()
    def logits(self, low_res: Tensor) -> Tensor:
        """Return full-resolution logits (H, W) float32 on the same device, by the two steps of the reference.

        low_res: one mask, (l, l) floating point.
        """
        low_res = self._checked(low_res[None] if low_res.dim() == 2 else low_res)
        if len(low_res) != 1:
            raise ValueError(f"logits takes one mask (l, l), got shape {tuple(low_res.shape)}")
        square = F.interpolate(low_res[None], self.image_size, mode="bilinear", align_corners=False)
        content = square[..., : self.input_hw[0], : self.input_hw[1]]
        return F.interpolate(content, self.original_hw, mode="bilinear", align_corners=False)[0, 0]

    @torch.no_grad()
    def window_logits(self, low_res: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
        """Return the logits of a window of the image, (bottom - top, right - left) float32, computing only these.

        low_res: one mask, (l, l) floating point. The two steps are combined, so values may differ from `logits` by
        rounding.
        """
        (result,) = self._checked(low_res[None])
        for (cells, weights), (first, end) in zip(self._axes, ((top, bottom), (left, right)), strict=True):
            rows, tap_weights = cells[first:end].to(result.device), weights[first:end].to(result.device)
            # Cells beyond the last have weight zero, so clamping their index is harmless.
            taps = (result[(rows + tap).clamp(max=len(result) - 1)] * tap_weights[:, tap, None] for tap in range(3))
            result = sum(taps, torch.zeros((), dtype=result.dtype, device=result.device)).T
        return result

    def record(self, low_res: Tensor, threshold: float = 0.0, offset: float = 1.0) -> MaskRecord:
        """Return RLE, area, box and stability of one mask (l, l): the pixels whose logit exceeds `threshold`."""
        return self.records(low_res[None], threshold, offset)[0]

    def records(self, low_res: Tensor, threshold: float = 0.0, offset: float = 1.0) -> list[MaskRecord]:
        """Return the `record` of each mask of (N, l, l), in order. Pixels are never created, so memory is bounded."""
        parts = self.measure_in_batches(low_res, threshold, offset)
        return [record for part in parts for record in self._records(part)]

    def _records(self, masks: EncodedMasks) -> Iterator[MaskRecord]:
        text_bytes, ends = ops.rle_to_string(masks.counts, masks.offsets)
        text = text_bytes.numpy().tobytes().decode("ascii")
        measurements = zip(masks.areas.tolist(), masks.boxes.tolist(), masks.stability.tolist(), strict=True)
        for (begin, end), (area, box, stability) in zip(pairwise(ends.tolist()), measurements, strict=True):
            rle = {"size": list(self.original_hw), "counts": text[begin:end]}
            yield MaskRecord(rle, area, tuple(box), stability)

    def measure_in_batches(
        self, low_res: Tensor, threshold: float = 0.0, offset: float = 1.0
    ) -> Iterator[EncodedMasks]:
        """Yield `measure` of a few masks of (N, l, l) at a time, in order, so that memory is bounded."""
        low_res = self._checked(low_res)
        size = _GPU_BATCH_SIZE if has_kernels_for(low_res) else measure_batch_size()
        for part in low_res.split(size) if len(low_res) else ():
            yield self.measure(part, threshold, offset)

    def measure(
        self,
        low_res: Tensor,
        threshold: float = 0.0,
        offset: float = 1.0,
        image_hw: tuple[int, int] | None = None,
        corner: tuple[int, int] = (0, 0),
    ) -> EncodedMasks:
        """Return run lengths, areas, boxes and stability scores of masks (N, l, l).

        image_hw, corner: given if the resizer's image is a crop; the (height, width) of the whole image, and the
        (x, y) of the crop's corner in it. Run lengths then are those of the whole image, while boxes stay relative to
        the crop.

        Raises ValueError for any other shape, a crop outside the image or a negative offset; TypeError for anything but
        a floating-point tensor.
        """
        started = self.measure_async(low_res, threshold, offset, image_hw, corner)
        measurements = started.measurements()
        started.request_runs(None)
        return EncodedMasks(*started.runs_as_tensors(), measurements.areas, measurements.boxes, measurements.stability)

    def measure_async(
        self,
        low_res: Tensor,
        threshold: float = 0.0,
        offset: float = 1.0,
        image_hw: tuple[int, int] | None = None,
        corner: tuple[int, int] = (0, 0),
    ) -> CpuMaskResults | GpuMaskResults:
        """Start `measure` and return an object that gives its results step by step.

        On a GPU whose kernels are in use, this doesn't wait for them.
        """
        if not offset >= 0:
            raise ValueError(f"the stability offset must be 0 or more, got {offset}")
        low_res = self._checked(low_res)
        height, width = image_hw or self.original_hw
        if has_kernels_for(low_res):
            return GpuMaskResults(
                low_res, self._prepared_axes_on(low_res.device), threshold, offset, (height, width, *corner)
            )
        if low_res.device.type not in ("cpu", "cuda"):
            low_res = low_res.cpu()
        axes = self._axes_on(low_res.device)
        results = ops.mask_runs(low_res, *axes, threshold, offset, height, width, *corner)
        return CpuMaskResults(*(result.cpu() for result in results))

    def cache_axes_for(self, tensor: Tensor) -> None:
        """Compute and cache what `measure_async` needs besides the masks, if `tensor` is on a GPU that runs kernels."""
        if tensor.is_cuda and has_kernels_for(tensor):
            self._prepared_axes_on(tensor.device)

    def _axes_on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y_cells, y_weights, x_cells, x_weights on a device; cached on GPUs."""
        stream = _stream_cache_key(device)
        return _make_axes(device, *self._key) if stream is None else _cached_axes(device, stream, *self._key)

    def _prepared_axes_on(self, device: torch.device) -> ResamplingAxes:
        """Return the same axes in the form that CUDA kernels take."""
        stream = _stream_cache_key(device)
        return (
            _make_prepared_axes(device, *self._key)
            if stream is None
            else _cached_prepared_axes(device, stream, *self._key)
        )

    def _checked(self, low_res: Tensor) -> Tensor:
        if not isinstance(low_res, Tensor) or not low_res.is_floating_point():
            kind = low_res.dtype if isinstance(low_res, Tensor) else type(low_res).__name__
            raise TypeError(f"mask logits must be a floating-point tensor, got {kind}")
        side = self.low_res_size
        if low_res.dim() != 3 or tuple(low_res.shape[1:]) != (side, side):
            raise ValueError(f"mask logits must have shape (N, {side}, {side}), got {tuple(low_res.shape)}")
        return low_res.detach().to(torch.float32)


def _make_axes(
    device: torch.device, cells: int, padded: int, y: tuple[int, int], x: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y_cells, y_weights, x_cells, x_weights on a device. y, x: (content, size), see `axis_weights`."""
    axes = axis_weights(cells, padded, *y), axis_weights(cells, padded, *x)
    (y_cells, y_weights), (x_cells, x_weights) = (tuple(to_device(part, device) for part in axis) for axis in axes)
    return y_cells, y_weights, x_cells, x_weights


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _cached_axes(device: torch.device, stream: int, *axes: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cache `_make_axes` per device and stream: another stream could read a copy that has not arrived yet."""
    return _make_axes(device, *axes)


def _make_prepared_axes(device: torch.device, cells: int, *axes: Any) -> ResamplingAxes:
    return ResamplingAxes(*_make_axes(device, cells, *axes), (cells, cells)).fetch()


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _cached_prepared_axes(device: torch.device, stream: int, *axes: Any) -> ResamplingAxes:
    return _make_prepared_axes(device, *axes)


def _stream_cache_key(device: torch.device) -> int | None:
    """Return the GPU's current stream as a cache key, or None if results must not be cached."""
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():  # memory of a captured graph belongs to it
        return None
    return stream_of(torch.cuda.current_device() if device.index is None else device.index)


def _bilinear_taps(size: int, source_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where a bilinear resize (align_corners=False) from `source_size` to `size` pixels reads.

    Returns the lower index, the upper index and the weight of the upper one, each (size,). Positions are computed in
    float32 as PyTorch does. At 10,000 pixels its rounding shifts them by 1e-4, and masks must shift in the same way.
    """
    ratio = np.float32(source_size) / np.float32(size)
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5)
    position = np.maximum(position, np.float32(0))
    lower = np.minimum(position.astype(np.int64), source_size - 1)
    fraction = np.clip(position.astype(np.float64) - lower, 0, 1)
    return lower, np.minimum(lower + 1, source_size - 1), fraction
