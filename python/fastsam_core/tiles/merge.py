"""Merge the masks of overlapping tiles into the objects of the raster.

1. links.py finds pairs of masks from two tiles that agree where the tiles overlap.
2. Linked masks are united into one object, starting with the links of most shared pixels. A link is refused if it would
   unite two masks that one tile shows as overlapping or adjacent, since that tile saw two objects there.
3. If a tile's edge cuts off a mask and no linked mask continues it beyond that edge, weak links and refused links are
   tried too. Two masks of one tile then prevent a link only if they share less than `SAME_OBJECT_OVERLAP` of the
   smaller one: otherwise they are views of the same thing. An object that is still cut off is dropped if a tile that
   shows what lies beyond the edge has another mask, at least as large, that covers it.
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
from . import run_algebra
from .grid import Grid, intersection, is_empty
from .links import Link, find_links
from .pieces import Piece, piece_from_runs

# Fraction of a cut-off object that another mask must cover to replace it.
COVERED_FRACTION = 0.8
# Two masks of one tile count as views of the same thing if they share at least this fraction of the smaller one.
# Adjacent things share almost no pixels; the masks that SAM finds for one thing from several points share many.
SAME_OBJECT_OVERLAP = 0.5
# SAM predicts masks of 256 x 256 pixels. A mask closer to its tile's edge than one of these pixels counts as cut off.
_LOW_RES_SIZE = 256


def merge(
    pieces: Sequence[Piece], grid: Grid, merge_iou: float, on_tile_done: Callable[[], Any] = lambda: None
) -> Iterator[Piece]:
    """Yield each object as one merged piece, in the order of the objects' first pieces.

    pieces: the masks of all tiles, ordered by tile. on_tile_done: called once per tile, after it was compared with
    others. A merged piece has the tile number of its first piece. Its predicted IoU and stability are averages over its
    pieces, weighted by area.
    """
    pieces_by_tile: dict[int, list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        pieces_by_tile[piece.tile].append(number)
    union_find = _UnionFind(pieces)
    weak: list[Link] = []
    strong: list[Link] = []
    for tile in range(len(grid)):
        for link in _links_of(tile, pieces, pieces_by_tile, grid, merge_iou):
            (weak if link.weak else strong).append(link)
        on_tile_done()
    for link in sorted(strong, key=_link_order):
        union_find.union(link, allow_views=False)
    cut_edges = _CutEdges(pieces, grid)
    for link in sorted(weak + strong, key=_link_order):  # those that have united pieces change nothing
        directions = ((link.first, link.second), (link.second, link.first))
        if any(
            cut_edges.has_open_cut(end, union_find) and cut_edges.extends_beyond_cut(end, pieces[other].tile)
            for end, other in directions
        ):
            union_find.union(link, allow_views=True)
    for members in union_find.groups():
        merged = _merge_pieces([pieces[number] for number in members])
        if not _is_covered_by_better(members, merged, pieces, pieces_by_tile, grid, union_find, cut_edges):
            yield merged


def _link_order(link: Link) -> tuple[int, int, int]:
    return -link.pixels, link.first, link.second


def _links_of(
    tile: int, pieces: Sequence[Piece], pieces_by_tile: dict[int, list[int]], grid: Grid, merge_iou: float
) -> Iterator[Link]:
    """Yield the links between masks of a tile and masks of overlapping tiles with greater numbers."""
    if not pieces_by_tile.get(tile):
        return
    own_runs = {number: pieces[number].runs() for number in pieces_by_tile[tile]}
    for other, box in grid.overlaps(tile):
        first_masks = {
            number: runs for number, runs in own_runs.items() if not is_empty(intersection(pieces[number].box, box))
        }
        second_masks = {
            number: pieces[number].runs()
            for number in pieces_by_tile.get(other, ())
            if not is_empty(intersection(pieces[number].box, box))
        }
        if first_masks and second_masks:
            yield from find_links(first_masks, second_masks, box, merge_iou)


class _UnionFind:
    """A union-find over piece numbers; each group is one object."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._parent = list(range(len(pieces)))
        self._members: dict[int, list[int]] = {number: [number] for number in self._parent}
        self.linked_tiles: dict[int, set[int]] = defaultdict(set)  # piece -> tiles of its linked pieces

    def find(self, number: int) -> int:
        """Return the representative piece number of a piece's group."""
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def groups(self) -> list[list[int]]:
        """Return the sorted piece numbers of each group, ordered by the first."""
        return sorted(map(sorted, self._members.values()))

    def union(self, link: Link, allow_views: bool) -> None:
        """Unite the groups of two linked pieces, unless one tile shows them as two objects.

        allow_views: masks of one tile that are views of the same thing don't count as two objects, see
        `SAME_OBJECT_OVERLAP`.
        """
        a, b = self.find(link.first), self.find(link.second)
        if a != b:
            small, large = sorted((a, b), key=lambda root: (len(self._members[root]), root))
            if self._are_separate_groups(small, large, allow_views):
                return
            self._parent[small] = large
            self._members[large] += self._members.pop(small)
        self.linked_tiles[link.first].add(self._pieces[link.second].tile)
        self.linked_tiles[link.second].add(self._pieces[link.first].tile)

    def _are_separate_groups(self, small: int, large: int, allow_views: bool) -> bool:
        """Return whether some tile shows a mask of each group as two objects."""
        small_by_tile = defaultdict(list)
        for number in self._members[small]:
            small_by_tile[self._pieces[number].tile].append(number)
        return any(
            _are_separate_objects(self._pieces[number], self._pieces[other], allow_views)
            for other in self._members[large]
            for number in small_by_tile.get(self._pieces[other].tile, ())
        )


