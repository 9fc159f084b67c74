"""Masks of overlapping tiles -> the objects of the raster.

1. `links.py` finds masks of two tiles that agree where the tiles overlap.
2. Linked masks are one object, the links with most pixels first. A link is refused where it would make one object of
   two masks that one tile shows overlapping or side by side: that tile saw two.
3. A mask that its tile cuts off, and that has no partner beyond the cut, takes a weak link, or one that was refused;
   masks of a tile that share most of the smaller one are then no reason to refuse. What is still cut off goes where a
   tile that shows what lies beyond the cut has a mask, no smaller, that covers it.
4. An object's mask is the union of its pieces.

Other tools match in the same way, by IoU or by the share of the smaller one, and unite masks or keep the best; there
pieces are compared as wholes, so that a long object, of which a neighbour shows a short piece, is matched by chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..runs import MaskRuns
from . import shapes
from .grid import Grid, intersection, is_empty
from .links import Link, find_links
from .pieces import Piece, piece_of

# Of a mask that is cut off, the share that another one has to cover to take its place.
COVERED = 0.8
# Of the smaller of two masks of a tile, the share they have in common from which they are views of one thing: things
# side by side share next to nothing, and what SAM makes of one thing, from several points, much.
ONE_THING = 0.5
# A mask that comes this near to its tile's edge is taken for cut off: one pixel of the 256 along a side in which SAM
# predicts masks.
_LOW_RES = 256


def merge(
    pieces: Sequence[Piece], grid: Grid, merge_iou: float, step: Callable[[], Any] = lambda: None
) -> Iterator[Piece]:
    """Objects, by their first pieces: the whole masks, each with the tile of its first piece.

    pieces: of all tiles, in the order of the tiles. step: called once for each tile that was compared with others.
    An object's predicted IoU and stability are the means over its pieces, weighted by their areas.
    """
    of_tile: dict[int, list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        of_tile[piece.tile].append(number)
    groups = _Groups(pieces)
    weak: list[Link] = []
    strong: list[Link] = []
    for tile in range(len(grid)):
        for link in _links_of(tile, pieces, of_tile, grid, merge_iou):
            (weak if link.weak else strong).append(link)
        step()
    weak += [link for link in sorted(strong, key=_strength) if not groups.unite(link, views=False)]
    cuts = _Cuts(pieces, grid)
    for link in sorted(weak, key=_strength):
        ends = ((link.first, link.second), (link.second, link.first))
        if any(cuts.is_open(end, groups) and cuts.shows_beyond(end, pieces[other].tile) for end, other in ends):
            groups.unite(link, views=True)
    for members in groups.all():
        whole = _whole([pieces[number] for number in members])
        if not _shown_better(members, whole, pieces, of_tile, grid, groups, cuts):
            yield whole


def _strength(link: Link) -> tuple[int, int, int]:
    return -link.pixels, link.first, link.second


def _links_of(
    tile: int, pieces: Sequence[Piece], of_tile: dict[int, list[int]], grid: Grid, merge_iou: float
) -> Iterator[Link]:
    """Links from a tile to those of greater numbers."""
    if not of_tile.get(tile):
        return
    own = {number: pieces[number].runs() for number in of_tile[tile]}
    for other, box in grid.pairs(tile):
        mine = {number: runs for number, runs in own.items() if not is_empty(intersection(pieces[number].box, box))}
        theirs = {
            number: pieces[number].runs()
            for number in of_tile.get(other, ())
            if not is_empty(intersection(pieces[number].box, box))
        }
        if mine and theirs:
            yield from find_links(mine, theirs, box, merge_iou)


class _Groups:
    """Which pieces are one object: a union-find over their numbers."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._root = list(range(len(pieces)))
        self._members: dict[int, list[int]] = {number: [number] for number in self._root}
        self.linked: dict[int, set[int]] = defaultdict(set)  # of each piece, the tiles it has partners in

    def root(self, number: int) -> int:
        """The number that stands for the object of a piece."""
        while self._root[number] != number:
            self._root[number] = self._root[self._root[number]]
            number = self._root[number]
        return number

    def all(self) -> list[list[int]]:
        """The pieces of each object, in order, by the first ones."""
        return sorted(map(sorted, self._members.values()))

    def unite(self, link: Link, views: bool) -> bool:
        """Make one object of two pieces' objects, unless a tile shows two; whether they are one now.

        views: a tile's views of one thing aren't two.
        """
        a, b = self.root(link.first), self.root(link.second)
        if a != b:
            small, large = sorted((a, b), key=lambda root: (len(self._members[root]), root))
            if self._tells_apart(small, large, views):
                return False
            self._root[small] = large
            self._members[large] += self._members.pop(small)
        self.linked[link.first].add(self._pieces[link.second].tile)
        self.linked[link.second].add(self._pieces[link.first].tile)
        return True

    def _tells_apart(self, small: int, large: int, views: bool) -> bool:
        tiles = defaultdict(list)
        for number in self._members[small]:
            tiles[self._pieces[number].tile].append(number)
        return any(
            _are_two(self._pieces[number], self._pieces[other], views)
            for other in self._members[large]
            for number in tiles.get(self._pieces[other].tile, ())
        )


