"""Masks of segment-everything on their way from logits to candidates that have passed the filters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from ..measuring import MasksOnGpu, MasksOnHost
from .arguments import Crop
from .crops import near_crop_edge


@dataclass(frozen=True)
class Counts:
    """Uncompressed RLE of N masks, in few arrays. Each mask's is cut out when it is asked for: of most, that is never.

    The i-th one is arrays[which[i]][begins[i] : ends[i]]; which, begins, ends: (N,) int64.
    """

    arrays: list[np.ndarray]
    which: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, arrays: list[np.ndarray]) -> Counts:
        """Of one mask in each array."""
        which = np.arange(len(arrays))
        return cls(arrays, which, np.zeros_like(which), np.array([len(one) for one in arrays], np.int64))

    @classmethod
    def join(cls, parts: list[Counts]) -> Counts:
        firsts = accumulate([len(part.arrays) for part in parts], initial=0)
        which = [part.which + first for part, first in zip(parts, firsts, strict=False)]
        columns = which, [part.begins for part in parts], [part.ends for part in parts]
        return cls([one for part in parts for one in part.arrays], *(np.concatenate([_NONE, *one]) for one in columns))

    def take(self, index: np.ndarray) -> Counts:
        """Copies of those of these numbers."""
        return Counts.of([self[i].copy() for i in index.tolist()])

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.arrays[self.which[i]][self.begins[i] : self.ends[i]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Candidates:
    """N masks that have passed the filters. Arrays of (N, ...), so that a mask costs little more than its runs.

    counts: of the whole picture, each in a dtype that is small where there is much of it, because
    thousands of masks may wait for their NMS; those that were found together share memory until some are taken.
    boxes, crop_boxes: (N, 4) int64 XYXY in the picture. points: (N, 2) float64.
    """

    counts: Counts
    boxes: np.ndarray
    areas: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray
    points: np.ndarray
    crop_boxes: np.ndarray

    @classmethod
    def join(cls, parts: list[Candidates]) -> Candidates:
        """All masks of the parts, in order."""
        return cls(
            Counts.join([part.counts for part in parts]),
            *(
                np.concatenate([np.zeros(shape, dtype), *(getattr(part, name) for part in parts)])
                for name, shape, dtype in _COLUMNS
            ),
        )

    def take(self, index: np.ndarray) -> Candidates:
        """The masks of these numbers, in their order, without the memory of the others."""
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
    conf_thres: float
    stability_score_thresh: float
    stability_score_offset: float
    stability_share: float
    highest_stability: float

    @property
    def least_decoded(self) -> float:
        return least_decoded(self.conf_thres, self.stability_share, self.highest_stability)


def least_decoded(conf_thres: float, stability_share: float, highest_stability: float) -> float:
    """What the decoder must predict, and more, for a mask of the highest stability to pass; see `generate_masks`."""
    if not stability_share:
        return conf_thres
    # Rounding must not lose one on the border, which is looked at again.
    return (conf_thres - stability_share * highest_stability) / (1 - stability_share) - 1e-6


class Batch:
    """Masks on their way from logits to candidates: measured first, then filtered, then turned into runs.

    pairs: (N, 2), the point and the mask number of each; scores: (points, 3), the IoU that the decoder predicts.
    """

    def __init__(
        self,
        started: MasksOnHost | MasksOnGpu,
        pairs: np.ndarray,
        scores: np.ndarray,
        points: np.ndarray,
        crop: Crop,
        image_size: tuple[int, int],
        filters: Filters,
    ) -> None:
        self.started = started
        self._pairs, self._scores, self._points = pairs, scores, points
        self._crop, self._image_size, self._filters = crop, image_size, filters
        self._kept: tuple[Any, ...] = ()
        self._counts: list[Counts] = []

    def filter(self) -> bool:
        """Ask for the runs of the masks that pass, once the numbers are there; whether any does."""
        # Nothing here is for all masks that could be for those that are kept: a GPU has measured them in less.
        found, filters, (left, top) = self.started.numbers(), self._filters, self._crop.box[:2]
        kept = np.flatnonzero(found.stability >= filters.stability_score_thresh)
        corner = np.array([left, top, left, top])
        if self._crop.box != (0, 0, *self._image_size[::-1]):  # which has no edge of its own
            kept = kept[~near_crop_edge(found.boxes[kept] + corner, self._crop.box, self._image_size)]
        of_point, share = self._pairs[kept, 0], filters.stability_share
        scores = self._scores[of_point, self._pairs[kept, 1]]
        if share:
            scores = (1 - share) * scores + share * found.stability[kept].astype(np.float32)
            high = scores > filters.conf_thres
            kept, of_point, scores = kept[high], of_point[high], scores[high]
        if not len(kept):
            return False
        *others, last = self.started.in_parts(kept)
        for part in others:
            self.started.ask(part, last=False)
            self._counts.append(compact_all(*self.started.runs()))
        self.started.ask(last)
        self._kept = (
            found.boxes[kept] + corner,
            found.areas[kept],
            scores,
            found.stability[kept],
            self._points[of_point] + np.array([left, top], np.float64),
            np.repeat(np.array([self._crop.box], np.int64), len(kept), axis=0),
        )
        return True

    def candidates(self) -> Candidates:
        """The masks that have passed, once their runs are there."""
        counts = compact_all(*self.started.runs())
        return Candidates(Counts.join([*self._counts, counts]) if self._counts else counts, *self._kept)


class Queue:
    """Batches that a GPU is at work on, in order, so that it has more to do whenever the host waits for one of them.

    The logits of two are alive at once: those of the newest, and of the one before until it has been filtered.
    device: where masks were measured last.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._measured: list[Batch] = []
        self._filtered: list[Batch] = []

    def add(self, batch: Batch) -> Iterator[Candidates]:
        """The batches before this one go on by a step. Gives those that have all they need."""
        self.device = batch.started.device
        yield from self._advance()
        self._measured.append(batch)

    def drain(self) -> Iterator[Candidates]:
        """Waits for all batches, and gives them."""
        while self._measured or self._filtered:
            yield from self._advance()

    def _advance(self) -> Iterator[Candidates]:
        ready, measured = self._filtered, self._measured
        self._measured = []
        # What the GPU can go on with comes first.
        self._filtered = [batch for batch in measured if batch.filter()]
        for batch in ready:
            yield batch.candidates()


