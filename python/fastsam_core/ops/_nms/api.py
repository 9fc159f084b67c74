"""Public functions of non-maximum suppression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: keep the best box, drop the boxes that overlap it too much, repeat on the rest.

    Args:
        boxes: (N, 4) x1 y1 x2 y2, finite, any real dtype but bool and 8-bit floats. IoU is computed in float32 for
            float32 and narrower floats, in float64 for float64 and integers.
        scores: (N,) any real dtype but 8-bit floats, no NaN; integers are compared as float64.
        iou_threshold: from 0 to 1; a box whose IoU with a kept box is *above* it is dropped. Boxes without area
            overlap nothing.

    Returns:
        (K,) int64 indices of the kept boxes, by descending score; equal scores by ascending index.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, NaN or infinite boxes, NaN scores, or a threshold outside
            [0, 1].
    """
    result: Tensor = _ops.nms.default(boxes, scores, float(iou_threshold))
    return result


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Run `nms` within each class: boxes of different classes never suppress one another.

    Classes are compared directly. Boxes are not offset by class, so large class numbers or coordinates cost no
    precision.

    Args:
        boxes: (N, 4), as in `nms`.
        scores: (N,), as in `nms`.
        idxs: (N,) class of each box, any real dtype but 8-bit floats, no NaN.
        iou_threshold: as in `nms`.

    Returns:
        (K,) int64 indices of the kept boxes of all classes, by descending score; equal scores by ascending index.

    Raises:
        ValueError: as `nms`; NaN in `idxs`.
    """
    result: Tensor = _ops.batched_nms.default(boxes, scores, idxs, float(iou_threshold))
    return result
