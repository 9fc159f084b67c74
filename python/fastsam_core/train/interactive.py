"""One training step's losses: prompts, and the further clicks of someone who corrects the masks they give.

The recipe of Kirillov et al., "Segment Anything" (2023), appendix A: a click or a box first; then clicks where the mask
is wrong, with the last mask as a prompt of its own.
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
    """Losses of `rounds` rounds, and their gradients: added to the parameters' and to `embeddings.grad`. The groups get
    the clicks of all rounds but the first.

    embeddings: (B, C, g, g), a leaf if it needs a gradient. Each round goes backward by itself, so that memory does not
    grow with their number: what is fed back from one to the next carries no gradient.
    """
    wanted = [group.wanted for group in groups]
    picture, masks, targets = (
        torch.cat([getattr(one, name) for one in wanted]) for name in ("picture", "masks", "targets")
    )
    counts = [len(group.labels) for group in groups]
    # The mean over a group's objects, by the group's share of the prompts.
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
    # Channels last, as the decoder takes them: one copy for all prompts and rounds.
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
        # As the reference, the mask that is believed to be best; of an unambiguous prompt, the single one.
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
    """A group's points and labels with those that its kind is told by: a box's two corners, or the empty point that
    closes a prompt of points alone. So all prompts have as many, and are decoded together.
    """
    if group.boxes is None:
        points, labels = torch.zeros_like(group.points[:, :1]), torch.full_like(group.labels[:, :1], -1)
    else:
        points = group.boxes.view(-1, 2, 2)
        labels = torch.arange(2, 4, device=points.device).expand(len(points), 2)
    return torch.cat([group.points, points], 1), torch.cat([group.labels, labels], 1)


def _dense(encoder: PromptEncoder, fed: Tensor | None, generator: torch.Generator, share: float) -> Tensor:
    """The dense embedding of prompts, a `share` of which is given the last masks' logits `fed` (N, S / 4, S / 4)."""
    dense = encoder.dense(None)
    if fed is None:
        return dense
    given = torch.rand(len(fed), generator=generator, device=fed.device) < share
    return torch.where(given[:, None, None, None], encoder.dense(fed[:, None]), dense)