_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
_TOO_LARGE = np.array([1 << 8, 1 << 16, 1 << 32])  # for each of them but the last
# Counts per mask, on average, that take so little memory (16 KiB) that copying them, or even looking for a smaller
# dtype, takes more than it gives: the time in which a GPU measures a fifth of the masks.
_FEW = 4096


def compact_all(counts: np.ndarray, offsets: np.ndarray) -> Counts:
    """Each mask's counts, copied in the smallest dtype that holds them; few counts that come as int32, which a GPU
    gives, are taken as they are, in uint32.

    counts: (R,), of masks one after the other; offsets: (N + 1,) int64, where each one's begin. None is without counts.
    """
    # A few calls for all masks: some for each of them take longer than a GPU does to measure them.
    begins, ends = offsets[:-1], offsets[1:]
    which = np.zeros_like(begins)
    if counts.dtype == np.int32 and len(counts) <= _FEW * len(begins):
        return Counts([counts.view(np.uint32)], which, begins, ends)
    largest = np.maximum.reduceat(counts, begins) if len(begins) else counts[:0]
    kinds = np.searchsorted(_TOO_LARGE, largest.astype(np.int64), side="right")
    lengths, placed = ends - begins, np.zeros_like(begins)
    arrays: list[np.ndarray] = []
    for kind in np.unique(kinds).tolist():
        of_it = np.flatnonzero(kinds == kind)
        spans = zip(begins[of_it].tolist(), ends[of_it].tolist(), strict=True)
        parts = [counts[begin:end] for begin, end in spans] if len(of_it) < len(kinds) else [counts]
        which[of_it], placed[of_it] = len(arrays), np.cumsum(lengths[of_it]) - lengths[of_it]
        arrays.append(np.concatenate(parts, dtype=_UNSIGNED[kind], casting="unsafe"))
    return Counts(arrays, which, placed, placed + lengths)
