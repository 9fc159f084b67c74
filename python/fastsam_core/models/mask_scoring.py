"""How a model's own scores rate its masks, and the default thresholds for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Offset of the stability score's thresholds on the logits, as in Meta's generator.
_STABILITY_OFFSET = 1.0


@dataclass(frozen=True)
class MaskScoring:
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

    def predicted_iou(self, decoder_iou: Tensor, logits: Tensor) -> Tensor:
        """Return the predicted IoU (...) of masks with these logits (..., h, w).

        decoder_iou: (...), the IoU that the decoder predicts.
        """
        weight = self.stability_share
        return torch.lerp(decoder_iou, stability_score(logits), weight) if weight else decoder_iou

    def clip_to_boxes(
        self, logits: Tensor, boxes: Tensor | None, points: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """Limit logits (N, M, h, w) to the prompts' boxes if `within_box` is set.

        The prompts are those of `SamModel.decode_prompts`.
        """
        if boxes is None or not self.within_box:
            return logits
        boxes = boxes.to(logits.device, torch.float32)
        depth_y, depth_x = (_depth_inside(boxes[:, axis::2], logits.shape[-1 - axis]) for axis in (1, 0))
        limit = torch.minimum(depth_y[:, :, None], depth_x[:, None])  # (N, h, w)
        if points is not None and labels is not None:
            points = points.to(limit)
            outside = ((points < boxes[:, None, :2]) | (points > boxes[:, None, 2:])).any(-1)
            has_click_outside = (outside & (labels.to(limit.device) == 1)).any(1)
            limit = torch.where(has_click_outside[:, None, None], torch.inf, limit)
        return torch.minimum(logits, limit[:, None])


OFFICIAL = MaskScoring()


def _depth_inside(intervals: Tensor, num_cells: int) -> Tensor:
    """Return how many pixels each of `num_cells` cells lies inside an interval, negative outside: (N, num_cells).

    A cell is 4 pixels wide. intervals: (N, 2), first and last coordinate of each interval. Used as an upper limit of
    logits, this crosses 0 at the box's border, and does so within a fraction of a cell after interpolation. Intervals
    shorter than two cells count as two cells long, since otherwise they might contain no cell.
    """
    start, stop = intervals.unbind(1)
    half_length = ((stop - start) / 2).clamp(min=4)
    cell_centres = 4 * torch.arange(num_cells, dtype=torch.float32, device=intervals.device) + 1.5
    return half_length[:, None] + 0.5 - (cell_centres - ((start + stop) / 2)[:, None]).abs()


def stability_score(logits: Tensor) -> Tensor:
    """Return the stability score of masks, (..., h, w) -> (...) float32; 0 if no logit is above -1."""
    inner_area, outer_area = (
        (logits > level).sum((-2, -1)).float() for level in (_STABILITY_OFFSET, -_STABILITY_OFFSET)
    )
    return inner_area / outer_area.clamp(min=1)
