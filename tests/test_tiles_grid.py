"""The tiles of a raster: that they cover it, which of them overlap, and which sizes are refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsam_core.tiles.grid import Grid
from raster_examples import tilings


@settings(max_examples=100, deadline=None)
@given(sides=st.tuples(st.integers(1, 400), st.integers(1, 400)), tiling=tilings())
def test_grids_cover_the_raster(sides: tuple[int, int], tiling: tuple[int, int]) -> None:
    (height, width), (tile, overlap) = sides, tiling
    grid = Grid(height, width, tile, overlap)
    for side, boxes in (
        (width, [t.box[::2] for t in grid if t.row == 0]),
        (height, [t.box[1::2] for t in grid if t.column == 0]),
    ):
        assert boxes[0][0] == 0 and boxes[-1][1] == side
        assert all(end - start == min(side, tile) for start, end in boxes)
        assert all(after[0] > before[0] for before, after in pairwise(boxes))
        assert all(before[1] - after[0] >= overlap for before, after in pairwise(boxes))


@pytest.mark.parametrize("size", [(70, 90), (64, 96)])  # in the second, every other tile touches but does not overlap
def test_grid_pairs_are_the_overlapping_tiles(size: tuple[int, int]) -> None:
    grid = Grid(*size, 32, 16)
    boxes = [tile.box for tile in grid]
    for number, a in enumerate(boxes):
        meeting = {
            other: (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
            for other, b in enumerate(boxes)
            if other != number and max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
        }
        assert dict(grid.overlaps(number)) == {other: box for other, box in meeting.items() if other > number}
        assert grid.neighbours(number) == sorted(meeting)


@pytest.mark.parametrize(("tile", "overlap"), [(1, 1), (64, 0), (64, 33), (64.0, 8), (64, True)])
def test_invalid_grids_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises((ValueError, TypeError), match=r"tile|overlap"):
        Grid(100, 100, tile, overlap)
