"""Non-maximum suppression in plain PyTorch: the definition, and the fallback for every device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .._inputs import check_boxes, class_ids, to_compute_dtype, to_sortable_scores


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """See `fastsam_core.ops.nms`."""
    check_boxes(boxes, scores, None, iou_threshold)
    return _greedy_nms(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """See `fastsam_core.ops.batched_nms`."""
    check_boxes(boxes, scores, idxs, iou_threshold)
    return _greedy_nms(boxes, scores, class_ids(idxs), iou_threshold)


def _greedy_nms(boxes: Tensor, scores: Tensor, classes: Tensor | None, iou_threshold: float) -> Tensor:
    boxes = to_compute_dtype(boxes)  # (N, 4)
    scores = to_sortable_scores(scores)  # (N,)
    if not bool(boxes.isfinite().all()):
        raise ValueError("boxes hold NaN or infinity; drop those rows first")
    if bool(scores.isnan().any()):
        raise ValueError("scores hold NaN; drop those rows first")
    threshold = _round_down(iou_threshold, boxes.dtype)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])  # (N,)
    remaining = torch.argsort(scores, descending=True, stable=True)
    keep = []
    while remaining.numel():
        best, remaining = remaining[0], remaining[1:]
        keep.append(best)
        sides = torch.minimum(boxes[best, 2:], boxes[remaining, 2:]) - torch.maximum(
            boxes[best, :2], boxes[remaining, :2]
        )
        intersection = torch.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0)
        # False for 0 / 0 of two empty boxes.
        suppressed = intersection / (area[best] + area[remaining] - intersection) > threshold
        if classes is not None:
            suppressed &= classes[remaining] == classes[best]
        remaining = remaining[~suppressed]
    return torch.stack(keep) if keep else torch.empty(0, dtype=torch.int64, device=boxes.device)


def _round_down(value: float, dtype: torch.dtype) -> float:
    """Return the largest number of `dtype` that is at most `value`.

    Comparing any x of `dtype` with it by `>` then gives the same answer as comparing with `value` itself.
    """
    if dtype == torch.float64:
        return value
    rounded = np.float32(value)
    return float(rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(-np.inf)))
