"""Outlines of masks along pixel edges, traced from run lengths; label files store these.

Vertices are pixel corners, so the mask of a whole image has the vertices (0, 0), (W, 0), (W, H), (0, H). Filling an
outline by COCO's rule, or by any rule that tests whether a pixel's centre lies inside, restores the mask exactly.
`contours` follows the centres of border pixels instead, as OpenCV does. The cost grows with the length of the boundary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._rle_dicts import unpack
from .runs import MaskRuns

# Number of vertices that are compared pairwise when contours are joined. If there are more, they are sampled equally
# from every contour.
_JOINING_VERTICES = 1024


class Outline(NamedTuple):
    """Contour of one part of a mask, (K, 2) int64 x, y, clockwise on screen, and those of its holes, counter-clockwise.

    Pixels that touch at a corner belong to the same part. Horizontal and vertical edges alternate.
    """

    exterior: NDArray[np.int64]
    holes: list[NDArray[np.int64]]


def runs_from_rle(rle: Mapping[str, Any]) -> MaskRuns:
    """Return the runs of a COCO RLE dict. Raises ValueError for a malformed one."""
    counts, _, [(height, width)] = unpack(rle)
    edges = np.cumsum(counts.numpy())[:-1]
    if not (np.diff(edges) > 0).all():
        # Zero-length counts are allowed; the runs on both sides of one join.
        edges, times = np.unique(edges, return_counts=True)
        edges = edges[times % 2 == 1]
    return MaskRuns.from_counts(np.diff(edges, prepend=0, append=height * width), height)


def trace(runs: MaskRuns) -> list[Outline]:
    """Return every 8-connected part of a mask, with its holes; parts are ordered from left to right."""
    edges = _Edges(runs)
    if not len(edges.y):
        return []
    order, starts = _cycles(edges.following)
    of_edge = np.empty(len(order), np.int64)
    of_edge[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    # Sum of bottoms minus tops over a border: positive for a part, negative for a hole.
    side = np.where(order % 2 == 1, 1, -1) * edges.y[order]
    is_hole = np.add.reduceat(side, starts) < 0
    contours = _vertices(edges, order, starts)
    outlines = {int(i): Outline(contours[i], []) for i in np.flatnonzero(~is_hole)}
    for hole, part in _parts_of_holes(edges, order, starts, of_edge, is_hole):
        outlines[part].holes.append(contours[hole])
    return list(outlines.values())


class _Edges:
    """The horizontal edges of a mask, each one pixel long: edge 2 i is the top of run i, edge 2 i + 1 its bottom.

    Tops are directed from left to right and bottoms from right to left, so the mask lies to the right of each edge.
    `y` is the row of an edge, `end` the x at which it ends, and `following` the next edge along the same border.
    """

    def __init__(self, runs: MaskRuns) -> None:
        count = 2 * len(runs.columns)
        self.y = np.empty(count, np.int64)
        self.y[0::2], self.y[1::2] = runs.tops, runs.bottoms
        self.end = np.repeat(runs.columns, 2)
        self.end[0::2] += 1
        # On the vertical line between two columns, sort the edge ends by y. A border runs between the first and second
        # end, the third and fourth, and so on, because there exactly one of the two columns is set. Where one run ends
        # and another begins at the same corner, tops are sorted first, which connects pixels that touch at corners.
        bottom = np.arange(count) % 2
        lines = np.empty(2 * count, np.int64)  # x of the left end (2 e) and right end (2 e + 1) of each edge e
        lines[0::2] = np.repeat(runs.columns, 2)
        lines[1::2] = lines[0::2] + 1
        rank = np.lexsort((np.repeat(bottom, 2), np.repeat(self.y, 2), lines))
        mate = np.empty(2 * count, np.int64)
        mate[rank[0::2]], mate[rank[1::2]] = rank[1::2], rank[0::2]
        self.following: NDArray[np.int64] = mate[2 * np.arange(count) + 1 - bottom] // 2


def _cycles(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cycles of a permutation, concatenated, and the index where each begins."""
    after = following.tolist()
    seen = bytearray(len(after))
    order: list[int] = []
    starts = []
    for first in range(len(after)):
        if seen[first]:
            continue
        starts.append(len(order))
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            order.append(edge)
            edge = after[edge]
    return np.array(order, np.int64), np.array(starts, np.int64)


