"""Which masks of two overlapping tiles are linked, and how strongly."""

from __future__ import annotations

import numpy as np
import pytest

from fastsam_core.runs import MaskRuns
from fastsam_core.tiles.links import Link, find_links

BOX = (100, 50, 120, 70)  # the area that both tiles show


def square(side: int) -> MaskRuns:
    """Return a mask of `side` x `side` pixels in the box's upper left corner."""
    return MaskRuns.from_mask(np.ones((side, side), bool), BOX[0], BOX[1])


def test_each_mask_is_linked_to_one_partner() -> None:
    links = find_links({1: square(20), 2: square(10)}, {7: square(9), 8: square(18)}, BOX, 0.5)
    assert links == [Link(1, 8, 324, False), Link(2, 7, 81, False)]


def test_mask_without_a_partner_is_linked_weakly_to_the_most_similar_one() -> None:
    links = find_links({1: square(20), 2: square(18)}, {7: square(19)}, BOX, 0.5)
    assert links == [Link(1, 7, 361, False), Link(2, 7, 324, True)]
    links = find_links({7: square(19)}, {1: square(20), 2: square(18)}, BOX, 0.5)
    assert links == [Link(7, 1, 361, False), Link(7, 2, 324, True)]


@pytest.mark.parametrize(("merge_iou", "found"), [(0.24, 1), (0.25, 0), (0.9, 0)])
def test_iou_must_be_above_the_threshold(merge_iou: float, found: int) -> None:
    assert len(find_links({1: square(20)}, {7: square(10)}, BOX, merge_iou)) == found


def test_only_the_shared_area_counts() -> None:
    outside = MaskRuns.from_mask(np.ones((30, 20), bool), BOX[0] - 20, BOX[1])
    assert find_links({1: outside}, {7: square(10)}, BOX, 0.5) == []
    wide = MaskRuns.from_mask(np.ones((10, 50), bool), BOX[0] - 40, BOX[1])
    assert find_links({1: wide}, {7: square(10)}, BOX, 0.5) == [Link(1, 7, 100, False)]
