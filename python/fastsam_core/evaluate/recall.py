"""Average recall of object proposals as COCO defines it, ignoring classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
NONE = np.iinfo(np.int64).max


def matched_ranks(ious: NDArray[np.float64], thresholds: NDArray[np.float64] = THRESHOLDS) -> NDArray[np.int64]:
    """Return the rank of the proposal that finds each object at each IoU threshold, (objects, thresholds).

    Ranks count from 0; objects that no proposal finds have `NONE`. ious: (P, objects), best proposals first. Matching
    is greedy in the order of the proposals, as in COCO's evaluation: a proposal takes the object not taken yet with
    which it has the highest IoU, if that reaches the threshold. Ties go to the last object.
    """
    objects = ious.shape[1]
    ranks = np.full((objects, len(thresholds)), NONE, np.int64)
    # Proposals that reach the lowest threshold with no object can never match.
    candidates = (ious >= thresholds.min()).any(1).nonzero()[0] if objects else ()
    for column, threshold in enumerate(thresholds):
        free = np.ones(objects, bool)
        for rank in candidates:
            row = np.where(free, ious[rank], -1.0)
            best = objects - 1 - int(row[::-1].argmax())
            if row[best] >= threshold:
                free[best] = False
                ranks[best, column] = rank
    return ranks


def average_recall(ranks: NDArray[np.int64], most: int) -> NDArray[np.float64]:
    """Return the fraction of thresholds at which one of the first `most` proposals finds each object, (objects,).

    The mean over all objects of all images is COCO's AR@most: recall over the whole set, averaged over thresholds.
    """
    shares: NDArray[np.float64] = (ranks < most).mean(1)
    return shares
