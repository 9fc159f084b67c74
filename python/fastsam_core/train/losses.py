"""Losses for mask logits and predicted IoU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mask_loss(logits: Tensor, targets: Tensor, evenness: float = 0.0) -> Tensor:
    """Cross-entropy plus dice, one value per mask.

    logits: (N, M, h, w); targets: (N, h, w), the covered share of each cell in [0, 1]. Returns (N, M).

    With `evenness` 0 object and background weigh the same, whatever the object's size: training starts there, since
    focal loss, as in the paper, collapses to empty masks when batches are as small as here. But balance makes small
    masks too large: a cell that is background nineteen times in twenty costs nothing as foreground. With `evenness` 1
    every cell of a picture weighs the same; between them the weights are interpolated geometrically.
    """
    targets = targets[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    object_cells, other_cells = targets.sum((2, 3)).clamp(min=1), (1 - targets).sum((2, 3)).clamp(min=1)
    inside = (entropy * targets).sum((2, 3)) / object_cells
    outside = (entropy * (1 - targets)).sum((2, 3)) / (object_cells**evenness * other_cells ** (1 - evenness))
    probabilities = logits.sigmoid()
    overlap = (probabilities * targets).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probabilities.sum((2, 3)) + targets.sum((2, 3)) + 1)
    return (inside + outside) / 2 + dice


@torch.no_grad()
def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of thresholded masks: logits (N, M, h, w), targets (N, h, w) -> (N, M). Two empty masks have IoU 0."""
    predicted, wanted = logits > 0, (targets > 0.5)[:, None]
    union = (predicted | wanted).sum((2, 3))
    return (predicted & wanted).sum((2, 3)) / union.clamp(min=1)


def prompt_loss(
    logits: Tensor,
    predicted_iou: Tensor,
    targets: Tensor,
    ambiguous: Tensor,
    is_object: Tensor,
    evenness: float = 0.0,
) -> Tensor:
    """The loss of N prompts, whose mask tokens are one for the single mask and three for an ambiguous prompt.

    logits: (N, 4, h, w); predicted_iou: (N, 4); ambiguous, is_object: (N,) bool; evenness: see `mask_loss`. The
    single mask always learns. Of the three, the best one learns, so that they specialise (Kirillov et al., 2023,
    section 3). A background click has no mask to learn and an IoU of 0.
    """
    losses = mask_loss(logits, targets, evenness)
    best = losses[:, 1:].min(1).values
    # A small share for the other two keeps every token alive.
    others = losses[:, 1:].mean(1)
    masks = losses[:, 0] + torch.where(ambiguous, best + 0.05 * others, others)
    iou = ((predicted_iou - mask_iou(logits.detach(), targets) * is_object[:, None]) ** 2).sum(1)
    return (masks * is_object).sum() / is_object.sum().clamp(min=1) + iou.mean()
