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
    rows = np.repeat(np.arange(len(first)), [len(partners) for partners in pairs])
    columns = np.fromiter((j for partners in pairs for j in partners), np.int64, len(rows))
    distances = np.sqrt(np.square(first[rows] - second[columns]).sum(1))
    return sparse.csr_matrix((distances + 1, (rows, columns)), (len(first), len(second)))


def match(distances: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Find a maximum one-to-one matching. Returns the partner of each row and of each column, -1 for none.

    Pairs are matched greedily, the nearest first, and the matching is then enlarged by augmenting paths, which never
    unmatch a point. So the number of pairs is the maximum, and nearly all of them are near pairs.
    """
    column_of_row, row_of_column = np.full(distances.shape[0], -1), np.full(distances.shape[1], -1)
    pairs = distances.tocoo()
    order = np.argsort(pairs.data, kind="stable")
    for i, j in zip(pairs.row[order].tolist(), pairs.col[order].tolist(), strict=True):
        if column_of_row[i] < 0 and row_of_column[j] < 0:
            column_of_row[i], row_of_column[j] = j, i
    indices, indptr = distances.indices.tolist(), distances.indptr.tolist()
    while True:
        # Each round searches from every free row and visits each column at most once, which gives disjoint paths.
        reached_from = [-1] * distances.shape[1]
        num_augmented = 0
        for start in np.flatnonzero((column_of_row < 0) & (np.diff(distances.indptr) > 0)).tolist():
            num_augmented += _augment(start, indices, indptr, column_of_row, row_of_column, reached_from)
        if not num_augmented:
            return column_of_row, row_of_column


def _augment(
    start: int,
    indices: list[int],
    indptr: list[int],
    column_of_row: np.ndarray,
    row_of_column: np.ndarray,
    reached_from: list[int],
) -> bool:
    """Search breadth-first for an augmenting path from `start` to a free column. If there is one, apply it."""
    queue = deque([start])
    while queue:
        row = queue.popleft()
        for column in indices[indptr[row] : indptr[row + 1]]:
            if reached_from[column] >= 0:
                continue
            reached_from[column] = row
            if row_of_column[column] < 0:
                while column >= 0:
                    row = reached_from[column]
                    next_column = int(column_of_row[row])
                    column_of_row[row], row_of_column[column] = column, row
                    column = next_column
                return True
            queue.append(int(row_of_column[column]))
    return False
