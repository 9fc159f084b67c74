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
# from every contour. More contours than this are not compared, because that takes time quadratic in their number.
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
        edges, multiplicity = np.unique(edges, return_counts=True)
        edges = edges[multiplicity % 2 == 1]
    return MaskRuns.from_counts(np.diff(edges, prepend=0, append=height * width), height)


def trace(runs: MaskRuns) -> list[Outline]:
    """Return every 8-connected part of a mask, with its holes; parts are ordered from left to right."""
    edges = _Edges(runs)
    if not len(edges.y):
        return []
    order, starts = _cycles(edges.next_edge)
    cycle_of_edge = np.empty(len(order), np.int64)
    cycle_of_edge[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    # Sum of bottoms minus tops over a border: positive for a part, negative for a hole.
    signed_y = np.where(order % 2 == 1, 1, -1) * edges.y[order]
    is_hole = np.add.reduceat(signed_y, starts) < 0
    contours = _vertices(edges, order, starts)
    outlines = {int(i): Outline(contours[i], []) for i in np.flatnonzero(~is_hole)}
    for hole, part in _parts_of_holes(edges, order, starts, cycle_of_edge, is_hole):
        outlines[part].holes.append(contours[hole])
    return list(outlines.values())


class _Edges:
    """The horizontal edges of a mask, each one pixel long: edge 2 i is the top of run i, edge 2 i + 1 its bottom.

    Tops are directed from left to right and bottoms from right to left, so the mask lies to the right of each edge.
    `y` is the row of an edge, `end` the x at which it ends, and `next_edge` the next edge along the same border.
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
        end_x = np.empty(2 * count, np.int64)  # x of the left end (2 e) and right end (2 e + 1) of each edge e
        end_x[0::2] = np.repeat(runs.columns, 2)
        end_x[1::2] = end_x[0::2] + 1
        rank = np.lexsort((np.repeat(bottom, 2), np.repeat(self.y, 2), end_x))
        paired_end = np.empty(2 * count, np.int64)
        paired_end[rank[0::2]], paired_end[rank[1::2]] = rank[1::2], rank[0::2]
        self.next_edge: NDArray[np.int64] = paired_end[2 * np.arange(count) + 1 - bottom] // 2


def _cycles(next_edge: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cycles of a permutation, concatenated, and the index where each begins."""
    successors = next_edge.tolist()
    seen = bytearray(len(successors))
    order: list[int] = []
    starts = []
    for first in range(len(successors)):
        if seen[first]:
            continue
        starts.append(len(order))
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            order.append(edge)
            edge = successors[edge]
    return np.array(order, np.int64), np.array(starts, np.int64)


def _vertices(edges: _Edges, order: NDArray[np.int64], starts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the vertices of each cycle.

    Where the next edge lies on another row, the end of an edge is a vertical edge, with one vertex on each row.
    """
    row, next_row = edges.y[order], edges.y[edges.next_edge[order]]
    is_corner = row != next_row
    corners = np.empty((int(is_corner.sum()), 2, 2), np.int64)
    corners[:, :, 0] = edges.end[order][is_corner, None]
    corners[:, 0, 1], corners[:, 1, 1] = row[is_corner], next_row[is_corner]
    bounds = np.add.reduceat(is_corner, starts, dtype=np.int64).cumsum()[:-1]
    return [part.reshape(-1, 2) for part in np.split(corners, bounds)]


def _parts_of_holes(
    edges: _Edges,
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    cycle_of_edge: NDArray[np.int64],
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
        hole_edges = order[starts[hole] : ends[hole]]
        highest = hole_edges[edges.y[hole_edges].argmin()]
        tops.append((int(edges.y[highest]), hole, int(cycle_of_edge[highest - 1])))
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
    simplified = cv2.approxPolyDP(contour.astype(np.float32)[:, None], tolerance, True)[:, 0]
    return simplified.astype(contour.dtype) if len(simplified) > 2 else contour


def join(contours: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Join closed contours (K, 2), at least one, to a single ring (M, 2) by bridges traversed in both directions.

    A bridge encloses no area and any line crosses it twice, so filling the ring gives the same as filling all contours
    together: holes stay holes, and parts stay separate. Bridges connect vertices and form a minimum spanning tree of
    the contours. It is exact up to 1,024 vertices in total; beyond that only a sample of the vertices is compared. More
    than 1,024 contours are joined to a chain that winds through the mask.
    """
    if len(contours) == 1:
        return contours[0]
    points = np.concatenate(contours)
    contour_starts = np.cumsum([0, *(len(contour) for contour in contours)]).tolist()
    next_vertex = np.arange(1, len(points) + 1)
    for start, end in pairwise(contour_starts):
        next_vertex[end - 1] = start
    next_node = next_vertex.tolist()
    vertex_of_node = list(range(len(points)))  # vertex index of each ring node; every bridge adds two nodes
    bridges = _tree if len(contours) <= _JOINING_VERTICES else _chain
    for near_vertex, far_vertex, far_contour in bridges(points.astype(np.float64), contour_starts):
        previous = far_vertex - 1 if far_vertex > contour_starts[far_contour] else contour_starts[far_contour + 1] - 1
        far_return, near_return = len(vertex_of_node), len(vertex_of_node) + 1
        vertex_of_node += [far_vertex, near_vertex]
        next_node += [near_return, next_node[near_vertex]]
        next_node[previous], next_node[near_vertex] = far_return, far_vertex
    ring = [0]
    node = next_node[0]
    while node:
        ring.append(node)
        node = next_node[node]
    joined = points[np.array(vertex_of_node)[ring]]
    # Bridges between contours that touch have length 0; drop the repeated points.
    is_new = (joined != np.roll(joined, 1, axis=0)).any(1)
    return joined[is_new]


def _chain(points: NDArray[np.float64], contour_starts: list[int]) -> list[tuple[int, int, int]]:
    """Return bridges like `_tree`, from the first vertex of each contour to that of the next one along a winding path.

    The path runs along strips that are as high as the mean distance between contours, alternately right and left.
    """
    first_vertices = points[contour_starts[:-1]]
    x, y = (first_vertices - first_vertices.min(0)).T
    strip_height = max(1.0, float((x.max() * y.max() / len(x)) ** 0.5))
    strip = y // strip_height
    order = np.lexsort((np.where(strip % 2 == 0, x, -x), strip)).tolist()
    return [(contour_starts[near], contour_starts[far], far) for near, far in pairwise(order)]


def _tree(points: NDArray[np.float64], contour_starts: list[int]) -> list[tuple[int, int, int]]:
    """Return bridges (near vertex, far vertex, contour of the far vertex), one for each contour but one.

    They are the edges of the minimum spanning tree, in the order in which Prim's algorithm adds them.
    """
    count = len(contour_starts) - 1
    samples_per_contour = len(points) if len(points) <= _JOINING_VERTICES else max(1, _JOINING_VERTICES // count)
    samples = [
        np.linspace(start, end, min(samples_per_contour, end - start), endpoint=False).astype(np.int64)
        for start, end in pairwise(contour_starts)
    ]
    remaining = np.concatenate(samples[1:])
    contour_of_remaining = np.repeat(np.arange(1, count), [len(part) for part in samples[1:]])
    min_distance = np.full(len(remaining), np.inf)
    nearest = np.zeros(len(remaining), np.int64)
    xs, ys = points[:, 0].copy(), points[:, 1].copy()
    newest_contour, bridges = 0, []
    for _ in range(count - 1):
        # Process long contours in pieces, so that the distance matrix stays small.
        for chunk in np.array_split(samples[newest_contour], -(-len(samples[newest_contour]) // 256)):
            dx = xs[remaining][:, None] - xs[chunk]
            dy = ys[remaining][:, None] - ys[chunk]
            distances = dx * dx + dy * dy
            best = distances.argmin(1)
            shortest = distances[np.arange(len(best)), best]
            closer = shortest < min_distance
            min_distance[closer], nearest[closer] = shortest[closer], chunk[best[closer]]
        closest = int(min_distance.argmin())
        newest_contour = int(contour_of_remaining[closest])
        bridges.append((int(nearest[closest]), int(remaining[closest]), newest_contour))
        is_left = contour_of_remaining != newest_contour
        remaining, contour_of_remaining, min_distance, nearest = (
            remaining[is_left],
            contour_of_remaining[is_left],
            min_distance[is_left],
            nearest[is_left],
        )
    return bridges
