"""CUDA sibling of non-maximum suppression: PyTorch sorts the boxes, kernels decide which to keep.

Only the number of kept boxes and the faults are copied to the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import check_boxes, to_compute_dtype, to_sortable_scores
from .._native_cuda import aligned, on_device_of

# Meaning of the bits in status[1]; 1 and 2 are Fault in csrc/nms/nms_cuda.h. Checked in this order.
_BAD_CLASS = 4
_FAULTS = {
    _BAD_CLASS: "idxs hold NaN; a class must be a number",
    1: "boxes hold NaN or infinity; drop those rows first",
    2: "scores hold NaN; drop those rows first",
}


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """See `fastsam_core.ops.nms`."""
    check_boxes(boxes, scores, None, iou_threshold)
    return _nms(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """See `fastsam_core.ops.batched_nms`."""
    check_boxes(boxes, scores, idxs, iou_threshold)
    return _nms(boxes, scores, idxs.detach(), iou_threshold)


def _nms(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    n = boxes.shape[0]
    if n == 0:
        return boxes.new_empty(0, dtype=torch.int64)
    boxes = aligned(to_compute_dtype(boxes))
    values, order = torch.sort(_sort_keys(scores), descending=True, stable=True)  # NaN first
    classes = class_order = None
    if idxs is not None:
        # Grouped by class, so that kernels compare few boxes of different classes.
        classes, class_order = torch.sort(_class_keys(idxs)[order], stable=True)
    box_order = order if class_order is None else order[class_order]
    boxes_float64, scores_float64 = boxes.dtype == torch.float64, values.dtype == torch.float64
    keep, status = torch.empty_like(order), order.new_zeros(2)
    with on_device_of(boxes, values, box_order) as (cuda, stream):
        scratch = boxes.new_empty(cuda.nms_scratch_bytes(n, boxes_float64), dtype=torch.uint8)
        cuda.nms(
            boxes.data_ptr(),
            boxes_float64,
            box_order.data_ptr(),
            0 if classes is None else classes.data_ptr(),
            n,
            values.data_ptr(),
            scores_float64,
            iou_threshold,
            scratch.data_ptr(),
            scratch.numel(),
            keep.data_ptr(),
            status.data_ptr(),
            stream,
        )
    if idxs is not None and idxs.is_floating_point():
        status[1] += _BAD_CLASS * idxs.isnan().any()
    count, faults = status.tolist()  # the only place where the host waits for the GPU
    for bit, message in _FAULTS.items():
        if faults & bit:
            raise ValueError(message)
    keep = keep[:count]
    return order[keep] if class_order is None else order[class_order[keep].sort().values]


def _sort_keys(scores: Tensor) -> Tensor:
    """Convert scores to float32 if it can hold their dtype, else to float64; -0.0 becomes 0.0."""
    fits_float32 = scores.is_floating_point() and scores.dtype != torch.float64
    return to_sortable_scores(scores.to(torch.float32 if fits_float32 else torch.float64))


def _class_keys(idxs: Tensor) -> Tensor:
    """Return int64 numbers that are equal exactly where the classes are: for floats their bits, with -0.0 as 0.0."""
    return (idxs.to(torch.float64) + 0.0).view(torch.int64) if idxs.is_floating_point() else idxs.to(torch.int64)
