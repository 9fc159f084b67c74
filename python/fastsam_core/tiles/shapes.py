"""Operations on masks stored as runs, in a raster of any size: shift, clip, union, overlap, connected parts.

All coordinates are int64. No function decodes a mask to pixels, so cost grows with the number of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import ops
from .._rle_algebra import INTERSECTION
from ..outlines import runs_from_rle
from ..runs import MaskRuns, encode_counts
from .grid import Box

RLE = dict[str, Any]
# Maximum number of mask pairs per IoU matrix: 8 MiB of float64.
_PAIRS_AT_ONCE = 1 << 20


def moved(runs: MaskRuns, right: int, down: int) -> MaskRuns:
    """Return the mask shifted by `right` columns and `down` rows."""
    return MaskRuns(runs.columns + right, runs.tops + down, runs.bottoms + down)


def of_rle(rle: RLE, left: int, top: int) -> MaskRuns:
    """Return the runs of a COCO RLE whose upper left pixel is at (left, top)."""
    return moved(runs_from_rle(rle), left, top)


def to_rle(runs: MaskRuns, box: Box) -> RLE:
    """Return the COCO RLE of the raster area in `box`, with `counts` as str. Every run must lie in `box`."""
    x1, y1, x2, y2 = box
    height, width = y2 - y1, x2 - x1
    (found,) = encode_counts([runs.counts(height, width, -x1, -y1)], height, width)
    return found


def box_of(runs: MaskRuns) -> Box:
    """Return the extent x1, y1, x2, y2 of a non-empty mask, x2 and y2 exclusive."""
    x1, y1, x2, y2 = runs.box()
    return x1, y1, x2 + 1, y2 + 1


def clipped(runs: MaskRuns, box: Box) -> MaskRuns:
    """Return the part of the mask inside a box."""
    x1, y1, x2, y2 = box
    first, last = np.searchsorted(runs.columns, [x1, x2])
    tops, bottoms = np.maximum(runs.tops[first:last], y1), np.minimum(runs.bottoms[first:last], y2)
    left = tops < bottoms
    return MaskRuns(runs.columns[first:last][left], tops[left], bottoms[left])


def union(masks: Sequence[MaskRuns]) -> MaskRuns:
    """Return the union of one or more masks."""
    columns = np.concatenate([mask.columns for mask in masks])
    tops = np.concatenate([mask.tops for mask in masks])
    bottoms = np.concatenate([mask.bottoms for mask in masks])
    if not len(columns):
        return MaskRuns(columns, tops, bottoms)
    order = np.lexsort((tops, columns))
    columns, tops, bottoms = columns[order], tops[order], bottoms[order]
    # For each run, the lowest row reached so far in its column. Shifting every column below the previous one makes a
    # single running maximum restart at each column.
    shift = (columns - columns[0]) * (int(bottoms.max()) - int(tops.min()) + 1)
    reach = np.maximum.accumulate(bottoms + shift) - shift
    begins = np.ones(len(columns), bool)
    begins[1:] = (columns[1:] != columns[:-1]) | (tops[1:] > reach[:-1])
    ends = np.append(np.flatnonzero(begins)[1:], len(columns)) - 1
    return MaskRuns(columns[begins], tops[begins], reach[ends])


def meets(a: MaskRuns, b: MaskRuns) -> bool:
    """Return whether two masks overlap or touch along a pixel edge."""
    return any(
        _overlap(other, b)
        for other in (moved(a, -1, 0), moved(a, 1, 0), MaskRuns(a.columns, a.tops - 1, a.bottoms + 1))
    )


def _overlap(a: MaskRuns, b: MaskRuns) -> bool:
    if not len(a.columns) or not len(b.columns):
        return False
    low = min(int(a.tops.min()), int(b.tops.min()))
    period = max(int(a.bottoms.max()), int(b.bottoms.max())) - low + 1
    # For each run of a, find the first run of b that ends below its top. Runs of one mask may touch but don't overlap,
    # so their bottoms are sorted as their tops are.
    place = np.searchsorted(b.columns * period + b.bottoms - low, a.columns * period + a.tops - low, side="right")
    found = np.flatnonzero(place < len(b.columns))
    other = place[found]
    return bool(((b.columns[other] == a.columns[found]) & (b.tops[other] < a.bottoms[found])).any())


def shared_pairs(
    a: Sequence[MaskRuns], b: Sequence[MaskRuns], box: Box
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find which masks of `a` overlap which masks of `b`, and by how many pixels.

    Returns indices i into `a`, indices j into `b`, and shared pixels, (K,) each, sorted by i, then j. Both sequences
    must be non-empty and all masks must lie in `box`. Memory use grows with K and the number of runs, not with the
    number of mask pairs.
    """
    found: list[NDArray[np.int64]] = []
    counts, offsets = _packed(b, box)
    # All marked as crowds, for which `rle_iou` divides the intersection by the area of the first mask alone.
    crowd = torch.ones(len(b), dtype=torch.bool, device="cpu")
    step = max(1, _PAIRS_AT_ONCE // len(b))
    for start in range(0, len(a), step):
        some = a[start : start + step]
        share = ops.rle_iou(*_packed(some, box), counts, offsets, crowd).numpy()
        i, j = np.nonzero(share)
        areas = np.array([mask.area() for mask in some], np.float64)
        found.append(np.stack([i + start, j, np.rint(share[i, j] * areas[i]).astype(np.int64)]))
    i, j, pixels = np.concatenate(found, axis=1)
    return i, j, pixels


def shared(a: MaskRuns, b: MaskRuns, box: Box) -> int:
    """Return the number of pixels that two masks share. Both must lie in `box`."""
    _, _, pixels = shared_pairs([a], [b], box)
    return int(pixels.sum())


def _packed(masks: Sequence[MaskRuns], box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    x1, y1, x2, y2 = box
    counts = [mask.counts(y2 - y1, x2 - x1, -x1, -y1).astype(np.int64) for mask in masks]
    offsets = np.cumsum([0, *(len(one) for one in counts)], dtype=np.int64)
    return torch.from_numpy(np.concatenate(counts)), torch.from_numpy(offsets)


def parts(runs: MaskRuns) -> list[MaskRuns]:
    """Split a mask into its 4-connected parts, ordered by their first runs."""
    labels = part_labels(runs)
    if not len(labels):
        return []
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return [
        MaskRuns(runs.columns[index], runs.tops[index], runs.bottoms[index]) for index in np.split(order, bounds[1:])
    ]


def part_labels(runs: MaskRuns) -> NDArray[np.int64]:
    """Return for each run the number of its 4-connected part, from 0. See `parts`."""
    count = len(runs.columns)
    if not count:
        return np.zeros(0, np.int64)
    a, b = _neighbours(runs)
    labels = np.arange(count)
    # Spread the smallest label between neighbours, then replace each label by its label's label, until nothing changes.
    while True:
        before = labels.copy()
        least = np.minimum(labels[a], labels[b])
        np.minimum.at(labels, labels[a], least)
        np.minimum.at(labels, labels[b], least)
        labels = labels[labels]
        if np.array_equal(labels, before):
            break
    numbers: NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return numbers


def _neighbours(runs: MaskRuns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return index pairs of runs in adjacent columns that touch along an edge."""
    low = int(runs.tops.min()) - 1
    period = int(runs.bottoms.max()) - low + 2
    tops, bottoms = runs.columns * period + runs.tops - low, runs.columns * period + runs.bottoms - low
    # The range of runs in the next column that end below this run's top and begin above its bottom.
    first = np.searchsorted(bottoms, tops + period, side="right")
    last = np.searchsorted(tops, bottoms + period, side="left")
    number = np.maximum(last - first, 0)
    a = np.repeat(np.arange(len(tops)), number)
    b = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)
    return a, b


def common(a: MaskRuns, b: MaskRuns, height: int, width: int) -> MaskRuns:
    """Return the intersection of two masks of one (height, width) image."""
    box = 0, 0, width, height
    found, _ = ops.rle_combine(*_packed([a], box), *_packed([b], box), INTERSECTION)
    return MaskRuns.from_counts(found.numpy(), height)
