"""Signatures and fakes of non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import check_boxes, unknown_size

SCHEMAS = {
    "nms": "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
    "batched_nms": "(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor",
}


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    check_boxes(boxes, scores, None, iou_threshold)
    return boxes.new_empty(unknown_size(), dtype=torch.int64)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    check_boxes(boxes, scores, idxs, iou_threshold)
    return boxes.new_empty(unknown_size(), dtype=torch.int64)
