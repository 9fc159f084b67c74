"""From what the network gives to boxes: candidates by score, distances from their distributions, suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import ops
from .network import Raw

# More candidates than this go into no suppression; the weakest are left out.
_MAX_CANDIDATES = 30_000


class Found(NamedTuple):
    """N objects of one image, the best first, in pixels of the network's input.

    boxes: (N, 4) x1, y1, x2, y2. scores: (N,). class_ids: (N,) int64. coefficients: (N, K) of segmentation, else None.
    """

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor
    coefficients: Tensor | None


def decode(
    raw: Raw,
    index: int,
    *,
    conf: float,
    iou: float,
    max_det: int,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
) -> Found:
    """The objects of image `index` of a batch.

    A place counts for its best class only. conf: keep greater scores. iou: of two boxes of one class (of any two, if
    agnostic) that overlap by more, the weaker goes. classes: keep these only. ValueError for boxes that aren't finite.
    """
    scores, class_ids = raw.classes[index].float().max(0)
    scores = scores.sigmoid()
    keep = scores > conf
    if classes is not None:
        keep &= torch.isin(class_ids, torch.tensor(list(classes), dtype=torch.int64, device=class_ids.device))
    places = keep.nonzero()[:, 0]
    if len(places) > _MAX_CANDIDATES:
        places = places[scores[places].argsort(descending=True, stable=True)[:_MAX_CANDIDATES]]
    boxes = _boxes(raw.bins[index][:, places].float(), raw.centres[places], raw.strides[places])
    if not bool(boxes.isfinite().all()):
        raise ValueError("the network gave boxes that aren't finite: damaged weights, or too large for half precision")
    scores, class_ids = scores[places], class_ids[places]
    kept = ops.nms(boxes, scores, iou) if agnostic else ops.batched_nms(boxes, scores, class_ids, iou)
    kept = kept[:max_det]
    coefficients = None if raw.coefficients is None else raw.coefficients[index][:, places[kept]].float().T
    return Found(boxes[kept], scores[kept], class_ids[kept], coefficients)


def _boxes(bins: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Logits (4 * bins, N) over distances -> boxes (N, 4): the means of the distributions, from the places' centres."""
    count = bins.shape[0] // 4
    distances = torch.arange(count, dtype=torch.float32, device=bins.device)
    mean = (bins.view(4, count, -1).softmax(1) * distances[:, None]).sum(1).T * strides[:, None]  # (N, 4)
    return torch.cat([centres - mean[:, :2], centres + mean[:, 2:]], 1)
