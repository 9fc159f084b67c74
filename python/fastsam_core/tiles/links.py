"""Which masks of two tiles that share pixels are one object: what they show of it there has to agree.

Compared is only what lies in the shared box, as neither tile knows what the other sees beyond. Whole masks are compared
first, then the connected parts of what they show there: of an arch whose feet lie in the box, one tile has one mask and
the other two.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
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
    of_parts = shapes.shared(a.parts, b.parts, box)
    of_masks = np.add.reduceat(np.add.reduceat(of_parts, a.firsts, axis=0), b.firsts, axis=1)
    iou = _iou(of_masks, a.mask_areas, b.mask_areas)
    pairs = set(_greedy(iou, of_masks, merge_iou))
    # Parts that a mask's partner covers have found theirs.
    of_part_and_mask = np.add.reduceat(of_parts, b.firsts, axis=1)
    of_mask_and_part = np.add.reduceat(of_parts, a.firsts, axis=0)
    a_free, b_free = np.ones(len(a.parts), bool), np.ones(len(b.parts), bool)
    for i, j in pairs:
        mine, theirs = a.slices[i], b.slices[j]
        a_free[mine] &= of_part_and_mask[mine, j] <= merge_iou * a.part_areas[mine]
        b_free[theirs] &= of_mask_and_part[i, theirs] <= merge_iou * b.part_areas[theirs]
    part_iou = _iou(of_parts, a.part_areas, b.part_areas)
    part_iou[~a_free] = part_iou[:, ~b_free] = 0
    pairs |= {(a.owners[i], b.owners[j]) for i, j in _greedy(part_iou, of_parts, merge_iou)}
    links = [Link(a.numbers[i], b.numbers[j], int(of_masks[i, j]), False) for i, j in sorted(pairs)]
    weak = _weak_pairs(iou, {i for i, _ in pairs}, merge_iou)
    weak |= {(i, j) for j, i in _weak_pairs(iou.T, {j for _, j in pairs}, merge_iou)}
    return links + [Link(a.numbers[i], b.numbers[j], int(of_masks[i, j]), True) for i, j in sorted(weak)]


class _Side:
    """What one tile's masks show in the shared box, mask by mask in connected parts."""

    def __init__(self, masks: Mapping[int, MaskRuns], box: Box) -> None:
        self.numbers: list[int] = []
        self.parts: list[MaskRuns] = []
        self.owners: list[int] = []  # of each part, the place of its mask in `numbers`
        starts = []
        for number, runs in masks.items():
            found = shapes.parts(shapes.clipped(runs, box), corners=False)
            if not found:
                continue
            starts.append(len(self.parts))
            self.owners += [len(self.numbers)] * len(found)
            self.numbers.append(number)
            self.parts += found
        self.firsts = np.array(starts, np.int64)
        self.slices = [slice(i, j) for i, j in pairwise([*starts, len(self.parts)])]
        self.part_areas = np.array([part.area() for part in self.parts], np.int64)
        self.mask_areas = np.add.reduceat(self.part_areas, self.firsts) if starts else self.part_areas


def _iou(common: NDArray[np.int64], a_areas: NDArray[np.int64], b_areas: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = common / (a_areas[:, None] + b_areas[None] - common)
    return found


def _greedy(iou: NDArray[np.float64], common: NDArray[np.int64], above: float) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(iou > above)
    order = np.lexsort((columns, rows, -common[rows, columns], -iou[rows, columns]))
    taken_rows, taken_columns, found = set(), set(), []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in taken_rows and j not in taken_columns:
            taken_rows.add(i)
            taken_columns.add(j)
            found.append((i, j))
    return found


def _weak_pairs(iou: NDArray[np.float64], taken: set[int], above: float) -> set[tuple[int, int]]:
    best = iou.argmax(1)
    return {(i, int(best[i])) for i in range(len(iou)) if i not in taken and float(iou[i, best[i]]) > above}
