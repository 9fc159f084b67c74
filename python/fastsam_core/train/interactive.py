"""Losses of one training step, with prompts and simulated corrective clicks.

Follows Kirillov et al., "Segment Anything" (2023), appendix A: first a click or a box, then clicks where the mask is
wrong, with the previous mask as an additional prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.prompt_encoder import PromptEncoder
from ..models.sam_model import SamModel
from .losses import Truth, prompt_loss
from .prompts import Regions, Targets, boxes_around, clicks_in, corrections, draw_targets


@dataclass
class Group:
    """N prompts of one kind: all with a box, or all without. They have equally many points, so equally many tokens."""

    wanted: Targets
    boxes: Tensor | None
    points: Tensor  # (N, P, 2)
    labels: Tensor  # (N, P)


@dataclass(frozen=True)
class Outcome:
    """Result of a training step, on the device.

    loss: mean over the rounds. first_iou, last_iou: mean IoU of the single masks in the first and the last round.
    logits: (N, S / 4, S / 4), of the first group's single masks in the last round.
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
    """Draw `prompts` prompts for each image: boxes for a third of them, rounded down, and clicks for the rest.

    planes: (B, K, S, S) uint8; inside: (B, S, S) bool. Other arguments as of `Regions` and `draw_targets`. Boxes ask
    for the background only in images without regions.
    """
    boxed = prompts // 3
    regions = Regions(planes, inside, min_area=min_area, shares=shares)
    clicked = draw_targets(regions, prompts - boxed, generator, background=background)
    points = clicks_in(clicked.masks, generator)[:, None]
    groups = [Group(clicked, None, points, torch.ones(points.shape[:2], dtype=torch.long, device=planes.device))]
    if boxed:
        wanted = draw_targets(regions, boxed, generator, background=0.0)
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
    iou_weight: float = 1.0,
    amp: Callable[[], AbstractContextManager[None]],
) -> Outcome:
    """Run `rounds` rounds of prompts and accumulate the gradients in the parameters and in `embeddings.grad`.

    Each round runs its own backward pass, so memory does not grow with their number: no gradient flows through the
    mask and clicks passed from one round to the next. The corrective clicks are appended to `groups` in place.

    Args:
        model: supplies the prompt encoder and the mask decoder.
        embeddings: (B, C, g, g), a leaf tensor if it needs a gradient.
        groups: the prompts of the first round.
        rounds: their number; each after the first adds a corrective click.
        generator: source of randomness.
        evenness: see `losses.Truth.losses`.
        mask_feedback: fraction of the prompts that get the previous mask in each round after the first.
        iou_weight: see `losses.prompt_loss`.
        amp: makes the autocast context of the model's forward passes.
    """
    wanted = [group.wanted for group in groups]
    picture, masks, targets = (
        torch.cat([getattr(one, name) for one in wanted]) for name in ("picture", "masks", "targets")
    )
    counts = [len(group.labels) for group in groups]
    # Mean over the objects of each group, weighted by the group's fraction of all prompts.
    weights = torch.cat(
        [
            one.is_object * (count / len(picture)) / one.is_object.sum().clamp(min=1)
            for one, count in zip(wanted, counts, strict=True)
        ]
    )
    truth = Truth(targets, evenness)
    points, labels = (torch.cat(tensors) for tensors in zip(*map(_tokens, groups), strict=True))
    of_points = torch.cat([torch.full_like(group.wanted.is_object, group.boxes is None) for group in groups])
    with amp():
        position = model.prompt_encoder.get_dense_pe()
    # Channels last, as the decoder needs them, converted once for all prompts and rounds.
    cells = embeddings.permute(0, 2, 3, 1).contiguous()
    total = embeddings.new_zeros(())
    first = last = total
    fed: Tensor | None = None
    clicks: list[tuple[Tensor, Tensor]] = []
    for turn in range(rounds):
        with amp():
            sparse = model.prompt_encoder.embed_points(points, labels)
            dense = _dense(model.prompt_encoder, fed, generator, mask_feedback)
            of_prompts = cells.index_select(0, picture).permute(0, 3, 1, 2)
            logits, iou = model.mask_decoder.predict_masks(of_prompts, position, sparse, dense)
        logits, iou = logits.float(), iou.float()
        ambiguous = of_points if turn == 0 else torch.zeros_like(of_points)
        loss, ious = prompt_loss(logits, iou, truth, ambiguous, weights, iou_weight)
        (loss / rounds).backward()
        total = total + loss.detach() / rounds
        logits, iou = logits.detach(), iou.detach()
        if turn in (0, rounds - 1):
            last = (ious[:, 0] * weights).sum()
            first = last if turn == 0 else first
        if turn == rounds - 1:
            break
        # As in the reference: the mask with the highest predicted IoU, or the single mask of an unambiguous prompt.
        chosen = (iou[:, 1:].argmax(1) + 1) * ambiguous
        fed = logits.gather(1, chosen[:, None, None, None].expand(-1, -1, *logits.shape[2:]))[:, 0]
        click, label = corrections(masks, targets, fed, generator)
        clicks.append((click, label))
        points, labels = torch.cat([points, click[:, None]], 1), torch.cat([labels, label[:, None]], 1)
    if clicks:
        more = [torch.stack([click for click, _ in clicks], 1), torch.stack([label for _, label in clicks], 1)]
        for group, new_points, new_labels in zip(groups, *(one.split(counts) for one in more), strict=True):
            group.points, group.labels = (
                torch.cat([group.points, new_points], 1),
                torch.cat([group.labels, new_labels], 1),
            )
    return Outcome(total, first, last, logits[: counts[0], 0])


def _tokens(group: Group) -> tuple[Tensor, Tensor]:
    """Return a group's points and labels with two corners appended for a box, or with padding if there is none.

    The padding is the "not a point" that the prompt encoder expects after points without a box. In the first round a
    box alone and a click with padding both make two tokens, so prompts of both kinds are decoded together.
    """
    if group.boxes is None:
        points, labels = torch.zeros_like(group.points[:, :1]), torch.full_like(group.labels[:, :1], -1)
    else:
        points = group.boxes.view(-1, 2, 2)
        labels = torch.arange(2, 4, device=points.device).expand(len(points), 2)
    return torch.cat([group.points, points], 1), torch.cat([group.labels, labels], 1)


def _dense(encoder: PromptEncoder, fed: Tensor | None, generator: torch.Generator, share: float) -> Tensor:
    """Return the dense embedding of N prompts, of which a random fraction `share` gets the previous masks.

    fed: logits of the previous masks, (N, S / 4, S / 4), or None in the first round, which gives no masks.
    """
    dense = encoder.dense(None)
    if fed is None:
        return dense
    given = torch.rand(len(fed), generator=generator, device=fed.device) < share
    return torch.where(given[:, None, None, None], encoder.dense(fed[:, None]), dense)
