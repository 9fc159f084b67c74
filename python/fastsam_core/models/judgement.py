"""How much a model's masks are worth by its own account, and what is asked of them unless the caller says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of the logits, as in Meta's generator.
_OFFSET = 1.0


@dataclass(frozen=True)
class Judgement:
    """The defaults here are those of the official models.

    Attributes:
        conf: masks of a prompt are kept if their predicted IoU is greater; as with Ultralytics.
        conf_thres, stability_score_thresh: what segment everything asks of a mask; as Meta's generator.
        stability_share: how much of the predicted IoU is the mask's stability, the share of it that stays when the
            threshold on its logits rises from -1 to 1; the rest is what the decoder predicts. Of a model whose decoder
            is a poor judge, a mask with a firm border is the better one.
        highest_stability: segment everything doesn't make masks that would need a higher one to pass, to save time.
        consensus: what proposals gain in rank for each e-fold of the number of points that give about the same mask.
        least_region: holes and islands that cover less than this share of the picture are cleaned by segment
            everything.
        within_box: masks of a box stay in it, unless a foreground click beside it asks for more.
    """

    conf: float = 0.25
    conf_thres: float = 0.88
    stability_score_thresh: float = 0.95
    stability_share: float = 0.0
    highest_stability: float = 1.0
    consensus: float = 0.0
    least_region: float = 0.0
    within_box: bool = False

    def predicted_iou(self, decoded: Tensor, logits: Tensor) -> Tensor:
        """Of masks (..., h, w) with logits, of which the decoder predicts the IoU `decoded` (...)."""
        share = self.stability_share
        return torch.lerp(decoded, stability(logits), share) if share else decoded

    def bounded(self, logits: Tensor, boxes: Tensor | None, points: Tensor | None, labels: Tensor | None) -> Tensor:
        """Logits (N, M, h, w) of prompts of `SamModel.decode_prompts`, within their boxes if that is `within_box`."""
        if boxes is None or not self.within_box:
            return logits
        boxes = boxes.to(logits.device, torch.float32)
        down, across = (_depth(boxes[:, axis::2], logits.shape[-1 - axis]) for axis in (1, 0))
        limit = torch.minimum(down[:, :, None], across[:, None])  # (N, h, w)
        if points is not None and labels is not None:
            points = points.to(limit)
            outside = ((points < boxes[:, None, :2]) | (points > boxes[:, None, 2:])).any(-1)
            beside = (outside & (labels.to(limit.device) == 1)).any(1)
            limit = torch.where(beside[:, None, None], torch.inf, limit)
        return torch.minimum(logits, limit[:, None])


OFFICIAL = Judgement()


def _depth(sides: Tensor, count: int) -> Tensor:
    """How far each of `count` cells of 4 pixels lies within two sides (N, 2), in pixels, negative beyond: (N, count).

    As a limit on logits it crosses 0 where the box ends, to a fraction of a cell once these are interpolated. A box
    that is narrower than two cells is taken for as wide, or none might lie in it.
    """
    first, last = sides.unbind(1)
    half = ((last - first) / 2).clamp(min=4)
    centre = 4 * torch.arange(count, dtype=torch.float32, device=sides.device) + 1.5
    return half[:, None] + 0.5 - (centre - ((first + last) / 2)[:, None]).abs()


def stability(logits: Tensor) -> Tensor:
    """The stability score of masks, (..., h, w) -> (...) float32; 0 where no logit is above -1."""
    firm, any_at_all = ((logits > bound).sum((-2, -1)).float() for bound in (_OFFSET, -_OFFSET))
    return firm / any_at_all.clamp(min=1)
