"""What callers see of non-maximum suppression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: keep the best box, drop those that overlap it too much, go on with the rest.

    Args:
        boxes: (N, 4) x1 y1 x2 y2, finite. float32 and narrower floats compute in float32; float64 and integers in
            float64.
        scores: (N,) any real dtype, no NaN.
        iou_threshold: from 0 to 1; a box whose IoU with a kept one is *above* it is dropped. Boxes without area
            overlap nothing.

    Returns:
        (K,) int64 indices of the kept boxes, by score descending; equal scores by index.

    Raises:
        ValueError: shapes that don't fit, NaN or infinite boxes, NaN scores, a threshold outside [0, 1].
    """
    result: Tensor = _ops.nms.default(boxes, scores, float(iou_threshold))
    return result


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each class: boxes of different `idxs` never suppress one another.

    Classes are compared as they are; boxes are not moved apart by class, so no precision is lost to large class
    numbers or coordinates.

    Args:
        boxes: (N, 4), as in `nms`.
        scores: (N,), as in `nms`.
        idxs: (N,) class of each box, any real dtype, no NaN.
        iou_threshold: as in `nms`.

    Returns:
        (K,) int64 indices of the kept boxes of all classes, by score descending; equal scores by index.
    """
    result: Tensor = _ops.batched_nms.default(boxes, scores, idxs, float(iou_threshold))
    return result
