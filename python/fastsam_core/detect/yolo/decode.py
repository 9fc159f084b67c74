"""Decoding network output to boxes: candidates by score, distances from distributions, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import ops
from .network import RawOutput

# At most this many candidates enter non-maximum suppression; those with the lowest scores are dropped.
_MAX_CANDIDATES = 30_000


class DecodedObjects(NamedTuple):
    """N objects of one image, best first, in pixels of the network's input.

    boxes: (N, 4) x1, y1, x2, y2. scores: (N,). class_ids: (N,) int64. coefficients: (N, K) mask coefficients of a
    segmentation network, otherwise None.
    """

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor
    coefficients: Tensor | None


def decode(
    raw: RawOutput,
    index: int,
    *,
    conf: float,
    iou: float,
    max_det: int,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
) -> DecodedObjects:
    """Return the objects of image `index` of a batch.

    Each cell yields at most one object, of its best class. conf: keep scores greater than this. iou: of two boxes of
    one class (of any two, if agnostic) that overlap by more, drop the one with the lower score. max_det: keep this many
    objects. classes: keep these class ids only. ValueError if boxes aren't finite, or scores are NaN.
    """
    scores, class_ids = raw.class_logits[index].float().max(0)
    scores = scores.sigmoid()
    keep = scores > conf
    if classes is not None:
        keep &= torch.isin(class_ids, torch.tensor(list(classes), dtype=torch.int64, device=class_ids.device))
    candidates = (keep | scores.isnan()).nonzero()[:, 0]  # NaN is refused below
    if len(candidates) > _MAX_CANDIDATES:
        candidates = candidates[scores[candidates].argsort(descending=True, stable=True)[:_MAX_CANDIDATES]]
    boxes = _decode_boxes(
        raw.bin_logits[index][:, candidates].float(), raw.anchor_points[candidates], raw.strides[candidates]
    )
    scores, class_ids = scores[candidates], class_ids[candidates]
    if not bool(boxes.isfinite().all() & scores.isfinite().all()):
        raise ValueError(
            "the network gave boxes or scores that aren't finite: damaged weights, or too large for half precision"
        )
    keep_nms = ops.nms(boxes, scores, iou) if agnostic else ops.batched_nms(boxes, scores, class_ids, iou)
    keep_nms = keep_nms[:max_det]
    coefficients = None if raw.coefficients is None else raw.coefficients[index][:, candidates[keep_nms]].float().T
    return DecodedObjects(boxes[keep_nms], scores[keep_nms], class_ids[keep_nms], coefficients)


def _decode_boxes(bin_logits: Tensor, anchor_points: Tensor, strides: Tensor) -> Tensor:
    """Convert logits (4 * bins, N) to boxes (N, 4): each side lies the mean of its distribution from the centre."""
    num_bins = bin_logits.shape[0] // 4
    distances = torch.arange(num_bins, dtype=torch.float32, device=bin_logits.device)
    offsets = (bin_logits.view(4, num_bins, -1).softmax(1) * distances[:, None]).sum(1).T * strides[:, None]  # (N, 4)
    return torch.cat([anchor_points - offsets[:, :2], anchor_points + offsets[:, 2:]], 1)
