"""Losses for mask logits and predicted IoU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Truth:
    """N masks asked for, and what doesn't change from one answer to them to the next.

    targets: (N, h, w), the covered share of each cell in [0, 1]; evenness: see `losses`, its method.
    """

    def __init__(self, targets: Tensor, evenness: float = 0.0) -> None:
        self.targets = targets[:, None]  # (N, 1, h, w), as the others
        self.solid = self.targets > 0.5
        others = 1 - self.targets
        self._area = self.targets.sum((2, 3))
        object_cells, other_cells = self._area.clamp(min=1), others.sum((2, 3)).clamp(min=1)
        even = object_cells**evenness * other_cells ** (1 - evenness)
        self._weights = (self.targets / object_cells[..., None, None] + others / even[..., None, None]) / 2

    def losses(self, logits: Tensor) -> Tensor:
        """Cross-entropy plus dice, one value per mask: logits (N, M, h, w) -> (N, M).

        With evenness 0 object and background weigh the same, whatever the object's size: training starts there, since
        focal loss, as in the paper, collapses to empty masks when batches are as small as here. But balance makes small
        masks too large: a cell that is background nineteen times in twenty costs nothing as foreground. With evenness 1
        every cell of a picture weighs the same; between them the weights are interpolated geometrically.
        """
        targets, weights = self.targets.expand_as(logits), self._weights
        entropy = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none").sum((2, 3))
        probabilities = logits.sigmoid()
        overlap = (probabilities * targets).sum((2, 3))
        return entropy + 1 - (2 * overlap + 1) / (probabilities.sum((2, 3)) + self._area + 1)

    def ious(self, logits: Tensor) -> Tensor:
        """IoU of thresholded masks: logits (N, M, h, w) -> (N, M). Two empty masks have IoU 0."""
        return _ious(logits, self.solid)


def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """`Truth.ious` of targets (N, h, w) that are looked at once."""
    return _ious(logits, (targets > 0.5)[:, None])


@torch.no_grad()
def _ious(logits: Tensor, solid: Tensor) -> Tensor:
    predicted = logits > 0
    union = (predicted | solid).sum((2, 3))
    return (predicted & solid).sum((2, 3)) / union.clamp(min=1)


def prompt_loss(
    logits: Tensor, predicted_iou: Tensor, truth: Truth, ambiguous: Tensor, weights: Tensor, iou_weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The loss of N prompts, whose mask tokens are one for the single mask and three for an ambiguous prompt; and the
    IoU (N, 4) of their masks.

    logits: (N, 4, h, w); predicted_iou: (N, 4); ambiguous: (N,) bool. weights: (N,), what each mask counts for; 0 for a
    background click, which has no mask to learn and an IoU of 0. The single mask always learns. Of the three, the best
    one learns, so that they specialise (Kirillov et al., 2023, section 3). iou_weight: what the squared error of the
    predicted IoU counts for beside the masks.
    """
    losses = truth.losses(logits)
    best = losses[:, 1:].min(1).values
    # A small share for the other two keeps every token alive.
    others = losses[:, 1:].mean(1)
    masks = losses[:, 0] + torch.where(ambiguous, best + 0.05 * others, others)
    ious = truth.ious(logits.detach())
    judged = ((predicted_iou - ious * (weights > 0)[:, None]) ** 2).sum(1)
    return (masks * weights).sum() + iou_weight * judged.mean(), ious
