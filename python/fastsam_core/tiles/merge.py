"""Merge the masks of overlapping tiles into the objects of the raster.

1. links.py finds pairs of masks from two tiles that agree where the tiles overlap.
2. Linked masks are united into one object, starting with the links of most shared pixels. A link is refused if it would
   unite two masks that one tile shows as overlapping or adjacent, since that tile saw two objects there.
3. If a tile's edge cuts off a mask and no linked mask continues it beyond that edge, weak links and refused links are
   tried too. Two masks of one tile then prevent a link only if they share less than `ONE_THING` of the smaller one:
   otherwise they are views of the same thing. An object that is still cut off is dropped if a tile that shows what lies
   beyond the edge has another mask, at least as large, that covers it.
4. An object's mask is the union of its pieces.

Other tools also match by IoU, or by intersection over the smaller mask, and unite the masks or keep the best one. They
compare whole pieces, though, so whether a long object matches is a matter of chance when the neighbouring tile shows
only a short piece of it.
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

# Fraction of a cut-off object that another mask must cover to replace it.
COVERED = 0.8
# Two masks of one tile count as views of the same thing if they share at least this fraction of the smaller one.
# Adjacent things share almost no pixels; the masks that SAM finds for one thing from several points share many.
ONE_THING = 0.5
# SAM predicts masks of 256 x 256 pixels. A mask closer to its tile's edge than one of these pixels counts as cut off.
_LOW_RES = 256


def merge(
    pieces: Sequence[Piece], grid: Grid, merge_iou: float, step: Callable[[], Any] = lambda: None
) -> Iterator[Piece]:
    """Yield each object as one merged piece, in the order of the objects' first pieces.

    pieces: the masks of all tiles, ordered by tile. step: called once per tile, after it was compared with others. A
    merged piece has the tile number of its first piece. Its predicted IoU and stability are averages over its pieces,
    weighted by area.
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
    """Yield the links between masks of a tile and masks of overlapping tiles with greater numbers."""
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
    """A union-find over piece numbers; each group is one object."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._root = list(range(len(pieces)))
        self._members: dict[int, list[int]] = {number: [number] for number in self._root}
        self.linked: dict[int, set[int]] = defaultdict(set)  # piece -> tiles of its linked pieces

    def root(self, number: int) -> int:
        """Return the representative piece number of a piece's group."""
        while self._root[number] != number:
            self._root[number] = self._root[self._root[number]]
            number = self._root[number]
        return number

    def all(self) -> list[list[int]]:
        """Return the sorted piece numbers of each group, ordered by the first."""
        return sorted(map(sorted, self._members.values()))

    def unite(self, link: Link, views: bool) -> bool:
        """Unite the groups of two linked pieces, unless one tile shows them as two objects.

        Return whether they are one group now. views: masks of one tile that are views of the same thing don't count as
        two objects, see `ONE_THING`.
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
        """Return whether some tile shows a mask of each group as two objects."""
        tiles = defaultdict(list)
        for number in self._members[small]:
            tiles[self._pieces[number].tile].append(number)
        return any(
            _are_two(self._pieces[number], self._pieces[other], views)
            for other in self._members[large]
            for number in tiles.get(self._pieces[other].tile, ())
        )


def _are_two(a: Piece, b: Piece, views: bool) -> bool:
    """Return whether two masks of one tile overlap or touch along an edge, i.e. are two objects that must stay apart.

    With `views`, return False for masks that share so much that they are views of the same thing.
    """
    grown = a.box[0] - 1, a.box[1] - 1, a.box[2] + 1, a.box[3] + 1
    if is_empty(intersection(grown, b.box)):
        return False
    a_runs, b_runs = a.runs(), b.runs()
    if not shapes.meets(a_runs, b_runs):
        return False
    return not (views and _common(a_runs, b_runs, a, b) >= ONE_THING * min(a.area, b.area))


def _common(a_runs: MaskRuns, b_runs: MaskRuns, a: Piece, b: Piece) -> int:
    """Return the number of pixels that two masks share."""
    box = intersection(a.box, b.box)
    if is_empty(box):
        return 0
    return shapes.shared(shapes.clipped(a_runs, box), shapes.clipped(b_runs, box), box)


class _Cuts:
    """Tells where tile edges cut off masks. Tile edges on the raster's border don't count."""

    def __init__(self, pieces: Sequence[Piece], grid: Grid) -> None:
        self._pieces, self._grid = pieces, grid
        self._near = -(-grid.side // _LOW_RES)

    def edges(self, number: int) -> list[int]:
        """Return the tile edges that cut off a piece, as indices into a box: 0 left, 1 top, 2 right, 3 bottom."""
        piece = self._pieces[number]
        tile, raster = self._grid[piece.tile].box, (0, 0, self._grid.width, self._grid.height)
        return [
            side for side in range(4) if tile[side] != raster[side] and abs(piece.box[side] - tile[side]) < self._near
        ]

    def is_open(self, number: int, groups: _Groups) -> bool:
        """Return whether an edge cuts off a piece and no tile beyond that edge has a piece linked to it."""
        return any(
            not any(self._is_beyond(number, side, tile) for tile in groups.linked.get(number, ()))
            for side in self.edges(number)
        )

    def shows_beyond(self, number: int, tile: int) -> bool:
        """Return whether a tile extends beyond an edge that cuts off a piece."""
        return any(self._is_beyond(number, side, tile) for side in self.edges(number))

    def _is_beyond(self, number: int, side: int, tile: int) -> bool:
        own, other = self._grid[self._pieces[number].tile].box[side], self._grid[tile].box[side]
        return other < own if side < 2 else other > own


def _whole(pieces: Sequence[Piece]) -> Piece:
    """Merge the pieces of an object into one."""
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
    """Return whether an object is cut off and another mask shows it better.

    Such a mask belongs to another object, lies in a tile that extends beyond the cut, is at least as large (of equally
    large ones the first wins), and covers at least `COVERED` of the object.
    """
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
