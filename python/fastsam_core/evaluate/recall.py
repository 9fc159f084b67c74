"""Average recall of object proposals as COCO defines it, ignoring classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
UNMATCHED = np.iinfo(np.int64).max


def matched_ranks(ious: NDArray[np.float64], thresholds: NDArray[np.float64] = THRESHOLDS) -> NDArray[np.int64]:
    """Return the rank of the proposal that finds each object at each IoU threshold, (objects, thresholds).

    Ranks count from 0; objects that no proposal finds have `UNMATCHED`. ious: (P, objects), best proposals first.
    Matching is greedy in the order of the proposals, as in COCO's evaluation: a proposal takes the object not taken yet
    with which it has the highest IoU, if that reaches the threshold. Ties go to the last object.
    """
    num_objects = ious.shape[1]
    ranks = np.full((num_objects, len(thresholds)), UNMATCHED, np.int64)
    # Proposals that reach the lowest threshold with no object can never match.
    candidates = (ious >= thresholds.min()).any(1).nonzero()[0] if num_objects else ()
    for column, threshold in enumerate(thresholds):
        is_free = np.ones(num_objects, bool)
        for rank in candidates:
            row = np.where(is_free, ious[rank], -1.0)
            best_object = num_objects - 1 - int(row[::-1].argmax())
            if row[best_object] >= threshold:
                is_free[best_object] = False
                ranks[best_object, column] = rank
    return ranks


def average_recall(ranks: NDArray[np.int64], max_proposals: int) -> NDArray[np.float64]:
    """Return the fraction of thresholds at which one of the `max_proposals` best finds each object, (objects,).

    The mean over all objects of all images is COCO's AR@`max_proposals`: recall over the whole set, averaged over
    thresholds.
    """
    recalls: NDArray[np.float64] = (ranks < max_proposals).mean(1)
    return recalls
