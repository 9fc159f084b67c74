"""Boundary F: how well the outline of a mask follows the true one."""

from __future__ import annotations

import math

import numpy as np

from .clicks import Mask

# Perazzi et al. have 0.008 in their code; 0.0075 is the tolerance of edge benchmarks, and ours.
TOLERANCE = 0.0075


def boundary(mask: Mask) -> Mask:
    """The boundary pixels (H, W) of a mask: those that differ from the pixel on the right, below, or right below.

    What lies beyond the picture is no boundary.
    """
    wider = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, across = wider[:-1, :-1], wider[:-1, 1:], wider[1:, :-1], wider[1:, 1:]
    found: Mask = (here != right) | (here != below) | (here != across)
    return found


def boundary_f(predicted: Mask, truth: Mask, tolerance: float = TOLERANCE) -> float:
    """Boundary F of two masks (H, W) bool, in [0, 1]; F of Perazzi et al., "A Benchmark Dataset and Evaluation
    Methodology for Video Object Segmentation" (2016), the measure of DAVIS.

    With `boundary` pixels of both masks: precision is the share of the predicted ones that lie within r pixels
    (Euclidean) of a true one, recall the share of the true ones within r of a predicted one, and F their harmonic
    mean. r is `tolerance` times the picture's diagonal, rounded up. Where only one mask has a boundary F is 0, where
    neither has, 1.
    """
    height, width = truth.shape
    radius = math.ceil(tolerance * math.hypot(height, width))
    rows, columns = (predicted | truth).any(1).nonzero()[0], (predicted | truth).any(0).nonzero()[0]
    if not len(rows):
        return 1.0
    # Boundary pixels lie at most one to the left of a mask, or above.
    near = np.s_[max(0, rows[0] - 1) : rows[-1] + 2, max(0, columns[0] - 1) : columns[-1] + 2]
    ours, wanted = boundary(predicted[near]), boundary(truth[near])
    if not ours.any() or not wanted.any():
        return float(ours.any() == wanted.any())
    precision = _share_within(ours, wanted, radius)
    recall = _share_within(wanted, ours, radius)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _share_within(pixels: Mask, others: Mask, radius: int) -> float:
    import cv2

    # To the nearest zero, which are the other boundary's pixels.
    distances = np.asarray(cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    return float((distances[pixels] <= radius).mean())
