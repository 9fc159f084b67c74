"""Decoding network output to boxes: candidates by score, distances from distributions, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import ops
from .head import RawOutput

# At most this many candidates enter non-maximum suppression; those with the lowest scores are dropped.
_MAX_CANDIDATES = 30_000
# At least this many candidates of an end-to-end network are filtered by class, as in Ultralytics.
_MIN_END_TO_END_CANDIDATES = 300


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

    For an end-to-end network `iou` has no effect, and a cell may yield several objects of different classes, unless
    agnostic.
    """
    logits = raw.class_logits[index].float()
    if raw.end_to_end:
        scores, class_ids, cells = _best_pairs(logits, max(max_det, _MIN_END_TO_END_CANDIDATES), agnostic)
    else:
        (scores, class_ids), cells = logits.max(0), torch.arange(logits.shape[1], device=logits.device)
    scores = scores.sigmoid()
    keep = scores > conf
    if classes is not None:
        keep &= torch.isin(class_ids, torch.tensor(list(classes), dtype=torch.int64, device=class_ids.device))
    candidates = (keep | scores.isnan()).nonzero()[:, 0]  # NaN is refused below
    if len(candidates) > _MAX_CANDIDATES:
        candidates = candidates[scores[candidates].argsort(descending=True, stable=True)[:_MAX_CANDIDATES]]
    scores, class_ids, cells = scores[candidates], class_ids[candidates], cells[candidates]
    boxes = _decode_boxes(raw.bin_logits[index][:, cells].float(), raw.anchor_points[cells], raw.strides[cells])
    if not bool(boxes.isfinite().all() & scores.isfinite().all()):
        raise ValueError(
            "the network gave boxes or scores that aren't finite: damaged weights, or too large for half precision"
        )
    if raw.end_to_end:
        kept = torch.arange(len(boxes), device=boxes.device)
    else:
        kept = ops.nms(boxes, scores, iou) if agnostic else ops.batched_nms(boxes, scores, class_ids, iou)
    kept = kept[:max_det]
    coefficients = None if raw.coefficients is None else raw.coefficients[index][:, cells[kept]].float().T
    return DecodedObjects(boxes[kept], scores[kept], class_ids[kept], coefficients)


def _best_pairs(logits: Tensor, limit: int, agnostic: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, class ids and cells of the best pairs of a class and a cell, best first, at most `limit`.

    logits: (C, A). Only the `limit` best cells take part, each with its best class only if agnostic.
    """
    best, class_ids = logits.max(0)
    cells = best.argsort(descending=True, stable=True)[:limit]
    if agnostic:
        return best[cells], class_ids[cells], cells
    pairs = logits[:, cells].T.flatten()
    order = pairs.argsort(descending=True, stable=True)[:limit]
    num_classes = len(logits)
    return pairs[order], order % num_classes, cells[order // num_classes]


def _decode_boxes(bin_logits: Tensor, anchor_points: Tensor, strides: Tensor) -> Tensor:
    """Convert logits (4 * bins, N) to boxes (N, 4): each side lies the mean of its distribution from the centre.

    A single bin holds the distance itself.
    """
    num_bins = bin_logits.shape[0] // 4
    means = bin_logits
    if num_bins > 1:
        distances = torch.arange(num_bins, dtype=torch.float32, device=bin_logits.device)
        means = (bin_logits.view(4, num_bins, -1).softmax(1) * distances[:, None]).sum(1)
    offsets = means.T * strides[:, None]  # (N, 4)
    return torch.cat([anchor_points - offsets[:, :2], anchor_points + offsets[:, 2:]], 1)
