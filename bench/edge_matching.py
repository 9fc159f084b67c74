"""One-to-one matching of edge pixels within a maximum distance, for the Berkeley benchmark."""

from __future__ import annotations

from collections import deque

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree


def neighbours(first: np.ndarray, second: np.ndarray, radius: float) -> sparse.csr_matrix:
    """Find all pairs of points (N, 2) and (M, 2) at most `radius` apart. Returns distance + 1 as a sparse (N, M)."""
    if not len(first) or not len(second):
        return sparse.csr_matrix((len(first), len(second)))
    pairs = cKDTree(first).query_ball_tree(cKDTree(second), radius)
    rows = np.repeat(np.arange(len(first)), [len(found) for found in pairs])
    columns = np.fromiter((j for found in pairs for j in found), np.int64, len(rows))
    apart = np.sqrt(np.square(first[rows] - second[columns]).sum(1))
    return sparse.csr_matrix((apart + 1, (rows, columns)), (len(first), len(second)))


def match(near: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Find a maximum one-to-one matching. Returns the partner of each row and of each column, -1 for none.

    Pairs are matched greedily, the nearest first, and the matching is then enlarged by augmenting paths, which never
    unmatch a point. So the number of pairs is the maximum, and nearly all of them are near pairs.
    """
    of_row, of_column = np.full(near.shape[0], -1), np.full(near.shape[1], -1)
    pairs = near.tocoo()
    order = np.argsort(pairs.data, kind="stable")
    for i, j in zip(pairs.row[order].tolist(), pairs.col[order].tolist(), strict=True):
        if of_row[i] < 0 and of_column[j] < 0:
            of_row[i], of_column[j] = j, i
    rows, starts = near.indices.tolist(), near.indptr.tolist()
    while True:
        # Each round searches from every free row and visits each column at most once, which gives disjoint paths.
        reached_from = [-1] * near.shape[1]
        grown = 0
        for start in np.flatnonzero((of_row < 0) & (np.diff(near.indptr) > 0)).tolist():
            grown += _augment(start, rows, starts, of_row, of_column, reached_from)
        if not grown:
            return of_row, of_column


def _augment(
    start: int, rows: list[int], starts: list[int], of_row: np.ndarray, of_column: np.ndarray, reached_from: list[int]
) -> bool:
    """Search breadth-first for an augmenting path from `start` to a free column. If there is one, apply it."""
    waiting = deque([start])
    while waiting:
        row = waiting.popleft()
        for column in rows[starts[row] : starts[row + 1]]:
            if reached_from[column] >= 0:
                continue
            reached_from[column] = row
            if of_column[column] < 0:
                while column >= 0:
                    row = reached_from[column]
                    following = int(of_row[row])
                    of_row[row], of_column[column] = column, row
                    column = following
                return True
            waiting.append(int(of_column[column]))
    return False
