"""From low-resolution mask logits to masks of the original picture, without a full-resolution array.

The reference enlarges each mask with two bilinear steps: (l, l) to the square model input (S, S), and, after cutting
off the padding, to the original (H, W). Both are separable, so along each axis they are one sparse matrix with at most
three consecutive, non-negative weights per row, also where the second step shrinks. The weights of a row sum to 1: a
pixel's logit is a mean of at most 3 x 3 low-resolution cells, and only pixels near a cell above the lowest threshold
can exceed it. The rest is never computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .runs import MaskRuns, encode_counts, find_changes

# Pixels evaluated at once: on the CPU few enough to stay in a core's cache, on a GPU enough to be worth a launch.
_STRIP_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 24}
# Row lengths that embedding_bag sees are rounded up to this, because on x86 it compiles and keeps a kernel of 170 kB
# for each length it meets, and masks come in all lengths.
_GRANULE = 64
# Stands for infinite logits (half precision gives them), because 0 * infinity would spread as NaN.
_HUGE = 1e30


@dataclass(frozen=True)
class MaskRecord:
    """What the pipeline needs of one mask.

    rle: COCO RLE, {"size": [H, W], "counts": str}. area: set pixels. box_xyxy: the outermost set pixels, zeros if there
    are none. stability_score: pixels above threshold + offset, divided by those above threshold - offset; 0.0 where the
    latter is 0 (0 / 0 in the reference, whose NaN fails every positive threshold as 0.0 does).
    """

    rle: dict[str, Any]
    area: int
    box_xyxy: tuple[int, int, int, int]
    stability_score: float


class _Axis:
    """The two bilinear steps along one axis: for each of `size` output positions its taps (cells and weights).

    first, last: int64 (size,), the outermost cells whose weight isn't 0; both ascend. Up to `_GRANULE` positions beyond
    the last one may be asked for, and repeat it.
    """

    def __init__(self, cells: int, padded: int, content: int, size: int) -> None:
        near, far, share = _bilinear_source(size, content)
        cell_near, cell_far, cell_share = _bilinear_source(padded, cells)
        base = cell_near[near]
        weight = np.zeros((size, 3))
        rows = np.arange(size)
        for position, part in ((near, 1 - share), (far, share)):
            weight[rows, cell_near[position] - base] += part * (1 - cell_share[position])
            weight[rows, cell_far[position] - base] += part * cell_share[position]
        self.first = base + (weight > 0).argmax(1)
        self.last = base + 2 - (weight[:, ::-1] > 0).argmax(1)
        index = np.minimum(base[:, None] + np.arange(3), cells - 1)  # (size, 3); unused taps have weight 0
        beyond = ((0, _GRANULE), (0, 0))
        self._index = torch.from_numpy(np.pad(index, beyond, mode="edge"))
        self._weight = torch.from_numpy(np.pad(weight.astype(np.float32), beyond, mode="edge"))
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def reach(self, low: int, high: int) -> tuple[int, int]:
        """Positions [start, stop) that take anything from cells low..high."""
        return int(np.searchsorted(self.last, low)), int(np.searchsorted(self.first, high, side="right"))

    def cells(self, start: int, stop: int) -> tuple[int, int]:
        """Cells [low, high) that positions [start, stop) address, unused taps included."""
        return int(self._index[start, 0]), int(self._index[stop - 1, 2]) + 1

    def apply(self, source: Tensor, start: int, stop: int, first_cell: int) -> Tensor:
        """Weighted sums of rows: source (cells, n), row 0 being `first_cell`, -> (stop - start, n)."""
        if source.device not in self._copies:
            self._copies[source.device] = self._index.to(source.device), self._weight.to(source.device)
        index, weight = self._copies[source.device]
        # One fused pass; and unlike a matrix product never lowered to TF32 or bfloat16 by global settings or autocast.
        return F.embedding_bag(
            index[start:stop] - first_cell, source, mode="sum", per_sample_weights=weight[start:stop]
        )


class MaskResizer:
    """Low-resolution logits (l, l) of one picture, l = image_size / 4, to its original pixels.

    input_hw: (h, w) of the picture's content in the model input, before padding. original_hw: (H, W).
    image_size: S, the model input's side. Raises ValueError for sizes that don't fit together.
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
        self._y, self._x = (
            _Axis(self.low_res_size, self.image_size, content, size)
            for content, size in zip(self.input_hw, self.original_hw, strict=True)
        )

    @torch.no_grad()
    def logits(self, low_res: Tensor) -> Tensor:
        """Full-resolution logits (H, W) float32, on the same device, with the reference's own two steps.

        low_res: (l, l) floating point.
        """
        low_res = self._checked(low_res[None] if low_res.dim() == 2 else low_res)
        if len(low_res) != 1:
            raise ValueError(f"logits takes one mask (l, l), got shape {tuple(low_res.shape)}")
        square = F.interpolate(low_res[None], self.image_size, mode="bilinear", align_corners=False)
        content = square[..., : self.input_hw[0], : self.input_hw[1]]
        return F.interpolate(content, self.original_hw, mode="bilinear", align_corners=False)[0, 0]

    def record(self, low_res: Tensor, threshold: float = 0.0, offset: float = 1.0) -> MaskRecord:
        """RLE, area, box and stability of one mask (l, l): pixels whose logit exceeds `threshold`."""
        return self.records(low_res[None], threshold, offset)[0]

    def records(self, low_res: Tensor, threshold: float = 0.0, offset: float = 1.0) -> list[MaskRecord]:
        """`record` of each of (N, l, l) masks, in order. Memory is bounded: pixels exist for one strip of one mask."""
        height, width = self.original_hw
        found = list(self.measure(low_res, threshold, offset))
        rles = encode_counts([runs.counts(height, width) for runs, _ in found], height, width)
        return [
            MaskRecord(rle, runs.area(), runs.box(), stability)
            for rle, (runs, stability) in zip(rles, found, strict=True)
        ]

    def measure(self, low_res: Tensor, threshold: float = 0.0, offset: float = 1.0) -> Iterator[tuple[MaskRuns, float]]:
        """For each of (N, l, l) masks: its runs in the original picture, and its stability score (float32's value).

        Raises ValueError for another shape or a negative offset, TypeError for anything but a floating-point tensor.
        """
        if not offset >= 0:
            raise ValueError(f"the stability offset must be 0 or more, got {offset}")
        low_res = self._checked(low_res)
        if low_res.device.type not in _STRIP_PIXELS:
            low_res = low_res.cpu()
        if not low_res.numel():
            return
        if not bool(low_res.sum().isfinite()):
            low_res = low_res.nan_to_num(nan=-_HUGE, posinf=_HUGE, neginf=-_HUGE)
        row_max, column_max = low_res.amax(2).cpu().numpy(), low_res.amax(1).cpu().numpy()
        for i in range(len(low_res)):
            rows = np.flatnonzero(row_max[i] > threshold - offset)
            columns = np.flatnonzero(column_max[i] > threshold - offset)
            if not len(rows):
                yield MaskRuns.join([]), 0.0
                continue
            window = *self._y.reach(rows[0], rows[-1]), *self._x.reach(columns[0], columns[-1])
            yield self._evaluate(low_res[i], window, threshold, offset)

    @torch.no_grad()
    def _evaluate(
        self, low_res: Tensor, window: tuple[int, int, int, int], threshold: float, offset: float
    ) -> tuple[MaskRuns, float]:
        """Runs and stability from the pixels of `window` (top, bottom, left, right), by strips of whole columns."""
        top, bottom, left, right = window
        if top >= bottom or left >= right:
            return MaskRuns.join([]), 0.0
        rows = bottom - top
        # At least one row beyond the window: it is never set, so that runs end with their column.
        padded_rows = _rounded_up(rows + 1)
        padded_bottom = top + padded_rows
        first_row, end_row = self._y.cells(top, padded_bottom)
        first_column, end_column = self._x.cells(left, right)
        width = min(_rounded_up(end_column - first_column), self.low_res_size)
        first_column = min(first_column, self.low_res_size - width)
        cells = low_res[first_row:end_row, first_column : first_column + width].contiguous()
        # Columns become rows: the runs go down the columns, and sums of rows read memory in order.
        tall = self._y.apply(cells, top, padded_bottom, first_row).T.contiguous()  # (columns of cells, padded rows)
        tall[:, rows:] = -torch.inf
        step = max(1, _STRIP_PIXELS[low_res.device.type] // padded_rows)
        inner = outer = 0
        parts = []
        for start in range(left, right, step):
            pixels = self._x.apply(tall, start, min(start + step, right), first_column)
            inner += _count_above(pixels, threshold + offset)
            outer += _count_above(pixels, threshold - offset)
            changes = _changes_at(pixels, threshold)
            if len(changes):
                parts.append(MaskRuns.from_changes(changes, padded_rows, start, top))
        # The reference divides int32 by int32 in float32.
        stability = float(np.float32(inner) / np.float32(outer)) if outer else 0.0
        return MaskRuns.join(parts), stability

    def _checked(self, low_res: Tensor) -> Tensor:
        if not isinstance(low_res, Tensor) or not low_res.is_floating_point():
            kind = low_res.dtype if isinstance(low_res, Tensor) else type(low_res).__name__
            raise TypeError(f"mask logits must be a floating-point tensor, got {kind}")
        side = self.low_res_size
        if low_res.dim() != 3 or tuple(low_res.shape[1:]) != (side, side):
            raise ValueError(f"mask logits must have shape (N, {side}, {side}), got {tuple(low_res.shape)}")
        return low_res.detach().to(torch.float32)


def _bilinear_source(size: int, source: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a bilinear resize (align_corners=False) from `source` to `size` reads: lower, upper index, upper's share.

    Positions are computed in float32 as PyTorch does: at 10,000 pixels its rounding moves them by 1e-4, and masks
    should move with it.
    """
    ratio = np.float32(source) / np.float32(size)
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5)
    position = np.maximum(position, np.float32(0))
    lower = np.minimum(position.astype(np.int64), source - 1)
    share = np.clip(position.astype(np.float64) - lower, 0, 1)
    return lower, np.minimum(lower + 1, source - 1), share


def _rounded_up(length: int) -> int:
    return -(-length // _GRANULE) * _GRANULE


def _count_above(pixels: Tensor, level: float) -> int:
    # NumPy's comparisons and counts are several times quicker than PyTorch's on the CPU.
    if pixels.device.type == "cpu":
        return int(np.count_nonzero(pixels.numpy() > level))
    return int(torch.count_nonzero(pixels > level))


def _changes_at(pixels: Tensor, level: float) -> np.ndarray:
    """Flat positions at which `pixels > level` changes; the last pixel of each row isn't above (see runs.py)."""
    if pixels.device.type == "cpu":
        return find_changes(pixels.numpy() > level)
    return _find_changes_on_device(pixels > level)


def _find_changes_on_device(above: Tensor) -> np.ndarray:
    flat = above.reshape(-1)
    changed = flat.clone()
    changed[1:] ^= flat[:-1]
    return changed.nonzero().reshape(-1).cpu().numpy()
