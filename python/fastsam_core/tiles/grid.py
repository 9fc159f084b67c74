"""Layout of a raster's tiles, and which of them overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .. import option_parsers as parse

Box = tuple[int, int, int, int]


class Tile(NamedTuple):
    """One tile: its number, its row and column in the grid, and its box in raster pixels (x2 and y2 exclusive)."""

    number: int
    row: int
    column: int
    box: Box  # x1, y1, x2, y2

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.box[3] - self.box[1], self.box[2] - self.box[0]


class Grid:
    """Tiles that cover a raster, numbered row by row.

    height, width: size of the raster. tile: side of a tile in pixels. overlap: minimum number of pixels that neighbours
    share, from 1 to half a tile. All tiles have the same size, so that the model sees the whole raster at one scale.
    They are spread evenly along each side, so neighbours may share more than `overlap`. A side no longer than `tile`
    gets a single tile of that length.
    """

    def __init__(self, height: int, width: int, tile: int, overlap: int) -> None:
        tile, overlap = parse.integer(2)("tile", tile), parse.integer(1)("overlap", overlap)
        if 2 * overlap > tile:
            raise ValueError(f"overlap must be at most half of tile={tile}, not {overlap}")
        self.height, self.width, self.tile_size, self.overlap = height, width, tile, overlap
        self._rows = _spans(height, tile, overlap)
        self._columns = _spans(width, tile, overlap)

    def __len__(self) -> int:
        return len(self._rows) * len(self._columns)

    def __iter__(self) -> Iterator[Tile]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Tile:
        """Return the tile with the given number, counted from 0."""
        row, column = divmod(number, len(self._columns))
        (y1, y2), (x1, x2) = self._rows[row], self._columns[column]
        return Tile(number, row, column, (x1, y1, x2, y2))

    def overlaps(self, number: int) -> Iterator[tuple[int, Box]]:
        """Yield each tile with a greater number that overlaps tile `number`, together with the box of the overlap."""
        for other in self.neighbours(number):
            if other > number:
                yield other, intersection(self[number].box, self[other].box)

    def neighbours(self, number: int) -> list[int]:
        """Return the numbers of all other tiles that overlap tile `number`, in ascending order."""
        tile = self[number]
        rows = [i for i, (top, bottom) in enumerate(self._rows) if top < tile.box[3] and bottom > tile.box[1]]
        columns = [i for i, (left, right) in enumerate(self._columns) if left < tile.box[2] and right > tile.box[0]]
        numbers = [row * len(self._columns) + column for row in rows for column in columns]
        return [other for other in numbers if other != number]


def intersection(a: Box, b: Box) -> Box:
    """Return the intersection of two boxes. If it is empty, x2 <= x1 or y2 <= y1; see `is_empty`."""
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def is_empty(box: Box) -> bool:
    """Return whether a box contains no pixels."""
    return box[0] >= box[2] or box[1] >= box[3]


def _spans(side: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return (start, end) of each tile along one side of the raster."""
    if side <= tile:
        return [(0, side)]
    steps = -(-(side - tile) // (tile - overlap))
    starts = [i * (side - tile) // steps for i in range(steps + 1)]
    return [(start, start + tile) for start in starts]
