"""Boundary F: a measure of how well the outline of a mask follows the true outline."""

from __future__ import annotations

import math

import numpy as np

from .clicks import Mask

# Default tolerance as a fraction of the image's diagonal: the value of edge benchmarks. The code of Perazzi et al. uses
# 0.008.
TOLERANCE = 0.0075


def boundary_mask(mask: Mask) -> Mask:
    """Return the boundary pixels (H, W) of a mask: those that differ from their right, lower or lower right neighbour.

    The image's border is no boundary.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    centre, right, below, diagonal = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    differs: Mask = (centre != right) | (centre != below) | (centre != diagonal)
    return differs


def boundary_f(predicted: Mask, truth: Mask, tolerance: float = TOLERANCE) -> float:
    """Return the boundary F of two masks (H, W) bool, in [0, 1].

    This is the F of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation"
    (2016), used by DAVIS. Precision is the fraction of predicted `boundary_mask` pixels that lie within r pixels
    (Euclidean) of a true one, recall the fraction of true ones within r of a predicted one, and F their harmonic mean.
    r is `tolerance` times the image's diagonal, rounded up. F is 0 if only one mask has a boundary, and 1 if neither
    has.
    """
    height, width = truth.shape
    radius = math.ceil(tolerance * math.hypot(height, width))
    rows, columns = np.flatnonzero((predicted | truth).any(1)), np.flatnonzero((predicted | truth).any(0))
    if not len(rows):
        return 1.0
    # Crop to both masks and one pixel more: a boundary pixel may lie one to the left of a mask, or above.
    window = np.s_[max(0, rows[0] - 1) : rows[-1] + 2, max(0, columns[0] - 1) : columns[-1] + 2]
    predicted_boundary, true_boundary = boundary_mask(predicted[window]), boundary_mask(truth[window])
    if not predicted_boundary.any() or not true_boundary.any():
        return float(predicted_boundary.any() == true_boundary.any())
    precision = _fraction_within(predicted_boundary, true_boundary, radius)
    recall = _fraction_within(true_boundary, predicted_boundary, radius)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _fraction_within(pixels: Mask, reference: Mask, radius: int) -> float:
    import cv2

    # Distance of each pixel to the nearest zero, i.e. to the nearest pixel of `reference`.
    distances = np.asarray(cv2.distanceTransform((~reference).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    return float((distances[pixels] <= radius).mean())