def _are_two(a: Piece, b: Piece, views: bool) -> bool:
    """Whether two masks of one tile share pixels or an edge; with `views`, not where they are views of one thing."""
    grown = a.box[0] - 1, a.box[1] - 1, a.box[2] + 1, a.box[3] + 1
    if is_empty(intersection(grown, b.box)):
        return False
    a_runs, b_runs = a.runs(), b.runs()
    if not shapes.meets(a_runs, b_runs):
        return False
    return not (views and _common(a_runs, b_runs, a, b) >= ONE_THING * min(a.area, b.area))


def _common(a_runs: MaskRuns, b_runs: MaskRuns, a: Piece, b: Piece) -> int:
    """Pixels that two masks share."""
    box = intersection(a.box, b.box)
    if is_empty(box):
        return 0
    return shapes.shared(shapes.clipped(a_runs, box), shapes.clipped(b_runs, box), box)


class _Cuts:
    """Where tiles cut masks off: at edges of theirs that aren't the raster's."""

    def __init__(self, pieces: Sequence[Piece], grid: Grid) -> None:
        self._pieces, self._grid = pieces, grid
        self._near = -(-grid.side // _LOW_RES)

    def edges(self, number: int) -> list[int]:
        """The places in a box of the tile's edges at which a piece is cut off: 0 left, 1 top, 2 right, 3 bottom."""
        piece = self._pieces[number]
        tile, raster = self._grid[piece.tile].box, (0, 0, self._grid.width, self._grid.height)
        return [
            side for side in range(4) if tile[side] != raster[side] and abs(piece.box[side] - tile[side]) < self._near
        ]

    def is_open(self, number: int, groups: _Groups) -> bool:
        """Whether a piece is cut off somewhere and has no partner in a tile that shows what lies beyond."""
        return any(
            not any(self._is_beyond(number, side, tile) for tile in groups.linked.get(number, ()))
            for side in self.edges(number)
        )

    def shows_beyond(self, number: int, tile: int) -> bool:
        """Whether a tile shows what lies beyond an edge at which a piece is cut off."""
        return any(self._is_beyond(number, side, tile) for side in self.edges(number))

    def _is_beyond(self, number: int, side: int, tile: int) -> bool:
        own, other = self._grid[self._pieces[number].tile].box[side], self._grid[tile].box[side]
        return other < own if side < 2 else other > own


def _whole(pieces: Sequence[Piece]) -> Piece:
    """One mask of an object's pieces."""
    if len(pieces) == 1:
        return pieces[0]
    areas = [piece.area for piece in pieces]
    return piece_of(
        pieces[0].tile,
        shapes.union([piece.runs() for piece in pieces]),
        float(np.average([piece.predicted_iou for piece in pieces], weights=areas)),
        float(np.average([piece.stability for piece in pieces], weights=areas)),
    )


def _shown_better(
    members: Sequence[int],
    whole: Piece,
    pieces: Sequence[Piece],
    of_tile: dict[int, list[int]],
    grid: Grid,
    groups: _Groups,
    cuts: _Cuts,
) -> bool:
    """Whether an object is cut off, and a mask of a tile that shows what lies beyond, no smaller, covers it."""
    runs = None
    own = groups.root(members[0])
    for number in members:
        if not cuts.is_open(number, groups):
            continue
        for tile in grid.near(pieces[number].tile):
            if not cuts.shows_beyond(number, tile):
                continue
            for other in of_tile.get(tile, ()):
                rival = pieces[other]
                box = intersection(rival.box, whole.box)
                enough = COVERED * whole.area
                size = 0 if is_empty(box) else (box[2] - box[0]) * (box[3] - box[1])
                if size < enough or groups.root(other) == own:
                    continue
                if (rival.area, -groups.root(other)) < (whole.area, -own):
                    continue
                runs = whole.runs() if runs is None else runs
                if _common(runs, rival.runs(), whole, rival) >= enough:
                    return True
    return False
