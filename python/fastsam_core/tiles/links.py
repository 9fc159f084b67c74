"""Find which masks of two overlapping tiles show the same object.

Masks are compared only within the box that both tiles share, since neither tile sees what the other shows beyond it.
Both whole masks and their connected parts within that box are matched. Parts matter for shapes such as an arch whose
feet reach into the box: one tile has a single mask for both feet, the other has two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..runs import MaskRuns
from . import run_algebra
from .grid import Box


class Link(NamedTuple):
    """Numbers of two masks that show the same object, and how many pixels they share.

    weak: one of the masks already has a better partner among the other tile's masks.
    """

    first: int
    second: int
    pixels: int
    weak: bool


def find_links(first: Mapping[int, MaskRuns], second: Mapping[int, MaskRuns], box: Box, merge_iou: float) -> list[Link]:
    """Find the links between the masks of two tiles.

    first, second: the masks' runs by mask number. box: the area that both tiles show.

    Partners are matched greedily, the highest IoU first. Each mask as a whole, and each connected part, has at most one
    partner. So if both tiles show nested masks, outer matches outer and inner matches inner. A mask without a partner
    gets a weak link to the mask with which its IoU is highest, if that is above `merge_iou`.
    """
    a, b = _TileMasks(first, box), _TileMasks(second, box)
    if not a.parts or not b.parts:
        return []
    i, j, pixels = run_algebra.overlapping_pairs(a.parts, b.parts, box)
    part_overlaps = _OverlapTable(i, j, pixels, a.part_areas, b.part_areas)
    mask_overlaps = _OverlapTable(
        *_sum_duplicates(a.mask_of_part[i], b.mask_of_part[j], pixels), a.mask_areas, b.mask_areas
    )
    pairs = set(mask_overlaps.greedy_matches(merge_iou))
    pairs |= {(int(a.mask_of_part[i]), int(b.mask_of_part[j])) for i, j in part_overlaps.greedy_matches(merge_iou)}
    weak = mask_overlaps.best_matches(merge_iou, {i for i, _ in pairs}, {j for _, j in pairs})
    return [
        Link(a.mask_numbers[i], b.mask_numbers[j], mask_overlaps.shared_pixels[i, j], is_weak)
        for matches, is_weak in ((pairs, False), (weak, True))
        for i, j in sorted(matches)
    ]


class _TileMasks:
    """The masks of one tile, clipped to the shared box and split into connected parts."""

    def __init__(self, masks: Mapping[int, MaskRuns], box: Box) -> None:
        self.mask_numbers: list[int] = []
        self.parts: list[MaskRuns] = []
        mask_of_part: list[int] = []
        starts: list[int] = []
        for number, runs in masks.items():
            components = run_algebra.connected_components(run_algebra.clip(runs, box))
            if not components:
                continue
            starts.append(len(self.parts))
            mask_of_part += [len(self.mask_numbers)] * len(components)
            self.mask_numbers.append(number)
            self.parts += components
        self.mask_of_part = np.array(mask_of_part, np.int64)  # part -> index of its mask in `mask_numbers`
        self.part_areas = np.array([part.area() for part in self.parts], np.int64)
        self.mask_areas = np.add.reduceat(self.part_areas, starts) if starts else self.part_areas


class _OverlapTable:
    """Pairs of overlapping masks (one as row, one as column) with shared pixels and IoU, the highest IoU first."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        pixels: NDArray[np.int64],
        row_areas: NDArray[np.int64],
        column_areas: NDArray[np.int64],
    ) -> None:
        iou = pixels / (row_areas[rows] + column_areas[columns] - pixels)
        order = np.lexsort((columns, rows, -pixels, -iou))
        self._pairs = list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))
        self._iou = iou[order]
        self.shared_pixels = dict(zip(self._pairs, pixels[order].tolist(), strict=True))

    def greedy_matches(self, threshold: float) -> Iterator[tuple[int, int]]:
        """Yield pairs with an IoU above the threshold, greedily: each row and each column occurs at most once."""
        rows, columns = set(), set()
        for row, column in self._pairs_above(threshold):
            if row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
                yield row, column

    def best_matches(self, threshold: float, rows: Collection[int], columns: Collection[int]) -> set[tuple[int, int]]:
        """Return the best pair above the threshold for each row not in `rows` and each column not in `columns`."""
        row_matches: dict[int, tuple[int, int]] = {}
        column_matches: dict[int, tuple[int, int]] = {}
        for row, column in self._pairs_above(threshold):
            if row not in rows:
                row_matches.setdefault(row, (row, column))
            if column not in columns:
                column_matches.setdefault(column, (row, column))
        return {*row_matches.values(), *column_matches.values()}

    def _pairs_above(self, threshold: float) -> list[tuple[int, int]]:
        return self._pairs[: int((self._iou > threshold).sum())]


def _sum_duplicates(
    rows: NDArray[np.int64], columns: NDArray[np.int64], pixels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sum the pixels of equal (row, column) pairs and return each pair once."""
    pairs, inverse = np.unique(np.stack([rows, columns], 1), axis=0, return_inverse=True)
    sums = np.zeros(len(pairs), np.int64)
    np.add.at(sums, inverse.reshape(-1), pixels)
    return pairs[:, 0], pairs[:, 1], sums
