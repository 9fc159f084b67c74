"""One training step's losses: prompts, and the further clicks of someone who corrects the masks they give.

The recipe of Kirillov et al., "Segment Anything" (2023), appendix A: a click or a box first; then clicks where the mask
is wrong, with the last mask as a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.sam_model import SamModel
from .losses import mask_iou, prompt_loss
from .prompts import Targets, boxes_around, clicks_in, corrections, draw_targets


@dataclass
class Group:
    """Prompts of one kind: all with a box, or all without. Their lists of tokens have equal length."""

    wanted: Targets
    boxes: Tensor | None
    points: Tensor  # (N, P, 2)
    labels: Tensor  # (N, P)


@dataclass(frozen=True)
class Outcome:
    """What a step gave, on the device: the mean loss, and the mean IoU of the first and the last round's single mask.

    logits: of the last round's single masks of the first group, (N, S / 4, S / 4).
    """

    loss: Tensor
    first_iou: Tensor
    last_iou: Tensor
    logits: Tensor


def draw_groups(
    planes: Tensor,
    inside: Tensor,
    prompts: int,
    generator: torch.Generator,
    *,
    min_area: float,
    shares: Sequence[float] = (),
    background: float,
) -> list[Group]:
    """Clicks for two thirds of the `prompts` of each picture, boxes for the rest; see `draw_targets`."""
    boxed = prompts // 3
    common: dict[str, Any] = {"min_area": min_area, "shares": shares}
    clicked = draw_targets(planes, inside, prompts - boxed, generator, background=background, **common)
    points = clicks_in(clicked.masks, generator)[:, None]
    groups = [Group(clicked, None, points, torch.ones(points.shape[:2], dtype=torch.long, device=planes.device))]
    if boxed:
        wanted = draw_targets(planes, inside, boxed, generator, background=0.0, **common)
        boxes = boxes_around(wanted.masks, generator)
        groups.append(Group(wanted, boxes, boxes.new_zeros(len(boxes), 0, 2), boxes.new_zeros(len(boxes), 0).long()))
    return groups


def train_rounds(
    model: SamModel,
    embeddings: Tensor,
    groups: list[Group],
    rounds: int,
    generator: torch.Generator,
    *,
    evenness: float,
    mask_feedback: float,
    amp: Callable[[], AbstractContextManager[None]],
) -> Outcome:
    """Losses of `rounds` rounds, and their gradients: added to the parameters' and to `embeddings.grad`.

    embeddings: (B, C, g, g), a leaf if it needs a gradient. Each round goes backward by itself, so that memory does not
    grow with their number: what is fed back from one to the next carries no gradient.
    """
    total = embeddings.new_zeros(())
    all_prompts = sum(len(group.labels) for group in groups)
    first = last = embeddings.new_zeros(())
    shown = embeddings.new_zeros(0)
    for group in groups:
        share = len(group.labels) / all_prompts
        fed: Tensor | None = None
        for turn in range(rounds):
            with amp():
                logits, iou = _decode(model, embeddings, group, fed, generator, mask_feedback)
            logits, iou = logits.float(), iou.float()
            ambiguous = group.boxes is None and turn == 0
            loss = prompt_loss(
                logits,
                iou,
                group.wanted.targets,
                torch.full_like(group.wanted.is_object, ambiguous),
                group.wanted.is_object,
                evenness,
            )
            (loss * (share / rounds)).backward()
            total = total + loss.detach() * (share / rounds)
            logits, iou = logits.detach(), iou.detach()
            if turn in (0, rounds - 1):
                real = group.wanted.is_object
                mean = (mask_iou(logits[:, :1], group.wanted.targets)[:, 0] * real).sum() / real.sum().clamp(min=1)
                first = first + share * mean * (turn == 0)
                last = last + share * mean * (turn == rounds - 1)
            if turn == rounds - 1:
                shown = logits[:, 0] if not shown.numel() else shown
                break
            # As the reference, the mask that is believed to be best; of an unambiguous prompt, the single one.
            chosen = iou[:, 1:].argmax(1) + 1 if ambiguous else torch.zeros_like(iou[:, 0], dtype=torch.long)
            fed = logits[torch.arange(len(logits), device=logits.device), chosen]
            click, label = corrections(group.wanted.masks, group.wanted.targets, fed, generator)
            group.points = torch.cat([group.points, click[:, None]], 1)
            group.labels = torch.cat([group.labels, label[:, None]], 1)
    return Outcome(total, first, last, shown)


def _decode(
    model: SamModel, embeddings: Tensor, group: Group, fed: Tensor | None, generator: torch.Generator, share: float
) -> tuple[Tensor, Tensor]:
    """All four masks of each prompt, (N, 4, S / 4, S / 4), and predicted IoU (N, 4).

    fed: the last masks' logits (N, S / 4, S / 4), which a `share` of the prompts is given.
    """
    encoder = model.prompt_encoder
    points = group.points if group.points.shape[1] else None
    sparse = encoder.sparse(points, group.labels if points is not None else None, group.boxes)
    dense = encoder.dense(None)
    if fed is not None:
        given = torch.rand(len(fed), generator=generator, device=fed.device) < share
        dense = torch.where(given[:, None, None, None], encoder.dense(fed[:, None]), dense)
    return model.mask_decoder(embeddings[group.wanted.picture], encoder.dense_position_embedding(), sparse, dense)