def _vertices(edges: _Edges, order: NDArray[np.int64], starts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the vertices of each cycle.

    Where the next edge lies on another row, the end of an edge is a vertical edge, with one vertex on each row.
    """
    here, there = edges.y[order], edges.y[edges.following[order]]
    turns = here != there
    corners = np.empty((int(turns.sum()), 2, 2), np.int64)
    corners[:, :, 0] = edges.end[order][turns, None]
    corners[:, 0, 1], corners[:, 1, 1] = here[turns], there[turns]
    bounds = np.add.reduceat(turns, starts, dtype=np.int64).cumsum()[:-1]
    return [part.reshape(-1, 2) for part in np.split(corners, bounds)]


def _parts_of_holes(
    edges: _Edges,
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    of_edge: NDArray[np.int64],
    is_hole: NDArray[np.bool_],
) -> list[tuple[int, int]]:
    """Return pairs (hole, part) of cycle indices, in the order of the holes.

    The run directly above a hole's uppermost edge belongs to the same part as the hole. The top edge of that run lies
    on the part's outer border, or on another hole that begins higher; holes are resolved from top to bottom.
    """
    ends = np.append(starts[1:], len(order))
    parts = {int(i): int(i) for i in np.flatnonzero(~is_hole)}
    tops = []
    for hole in np.flatnonzero(is_hole).tolist():
        own = order[starts[hole] : ends[hole]]
        highest = own[edges.y[own].argmin()]
        tops.append((int(edges.y[highest]), hole, int(of_edge[highest - 1])))
    for _, hole, above in sorted(tops):
        parts[hole] = parts[above]
    return [(hole, parts[hole]) for _, hole, _ in sorted(tops, key=lambda top: top[1])]


def simplify(contour: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """Return a contour with fewer vertices; no dropped vertex is farther from it than `tolerance` pixels.

    A contour that would be left with fewer than three vertices is returned unchanged.
    """
    import cv2

    if tolerance <= 0:
        return contour
    kept = cv2.approxPolyDP(contour.astype(np.float32)[:, None], tolerance, True)[:, 0]
    return kept.astype(contour.dtype) if len(kept) > 2 else contour


def join(contours: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Join closed contours (K, 2), at least one, to a single ring (M, 2) by bridges traversed in both directions.

    A bridge encloses no area and any line crosses it twice, so filling the ring gives the same as filling all contours
    together: holes stay holes, and parts stay separate. Bridges connect vertices and form a minimum spanning tree of
    the contours. It is exact up to 1,024 vertices in total; beyond that only a sample of the vertices is compared.
    """
    if len(contours) == 1:
        return contours[0]
    points = np.concatenate(contours)
    firsts = np.cumsum([0, *(len(contour) for contour in contours)]).tolist()
    following = np.arange(1, len(points) + 1)
    for first, end in pairwise(firsts):
        following[end - 1] = first
    after = following.tolist()
    places = list(range(len(points)))  # vertex index of each ring node; every bridge adds two nodes
    for near, far, owner in _bridges(points.astype(np.float64), firsts):
        before = far - 1 if far > firsts[owner] else firsts[owner + 1] - 1
        back, home = len(places), len(places) + 1
        places += [far, near]
        after += [home, after[near]]
        after[before], after[near] = back, far
    ring = [0]
    node = after[0]
    while node:
        ring.append(node)
        node = after[node]
    joined = points[np.array(places)[ring]]
    # Bridges between contours that touch have length 0; drop the repeated points.
    fresh = (joined != np.roll(joined, 1, axis=0)).any(1)
    return joined[fresh]


def _bridges(points: NDArray[np.float64], firsts: list[int]) -> list[tuple[int, int, int]]:
    """Return bridges (near vertex, far vertex, contour of the far vertex), one for each contour but the first.

    They are the edges of the minimum spanning tree, in the order in which Prim's algorithm adds them.
    """
    count = len(firsts) - 1
    share = len(points) if len(points) <= _JOINING_VERTICES else max(1, _JOINING_VERTICES // count)
    chosen = [
        np.linspace(first, end, min(share, end - first), endpoint=False).astype(np.int64)
        for first, end in pairwise(firsts)
    ]
    waiting = np.concatenate(chosen[1:])
    owners = np.repeat(np.arange(1, count), [len(part) for part in chosen[1:]])
    apart = np.full(len(waiting), np.inf)
    nearest = np.zeros(len(waiting), np.int64)
    xs, ys = points[:, 0].copy(), points[:, 1].copy()
    newest, found = 0, []
    for _ in range(count - 1):
        # Process long contours in pieces, so that the distance matrix stays small.
        for piece in np.array_split(chosen[newest], -(-len(chosen[newest]) // 256)):
            across = xs[waiting][:, None] - xs[piece]
            down = ys[waiting][:, None] - ys[piece]
            distances = across * across + down * down
            best = distances.argmin(1)
            shortest = distances[np.arange(len(best)), best]
            closer = shortest < apart
            apart[closer], nearest[closer] = shortest[closer], piece[best[closer]]
        place = int(apart.argmin())
        newest = int(owners[place])
        found.append((int(nearest[place]), int(waiting[place]), newest))
        left = owners != newest
        waiting, owners, apart, nearest = waiting[left], owners[left], apart[left], nearest[left]
    return found