def _are_separate_objects(a: Piece, b: Piece, allow_views: bool) -> bool:
    """Return whether two masks of one tile overlap or touch along an edge, i.e. are two objects that must stay apart.

    With `allow_views`, return False for masks that share so much that they are views of the same thing.
    """
    expanded_box = a.box[0] - 1, a.box[1] - 1, a.box[2] + 1, a.box[3] + 1
    if is_empty(intersection(expanded_box, b.box)):
        return False
    a_runs, b_runs = a.runs(), b.runs()
    if not run_algebra.overlaps_or_touches(a_runs, b_runs):
        return False
    return not (allow_views and _intersection_area(a_runs, b_runs, a, b) >= SAME_OBJECT_OVERLAP * min(a.area, b.area))


def _intersection_area(a_runs: MaskRuns, b_runs: MaskRuns, a: Piece, b: Piece) -> int:
    """Return the number of pixels that two masks share."""
    box = intersection(a.box, b.box)
    if is_empty(box):
        return 0
    return run_algebra.intersection_area(run_algebra.clip(a_runs, box), run_algebra.clip(b_runs, box), box)


class _CutEdges:
    """Tells where tile edges cut off masks. Tile edges on the raster's border don't count."""

    def __init__(self, pieces: Sequence[Piece], grid: Grid) -> None:
        self._pieces, self._grid = pieces, grid
        self._edge_margin = -(-grid.tile_size // _LOW_RES_SIZE)

    def edges(self, number: int) -> list[int]:
        """Return the tile edges that cut off a piece, as indices into a box: 0 left, 1 top, 2 right, 3 bottom."""
        piece = self._pieces[number]
        tile, raster = self._grid[piece.tile].box, (0, 0, self._grid.width, self._grid.height)
        return [
            side
            for side in range(4)
            if tile[side] != raster[side] and abs(piece.box[side] - tile[side]) < self._edge_margin
        ]

    def has_open_cut(self, number: int, union_find: _UnionFind) -> bool:
        """Return whether an edge cuts off a piece and no tile beyond that edge has a piece linked to it."""
        return any(
            not any(self._extends_beyond(number, side, tile) for tile in union_find.linked_tiles.get(number, ()))
            for side in self.edges(number)
        )

    def extends_beyond_cut(self, number: int, tile: int) -> bool:
        """Return whether a tile extends beyond an edge that cuts off a piece."""
        return any(self._extends_beyond(number, side, tile) for side in self.edges(number))

    def _extends_beyond(self, number: int, side: int, tile: int) -> bool:
        own, other = self._grid[self._pieces[number].tile].box[side], self._grid[tile].box[side]
        return other < own if side < 2 else other > own


def _merge_pieces(pieces: Sequence[Piece]) -> Piece:
    """Merge the pieces of an object into one."""
    if len(pieces) == 1:
        return pieces[0]
    areas = [piece.area for piece in pieces]
    return piece_from_runs(
        pieces[0].tile,
        run_algebra.union([piece.runs() for piece in pieces]),
        float(np.average([piece.predicted_iou for piece in pieces], weights=areas)),
        float(np.average([piece.stability for piece in pieces], weights=areas)),
    )


def _is_covered_by_better(
    members: Sequence[int],
    merged: Piece,
    pieces: Sequence[Piece],
    pieces_by_tile: dict[int, list[int]],
    grid: Grid,
    union_find: _UnionFind,
    cut_edges: _CutEdges,
) -> bool:
    """Return whether an object is cut off and another mask shows it better.

    Such a mask belongs to another object, lies in a tile that extends beyond the cut, is at least as large (of equally
    large ones the first wins), and covers at least `COVERED_FRACTION` of the object.
    """
    runs = None
    own_root = union_find.find(members[0])
    for number in members:
        if not cut_edges.has_open_cut(number, union_find):
            continue
        for tile in grid.neighbours(pieces[number].tile):
            if not cut_edges.extends_beyond_cut(number, tile):
                continue
            for other in pieces_by_tile.get(tile, ()):
                rival = pieces[other]
                box = intersection(rival.box, merged.box)
                min_shared = COVERED_FRACTION * merged.area
                box_area = 0 if is_empty(box) else (box[2] - box[0]) * (box[3] - box[1])
                if box_area < min_shared or union_find.find(other) == own_root:
                    continue
                if (rival.area, -union_find.find(other)) < (merged.area, -own_root):
                    continue
                runs = merged.runs() if runs is None else runs
                if _intersection_area(runs, rival.runs(), merged, rival) >= min_shared:
                    return True
    return False
