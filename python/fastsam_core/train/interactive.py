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
from .losses import WeightedTargets, prompt_loss
from .prompts import PromptTargets, Regions, corrective_clicks, draw_targets, jittered_boxes, sample_clicks


@dataclass
class PromptGroup:
    """N prompts of one kind: all with a box, or all without. They have equally many points, so equally many tokens."""

    targets: PromptTargets
    boxes: Tensor | None
    points: Tensor  # (N, P, 2)
    labels: Tensor  # (N, P)


@dataclass(frozen=True)
class StepResult:
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
    valid: Tensor,
    prompts: int,
    generator: torch.Generator,
    *,
    min_area: float,
    shares: Sequence[float] = (),
    background: float,
) -> list[PromptGroup]:
    """Draw `prompts` prompts for each image: boxes for a third of them, rounded down, and clicks for the rest.

    planes: (B, K, S, S) uint8; valid: (B, S, S) bool. Other arguments as of `Regions` and `draw_targets`. Boxes ask
    for the background only in images without regions.
    """
    num_boxes = prompts // 3
    regions = Regions(planes, valid, min_area=min_area, shares=shares)
    click_targets = draw_targets(regions, prompts - num_boxes, generator, background=background)
    points = sample_clicks(click_targets.masks, generator)[:, None]
    groups = [
        PromptGroup(click_targets, None, points, torch.ones(points.shape[:2], dtype=torch.long, device=planes.device))
    ]
    if num_boxes:
        box_targets = draw_targets(regions, num_boxes, generator, background=0.0)
        boxes = jittered_boxes(box_targets.masks, generator)
        groups.append(
            PromptGroup(box_targets, boxes, boxes.new_zeros(len(boxes), 0, 2), boxes.new_zeros(len(boxes), 0).long())
        )
    return groups


def train_rounds(
    model: SamModel,
    embeddings: Tensor,
    groups: list[PromptGroup],
    rounds: int,
    generator: torch.Generator,
    *,
    evenness: float,
    mask_feedback: float,
    iou_weight: float = 1.0,
    score_background: bool = True,
    amp: Callable[[], AbstractContextManager[None]],
) -> StepResult:
    """Run `rounds` rounds of prompts and accumulate the gradients in the parameters and in `embeddings.grad`.

    Each round runs its own backward pass, so memory does not grow with their number: no gradient flows through the
    mask and clicks passed from one round to the next. The corrective clicks are appended to `groups` in place.

    Args:
        model: supplies the prompt encoder and the mask decoder.
        embeddings: (B, C, g, g), a leaf tensor if it needs a gradient.
        groups: the prompts of the first round.
        rounds: their number; each after the first adds a corrective click.
        generator: source of randomness.
        evenness: see `losses.WeightedTargets.losses`.
        mask_feedback: fraction of the prompts that get the previous mask in each round after the first.
        iou_weight: see `losses.prompt_loss`.
        score_background: see `losses.prompt_loss`.
        amp: makes the autocast context of the model's forward passes.
    """
    group_targets = [group.targets for group in groups]
    image_index, masks, coverage = (
        torch.cat([getattr(targets, name) for targets in group_targets])
        for name in ("image_index", "masks", "coverage")
    )
    counts = [len(group.labels) for group in groups]
    # Mean over the objects of each group, weighted by the group's fraction of all prompts.
    weights = torch.cat(
        [
            targets.is_object * (count / len(image_index)) / targets.is_object.sum().clamp(min=1)
            for targets, count in zip(group_targets, counts, strict=True)
        ]
    )
    truth = WeightedTargets(coverage, evenness)
    points, labels = (torch.cat(tensors) for tensors in zip(*map(_prompt_points, groups), strict=True))
    is_point_prompt = torch.cat([torch.full_like(group.targets.is_object, group.boxes is None) for group in groups])
    with amp():
        image_pe = model.prompt_encoder.get_dense_pe()
    # Channels last, as the decoder needs them, converted once for all prompts and rounds.
    embeddings_nhwc = embeddings.permute(0, 2, 3, 1).contiguous()
    total_loss = embeddings.new_zeros(())
    first_iou = last_iou = total_loss
    previous_logits: Tensor | None = None
    clicks: list[tuple[Tensor, Tensor]] = []
    for round_index in range(rounds):
        with amp():
            sparse = model.prompt_encoder.embed_points(points, labels)
            dense = _dense_embedding(model.prompt_encoder, previous_logits, generator, mask_feedback)
            prompt_embeddings = embeddings_nhwc.index_select(0, image_index).permute(0, 3, 1, 2)
            logits, iou = model.mask_decoder.predict_masks(prompt_embeddings, image_pe, sparse, dense)
        logits, iou = logits.float(), iou.float()
        ambiguous = is_point_prompt if round_index == 0 else torch.zeros_like(is_point_prompt)
        loss, ious = prompt_loss(logits, iou, truth, ambiguous, weights, iou_weight, score_background=score_background)
        (loss / rounds).backward()
        total_loss = total_loss + loss.detach() / rounds
        logits, iou = logits.detach(), iou.detach()
        if round_index in (0, rounds - 1):
            last_iou = (ious[:, 0] * weights).sum()
            first_iou = last_iou if round_index == 0 else first_iou
        if round_index == rounds - 1:
            break
        # As in the reference: the mask with the highest predicted IoU, or the single mask of an unambiguous prompt.
        best_mask = (iou[:, 1:].argmax(1) + 1) * ambiguous
        previous_logits = logits.gather(1, best_mask[:, None, None, None].expand(-1, -1, *logits.shape[2:]))[:, 0]
        click, label = corrective_clicks(masks, coverage, previous_logits, generator)
        clicks.append((click, label))
        points, labels = torch.cat([points, click[:, None]], 1), torch.cat([labels, label[:, None]], 1)
    if clicks:
        new_prompts = [torch.stack([click for click, _ in clicks], 1), torch.stack([label for _, label in clicks], 1)]
        for group, new_points, new_labels in zip(
            groups, *(tensor.split(counts) for tensor in new_prompts), strict=True
        ):
            group.points, group.labels = (
                torch.cat([group.points, new_points], 1),
                torch.cat([group.labels, new_labels], 1),
            )
    return StepResult(total_loss, first_iou, last_iou, logits[: counts[0], 0])


def _prompt_points(group: PromptGroup) -> tuple[Tensor, Tensor]:
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


def _dense_embedding(
    encoder: PromptEncoder, previous_logits: Tensor | None, generator: torch.Generator, fraction: float
) -> Tensor:
    """Return the dense embedding of N prompts, of which a random fraction `fraction` gets the previous masks.

    previous_logits: logits of the previous masks, (N, S / 4, S / 4), or None in the first round, which gives no masks.
    """
    dense = encoder.dense(None)
    if previous_logits is None:
        return dense
    gets_mask = torch.rand(len(previous_logits), generator=generator, device=previous_logits.device) < fraction
    return torch.where(gets_mask[:, None, None, None], encoder.dense(previous_logits[:, None]), dense)
