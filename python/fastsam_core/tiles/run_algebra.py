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
_MAX_PAIRS = 1 << 20


def translate(runs: MaskRuns, dx: int, dy: int) -> MaskRuns:
    """Return the mask shifted by `dx` columns and `dy` rows."""
    return MaskRuns(runs.columns + dx, runs.tops + dy, runs.bottoms + dy)


def from_rle(rle: RLE, left: int, top: int) -> MaskRuns:
    """Return the runs of a COCO RLE whose upper left pixel is at (left, top)."""
    return translate(runs_from_rle(rle), left, top)


def to_rle(runs: MaskRuns, box: Box) -> RLE:
    """Return the COCO RLE of the raster area in `box`, with `counts` as str. Every run must lie in `box`."""
    x1, y1, x2, y2 = box
    height, width = y2 - y1, x2 - x1
    (encoded,) = encode_counts([runs.counts(height, width, -x1, -y1)], height, width)
    return encoded


def bounding_box(runs: MaskRuns) -> Box:
    """Return the extent x1, y1, x2, y2 of a non-empty mask, x2 and y2 exclusive."""
    x1, y1, x2, y2 = runs.box()
    return x1, y1, x2 + 1, y2 + 1


def clip(runs: MaskRuns, box: Box) -> MaskRuns:
    """Return the part of the mask inside a box."""
    x1, y1, x2, y2 = box
    first, last = np.searchsorted(runs.columns, [x1, x2])
    tops, bottoms = np.maximum(runs.tops[first:last], y1), np.minimum(runs.bottoms[first:last], y2)
    is_inside = tops < bottoms
    return MaskRuns(runs.columns[first:last][is_inside], tops[is_inside], bottoms[is_inside])


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


def overlaps_or_touches(a: MaskRuns, b: MaskRuns) -> bool:
    """Return whether two masks overlap or touch along a pixel edge."""
    return any(
        _overlaps(other, b)
        for other in (translate(a, -1, 0), translate(a, 1, 0), MaskRuns(a.columns, a.tops - 1, a.bottoms + 1))
    )


def _overlaps(a: MaskRuns, b: MaskRuns) -> bool:
    if not len(a.columns) or not len(b.columns):
        return False
    period = max(int(a.bottoms.max()), int(b.bottoms.max())) - min(int(a.tops.min()), int(b.tops.min())) + 1
    # For each run of a, find the first run of b that ends below its top. Runs of one mask may touch but don't overlap,
    # so their bottoms are sorted as their tops are.
    first_below = np.searchsorted(b.columns * period + b.bottoms, a.columns * period + a.tops, side="right")
    candidates = np.flatnonzero(first_below < len(b.columns))
    other = first_below[candidates]
    return bool(((b.columns[other] == a.columns[candidates]) & (b.tops[other] < a.bottoms[candidates])).any())


def overlapping_pairs(
    a: Sequence[MaskRuns], b: Sequence[MaskRuns], box: Box
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find which masks of `a` overlap which masks of `b`, and by how many pixels.

    Returns indices i into `a`, indices j into `b`, and shared pixels, (K,) each, sorted by i, then j. Both sequences
    must be non-empty and all masks must lie in `box`. Memory use grows with K and the number of runs, not with the
    number of mask pairs.
    """
    chunks: list[NDArray[np.int64]] = []
    counts, offsets = _concatenated_counts(b, box)
    # All marked as crowds, for which `rle_iou` divides the intersection by the area of the first mask alone.
    crowd = torch.ones(len(b), dtype=torch.bool, device="cpu")
    step = max(1, _MAX_PAIRS // len(b))
    for start in range(0, len(a), step):
        chunk = a[start : start + step]
        fractions = ops.rle_iou(*_concatenated_counts(chunk, box), counts, offsets, crowd).numpy()
        i, j = np.nonzero(fractions)
        areas = np.array([mask.area() for mask in chunk], np.float64)
        chunks.append(np.stack([i + start, j, np.rint(fractions[i, j] * areas[i]).astype(np.int64)]))
    i, j, pixels = np.concatenate(chunks, axis=1)
    return i, j, pixels


def intersection_area(a: MaskRuns, b: MaskRuns, box: Box) -> int:
    """Return the number of pixels that two masks share. Both must lie in `box`."""
    _, _, pixels = overlapping_pairs([a], [b], box)
    return int(pixels.sum())


def _concatenated_counts(masks: Sequence[MaskRuns], box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    x1, y1, x2, y2 = box
    counts = [mask.counts(y2 - y1, x2 - x1, -x1, -y1).astype(np.int64) for mask in masks]
    offsets = np.cumsum([0, *(len(mask_counts) for mask_counts in counts)], dtype=np.int64)
    return torch.from_numpy(np.concatenate(counts)), torch.from_numpy(offsets)


def connected_components(runs: MaskRuns) -> list[MaskRuns]:
    """Split a mask into its 4-connected parts, ordered by their first runs."""
    labels = component_labels(runs)
    if not len(labels):
        return []
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return [
        MaskRuns(runs.columns[index], runs.tops[index], runs.bottoms[index]) for index in np.split(order, bounds[1:])
    ]


def component_labels(runs: MaskRuns) -> NDArray[np.int64]:
    """Return for each run the number of its 4-connected part, from 0. See `connected_components`."""
    num_runs = len(runs.columns)
    if not num_runs:
        return np.zeros(0, np.int64)
    a, b = _neighbours(runs)
    labels = np.arange(num_runs)
    # Spread the smallest label between neighbours, then replace each label by its label's label, until nothing changes.
    while True:
        previous = labels.copy()
        smallest = np.minimum(labels[a], labels[b])
        np.minimum.at(labels, labels[a], smallest)
        np.minimum.at(labels, labels[b], smallest)
        labels = labels[labels]
        if np.array_equal(labels, previous):
            break
    component_numbers: NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return component_numbers


def _neighbours(runs: MaskRuns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return index pairs of runs in adjacent columns that touch along an edge."""
    period = int(runs.bottoms.max()) - int(runs.tops.min()) + 1
    tops, bottoms = runs.columns * period + runs.tops, runs.columns * period + runs.bottoms
    # The range of runs in the next column that end below this run's top and begin above its bottom.
    first = np.searchsorted(bottoms, tops + period, side="right")
    last = np.searchsorted(tops, bottoms + period, side="left")
    num_neighbours = np.maximum(last - first, 0)
    a = np.repeat(np.arange(len(tops)), num_neighbours)
    b = (
        np.arange(int(num_neighbours.sum()))
        - np.repeat(np.cumsum(num_neighbours) - num_neighbours, num_neighbours)
        + np.repeat(first, num_neighbours)
    )
    return a, b


def intersection(a: MaskRuns, b: MaskRuns, height: int, width: int) -> MaskRuns:
    """Return the intersection of two masks of one (height, width) image."""
    box = 0, 0, width, height
    intersection_counts, _ = ops.rle_combine(
        *_concatenated_counts([a], box), *_concatenated_counts([b], box), INTERSECTION
    )
    return MaskRuns.from_counts(intersection_counts.numpy(), height)
