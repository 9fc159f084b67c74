"""How a model's own scores rate its masks, and the default thresholds for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Offset of the stability score's thresholds on the logits, as in Meta's generator.
_OFFSET = 1.0


@dataclass(frozen=True)
class Judgement:
    """How to score and filter a model's masks. The defaults are those of the official models.

    Attributes:
        conf: masks of a prompt are kept if their predicted IoU is greater, as with Ultralytics.
        conf_thres: segment everything keeps masks whose predicted IoU is greater, as Meta's generator does.
        stability_score_thresh: segment everything keeps masks whose stability is at least this, as Meta's generator
            does.
        stability_share: weight of the mask's stability in the predicted IoU; the decoder's prediction has the rest. The
            stability is the area of the mask at a logit threshold of 1 divided by that at -1. It helps if the decoder
            is a poor judge, since masks with sharp borders are better on average.
        highest_stability: to save time, segment everything doesn't make masks that would need a higher stability to
            pass.
        consensus: weight of agreement when proposals are ranked. The rank of a proposal whose box has an IoU above 0.8
            with n candidates' boxes, its own included, grows by consensus * log(n).
        least_region: segment everything cleans masks of holes and islands that cover less than this fraction of the
            image.
        within_box: whether to limit the masks of a box to it, unless a foreground click lies outside.
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
        """Return the predicted IoU (...) of masks with these logits (..., h, w).

        decoded: (...), the IoU that the decoder predicts.
        """
        share = self.stability_share
        return torch.lerp(decoded, stability(logits), share) if share else decoded

    def bounded(self, logits: Tensor, boxes: Tensor | None, points: Tensor | None, labels: Tensor | None) -> Tensor:
        """Limit logits (N, M, h, w) to the prompts' boxes if `within_box` is set.

        The prompts are those of `SamModel.decode_prompts`.
        """
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
    """Return how many pixels each of `count` cells lies inside an interval, negative outside: (N, count).

    A cell is 4 pixels wide. sides: (N, 2), first and last coordinate of each interval. Used as an upper limit of
    logits, this crosses 0 at the box's border, and does so within a fraction of a cell after interpolation. Intervals
    shorter than two cells count as two cells long, since otherwise they might contain no cell.
    """
    first, last = sides.unbind(1)
    half = ((last - first) / 2).clamp(min=4)
    centre = 4 * torch.arange(count, dtype=torch.float32, device=sides.device) + 1.5
    return half[:, None] + 0.5 - (centre - ((first + last) / 2)[:, None]).abs()


def stability(logits: Tensor) -> Tensor:
    """Return the stability score of masks, (..., h, w) -> (...) float32; 0 if no logit is above -1."""
    firm, any_at_all = ((logits > bound).sum((-2, -1)).float() for bound in (_OFFSET, -_OFFSET))
    return firm / any_at_all.clamp(min=1)
