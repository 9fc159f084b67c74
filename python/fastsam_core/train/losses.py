"""Losses for mask logits and predicted IoU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class WeightedTargets:
    """N true masks with precomputed loss weights, to compare several predictions with.

    targets: (N, h, w), the fraction in [0, 1] of each cell that the mask covers. evenness: see
    `WeightedTargets.losses`.
    """

    def __init__(self, targets: Tensor, evenness: float = 0.0) -> None:
        self.targets = targets[:, None]  # (N, 1, h, w), broadcasts over the M predictions per mask
        self.binary = self.targets > 0.5
        background = 1 - self.targets
        self._area = self.targets.sum((2, 3))
        object_cells, other_cells = self._area.clamp(min=1), background.sum((2, 3)).clamp(min=1)
        even = object_cells**evenness * other_cells ** (1 - evenness)
        self._weights = (self.targets / object_cells[..., None, None] + background / even[..., None, None]) / 2

    def losses(self, logits: Tensor) -> Tensor:
        """Return cross-entropy plus dice loss of each mask: logits (N, M, h, w) -> (N, M).

        With evenness 0 object and background have the same total weight, whatever the object's size. Training starts
        there, because the paper's focal loss collapses to empty masks with batches as small as here. But this balance
        makes small masks too large: a cell that is background nineteen times in twenty costs nothing as foreground.
        With evenness 1 every cell has the same weight. In between, the weights are interpolated geometrically.
        """
        targets, weights = self.targets.expand_as(logits), self._weights
        entropy = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none").sum((2, 3))
        probabilities = logits.sigmoid()
        overlap = (probabilities * targets).sum((2, 3))
        return entropy + 1 - (2 * overlap + 1) / (probabilities.sum((2, 3)) + self._area + 1)

    def ious(self, logits: Tensor) -> Tensor:
        """Return the IoU of thresholded masks: logits (N, M, h, w) -> (N, M). Two empty masks have IoU 0."""
        return _thresholded_ious(logits, self.binary)


def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `WeightedTargets.ious` without a `WeightedTargets`: logits (N, M, h, w), targets (N, h, w) -> (N, M)."""
    return _thresholded_ious(logits, (targets > 0.5)[:, None])


@torch.no_grad()
def _thresholded_ious(logits: Tensor, binary: Tensor) -> Tensor:
    predicted = logits > 0
    union = (predicted | binary).sum((2, 3))
    return (predicted & binary).sum((2, 3)) / union.clamp(min=1)


def prompt_loss(
    logits: Tensor,
    predicted_iou: Tensor,
    truth: WeightedTargets,
    ambiguous: Tensor,
    weights: Tensor,
    iou_weight: float = 1.0,
    *,
    score_background: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the loss of N prompts and the IoU (N, 4) of their masks.

    Of a prompt's four masks the first is the single mask, the other three are for ambiguous prompts. The single mask is
    always trained. Of the three, only the best is trained when the prompt is ambiguous, so that they specialise
    (Kirillov et al., 2023, section 3); otherwise all three are.

    Args:
        logits: (N, 4, h, w).
        predicted_iou: (N, 4).
        truth: the N true masks.
        ambiguous: (N,) bool.
        weights: (N,), weight of each prompt's mask loss; 0 for a background click, which has no mask to learn and whose
            IoU is taken as 0.
        iou_weight: weight of the predicted IoU's squared error relative to the mask losses.
        score_background: whether the predicted IoU of background clicks counts.
    """
    losses = truth.losses(logits)
    best = losses[:, 1:].min(1).values
    # A small weight on the mean of all three keeps tokens from never being trained.
    mean_of_three = losses[:, 1:].mean(1)
    mask_losses = losses[:, 0] + torch.where(ambiguous, best + 0.05 * mean_of_three, mean_of_three)
    ious = truth.ious(logits.detach())
    is_object = weights > 0
    iou_errors = ((predicted_iou - ious * is_object[:, None]) ** 2).sum(1)
    iou_error = iou_errors.mean() if score_background else (iou_errors * is_object).sum() / is_object.sum().clamp(min=1)
    return (mask_losses * weights).sum() + iou_weight * iou_error, ious
