"""Which masks of two tiles that share pixels are one object: what they show of it there has to agree.

Compared is only what lies in the shared box, as neither tile knows what the other sees beyond. Whole masks are compared
first, then the connected parts of what they show there: of an arch whose feet lie in the box, one tile has one mask and
the other two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..runs import MaskRuns
from . import shapes
from .grid import Box


class Link(NamedTuple):
    """Two masks that are one object, by their numbers, and how many pixels speak for it.

    weak: one of them has a better partner among the other tile's masks already.
    """

    first: int
    second: int
    pixels: int
    weak: bool


def find_links(first: Mapping[int, MaskRuns], second: Mapping[int, MaskRuns], box: Box, merge_iou: float) -> list[Link]:
    """Links between the masks of one tile and those of another, by number, given their runs; box: what both show.

    Partners are found greedily, the highest IoU first, and each mask, or connected part of one, has one partner at
    most: of nested masks in both tiles, the outer goes with the outer and the inner with the inner. A mask that is left
    without a partner has a weak link to the mask it agrees with most, if their IoU is above `merge_iou`.
    """
    a, b = _Side(first, box), _Side(second, box)
    if not a.parts or not b.parts:
        return []
    i, j, pixels = shapes.shared_pairs(a.parts, b.parts, box)
    of_parts = _Table(i, j, pixels, a.part_areas, b.part_areas)
    of_masks = _Table(*_summed(a.owners[i], b.owners[j], pixels), a.mask_areas, b.mask_areas)
    pairs = set(of_masks.partners(merge_iou))
    pairs |= {(int(a.owners[i]), int(b.owners[j])) for i, j in of_parts.partners(merge_iou)}
    weak = of_masks.best(merge_iou, {i for i, _ in pairs}, {j for _, j in pairs})
    return [
        Link(a.numbers[i], b.numbers[j], of_masks.pixels_of[i, j], is_weak)
        for found, is_weak in ((pairs, False), (weak, True))
        for i, j in sorted(found)
    ]


class _Side:
    """What one tile's masks show in the shared box, mask by mask in connected parts."""

    def __init__(self, masks: Mapping[int, MaskRuns], box: Box) -> None:
        self.numbers: list[int] = []
        self.parts: list[MaskRuns] = []
        owners: list[int] = []
        starts: list[int] = []
        for number, runs in masks.items():
            found = shapes.parts(shapes.clipped(runs, box))
            if not found:
                continue
            starts.append(len(self.parts))
            owners += [len(self.numbers)] * len(found)
            self.numbers.append(number)
            self.parts += found
        self.owners = np.array(owners, np.int64)  # of each part, the place of its mask in `numbers`
        self.part_areas = np.array([part.area() for part in self.parts], np.int64)
        self.mask_areas = np.add.reduceat(self.part_areas, starts) if starts else self.part_areas


class _Table:
    """Which rows and columns share pixels, how many, and their IoU, the highest first."""

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
        self.pixels_of = dict(zip(self._pairs, pixels[order].tolist(), strict=True))

    def partners(self, above: float) -> Iterator[tuple[int, int]]:
        """Pairs with an IoU above the threshold, of which each row and each column is in one at most."""
        rows, columns = set(), set()
        for row, column in self._above(above):
            if row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
                yield row, column

    def best(self, above: float, rows: Collection[int], columns: Collection[int]) -> set[tuple[int, int]]:
        """The best pair above the threshold of each row, and of each column, that is not among the given ones."""
        of_rows: dict[int, tuple[int, int]] = {}
        of_columns: dict[int, tuple[int, int]] = {}
        for row, column in self._above(above):
            if row not in rows:
                of_rows.setdefault(row, (row, column))
            if column not in columns:
                of_columns.setdefault(column, (row, column))
        return {*of_rows.values(), *of_columns.values()}

    def _above(self, above: float) -> list[tuple[int, int]]:
        return self._pairs[: int((self._iou > above).sum())]


def _summed(
    rows: NDArray[np.int64], columns: NDArray[np.int64], pixels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each pair of a row and a column once, with the sum of its pixels."""
    pairs, place = np.unique(np.stack([rows, columns], 1), axis=0, return_inverse=True)
    sums = np.zeros(len(pairs), np.int64)
    np.add.at(sums, place.reshape(-1), pixels)
    return pairs[:, 0], pairs[:, 1], sums
