"""Batches of masks in segment everything, from logits to candidates that have passed the filters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from ..measuring import CpuMaskResults, GpuMaskResults
from .arguments import Crop
from .crops import is_near_crop_edge


@dataclass(frozen=True)
class PackedCounts:
    """Uncompressed RLE of N masks, stored in a few shared arrays.

    A mask's counts are sliced out only on access, because most masks are dropped before anyone reads them. Mask i has
    the counts arrays[array_index[i]][begins[i] : ends[i]]. array_index, begins, ends: (N,) int64.
    """

    arrays: list[np.ndarray]
    array_index: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def from_arrays(cls, arrays: list[np.ndarray]) -> PackedCounts:
        """Build from one array per mask."""
        array_index = np.arange(len(arrays))
        return cls(
            arrays, array_index, np.zeros_like(array_index), np.array([len(array) for array in arrays], np.int64)
        )

    @classmethod
    def join(cls, parts: list[PackedCounts]) -> PackedCounts:
        """Concatenate the masks of all parts, in order, without copying their counts."""
        starts = accumulate([len(part.arrays) for part in parts], initial=0)
        array_index = [part.array_index + start for part, start in zip(parts, starts, strict=False)]
        columns = array_index, [part.begins for part in parts], [part.ends for part in parts]
        return cls(
            [array for part in parts for array in part.arrays],
            *(np.concatenate([_NO_INDICES, *column]) for column in columns),
        )

    def take(self, index: np.ndarray) -> PackedCounts:
        """Return the masks with these indices. Their counts are copied, so the others' memory can be freed."""
        return PackedCounts.from_arrays([self[i].copy() for i in index.tolist()])

    def __len__(self) -> int:
        return len(self.array_index)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.arrays[self.array_index[i]][self.begins[i] : self.ends[i]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


_NO_INDICES = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Candidates:
    """N masks that have passed the filters, as arrays with one row per mask (far cheaper than an object per mask).

    counts: RLE of each mask over the whole image. Long ones are stored in a small dtype, because thousands of masks may
    wait for NMS. Masks that were found together share memory until `take` copies some of them.
    boxes, crop_boxes: (N, 4) int64 XYXY in pixels of the image. points: (N, 2) float64 x, y in pixels of the image.
    areas: (N,) int64. predicted_iou, stability: (N,) float32.
    """

    counts: PackedCounts
    boxes: np.ndarray
    areas: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray
    points: np.ndarray
    crop_boxes: np.ndarray

    @classmethod
    def join(cls, parts: list[Candidates]) -> Candidates:
        """Concatenate the masks of all parts, in order."""
        return cls(
            PackedCounts.join([part.counts for part in parts]),
            *(
                np.concatenate([np.zeros(shape, dtype), *(getattr(part, name) for part in parts)])
                for name, shape, dtype in _COLUMNS
            ),
        )

    def take(self, index: np.ndarray) -> Candidates:
        """Return the masks with these indices, in that order; the memory of the others can then be freed."""
        return Candidates(self.counts.take(index), *(getattr(self, name)[index] for name, _, _ in _COLUMNS))


_COLUMNS: tuple[tuple[str, tuple[int, ...], type], ...] = (
    ("boxes", (0, 4), np.int64),
    ("areas", (0,), np.int64),
    ("predicted_iou", (0,), np.float32),
    ("stability", (0,), np.float32),
    ("points", (0, 2), np.float64),
    ("crop_boxes", (0, 4), np.int64),
)


@dataclass(frozen=True)
class Filters:
    """Thresholds that a mask must pass; see the arguments of `generate_masks`."""

    conf_thres: float
    stability_score_thresh: float
    stability_score_offset: float
    stability_share: float
    highest_stability: float

    @property
    def min_decoded_iou(self) -> float:
        """Lower bound that the decoder's predicted IoU must exceed; see the function of this name."""
        return min_decoded_iou(self.conf_thres, self.stability_share, self.highest_stability)


def min_decoded_iou(conf_thres: float, stability_share: float, highest_stability: float) -> float:
    """Return the bound that the decoder's predicted IoU must exceed for a mask to have a chance to pass `conf_thres`.

    A mask passes if its weighted score exceeds `conf_thres`; the bound assumes that its stability is
    `highest_stability`:

        (1 - stability_share) * decoded + stability_share * stability > conf_thres
    """
    if not stability_share:
        return conf_thres
    # The margin keeps rounding from dropping a borderline mask here; `PendingBatch.filter` compares exactly.
    return (conf_thres - stability_share * highest_stability) / (1 - stability_share) - 1e-6


class PendingBatch:
    """Masks of one batch, which are first measured, then filtered, then turned into runs.

    results: the measurement, already launched. pairs: (N, 2), the point index and mask index of each mask.
    scores: (points, M), the IoU that the decoder predicts. points: (points, 2) in pixels of the crop.
    """

    def __init__(
        self,
        results: CpuMaskResults | GpuMaskResults,
        pairs: np.ndarray,
        scores: np.ndarray,
        points: np.ndarray,
        crop: Crop,
        image_size: tuple[int, int],
        filters: Filters,
    ) -> None:
        self.results = results
        self._pairs, self._scores, self._points = pairs, scores, points
        self._crop, self._image_size, self._filters = crop, image_size, filters
        self._columns: tuple[Any, ...] = ()
        self._counts: list[PackedCounts] = []

    def filter(self) -> bool:
        """Wait for the measurements, apply the filters and request the runs of the masks that pass.

        Returns whether any mask passes.
        """
        # Restrict each step to the masks kept so far: the same work on all masks would take longer than measuring them
        # on a GPU.
        measurements, filters, (left, top) = self.results.measurements(), self._filters, self._crop.box[:2]
        passed = np.flatnonzero(measurements.stability >= filters.stability_score_thresh)
        offset = np.array([left, top, left, top])
        if self._crop.box != (0, 0, *self._image_size[::-1]):  # the whole image has no crop edges
            passed = passed[~is_near_crop_edge(measurements.boxes[passed] + offset, self._crop.box, self._image_size)]
        point_index, weight = self._pairs[passed, 0], filters.stability_share
        scores = self._scores[point_index, self._pairs[passed, 1]]
        if weight:
            scores = (1 - weight) * scores + weight * measurements.stability[passed].astype(np.float32)
            is_above = scores > filters.conf_thres
            passed, point_index, scores = passed[is_above], point_index[is_above], scores[is_above]
        if not len(passed):
            return False
        *earlier, last = self.results.split_indices(passed)
        for part in earlier:
            self.results.request_runs(part, is_last=False)
            self._counts.append(compact_counts(*self.results.runs()))
        self.results.request_runs(last)
        self._columns = (
            measurements.boxes[passed] + offset,
            measurements.areas[passed],
            scores,
            measurements.stability[passed],
            self._points[point_index] + np.array([left, top], np.float64),
            np.repeat(np.array([self._crop.box], np.int64), len(passed), axis=0),
        )
        return True

    def candidates(self) -> Candidates:
        """Wait for the runs and return the masks that passed. Call after `filter` returned True."""
        counts = compact_counts(*self.results.runs())
        return Candidates(PackedCounts.join([*self._counts, counts]) if self._counts else counts, *self._columns)


class BatchQueue:
    """Batches that a GPU is working on, in order, so that it has more work queued whenever the host waits for one.

    At most two batches of logits are alive at once: the newest batch's, and the previous one's until it has been
    filtered.
    device: where the most recently added batch is measured.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._measured: list[PendingBatch] = []
        self._filtered: list[PendingBatch] = []

    def add(self, batch: PendingBatch) -> Iterator[Candidates]:
        """Advance the earlier batches by one step, yield those that are complete, and enqueue `batch`."""
        self.device = batch.results.device
        yield from self._advance()
        self._measured.append(batch)

    def drain(self) -> Iterator[Candidates]:
        """Wait for all batches and yield their candidates in order."""
        while self._measured or self._filtered:
            yield from self._advance()

    def _advance(self) -> Iterator[Candidates]:
        """Filter the measured batches, and yield the candidates of those that were filtered before."""
        ready, measured = self._filtered, self._measured
        self._measured = []
        # Filter first: it launches the next GPU work, which then runs while the host collects candidates.
        self._filtered = [batch for batch in measured if batch.filter()]
        for batch in ready:
            yield batch.candidates()


_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
_DTYPE_LIMITS = np.array([1 << 8, 1 << 16, 1 << 32])  # exclusive limit of each dtype but the last
# Up to this many counts per mask on average (16 KiB as int32) are kept in their original dtype. Copying them, or even
# finding the smallest dtype, would cost as much time as a GPU needs to measure a fifth of the masks.
_MAX_UNCOMPACTED_COUNTS = 4096


def compact_counts(counts: np.ndarray, offsets: np.ndarray) -> PackedCounts:
    """Return each mask's counts, copied into the smallest unsigned dtype that holds them.

    Short counts in int32, as a GPU returns them, are not copied but viewed as uint32.

    counts: (R,), the counts of all masks one after the other. offsets: (N + 1,) int64, where each mask's counts begin.
    Every mask must have at least one count.
    """
    # Vectorised over all masks: a few calls per mask would take longer than a GPU needs to measure them.
    begins, ends = offsets[:-1], offsets[1:]
    array_index = np.zeros_like(begins)
    if counts.dtype == np.int32 and len(counts) <= _MAX_UNCOMPACTED_COUNTS * len(begins):
        return PackedCounts([counts.view(np.uint32)], array_index, begins, ends)
    max_counts = np.maximum.reduceat(counts, begins) if len(begins) else counts[:0]
    dtype_index = np.searchsorted(_DTYPE_LIMITS, max_counts.astype(np.int64), side="right")
    lengths, starts = ends - begins, np.zeros_like(begins)
    arrays: list[np.ndarray] = []
    for dtype in np.unique(dtype_index).tolist():
        members = np.flatnonzero(dtype_index == dtype)
        bounds = zip(begins[members].tolist(), ends[members].tolist(), strict=True)
        parts = [counts[begin:end] for begin, end in bounds] if len(members) < len(dtype_index) else [counts]
        array_index[members], starts[members] = len(arrays), np.cumsum(lengths[members]) - lengths[members]
        arrays.append(np.concatenate(parts, dtype=_UNSIGNED[dtype], casting="unsafe"))
    return PackedCounts(arrays, array_index, starts, starts + lengths)
