"""Training step: prompts decoded together match those decoded group by group, and no step waits for the GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from fastsam_core.models import registry
from fastsam_core.models.sam_model import SamModel
from fastsam_core.train import interactive
from fastsam_core.train.config import Phase, TrainConfig
from fastsam_core.train.interactive import PromptGroup, draw_groups, train_rounds
from fastsam_core.train.loop import Trainer
from fastsam_core.train.losses import WeightedTargets, mask_iou
from fastsam_core.train.pool import LabelledImage, collate
from fastsam_core.train.prompts import _sample_columns
from gpu_waits import waits

SIZE = 64


def plain_mask_loss(logits: Tensor, targets: Tensor, evenness: float) -> Tensor:
    """Return the mask loss from its definition: cross-entropy, weighted by evenness, plus dice."""
    targets = targets[:, None].expand_as(logits)
    entropy = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits))
    here, elsewhere = targets.sum((2, 3)).clamp(min=1), (1 - targets).sum((2, 3)).clamp(min=1)
    valid = (entropy * targets).sum((2, 3)) / here
    outside = (entropy * (1 - targets)).sum((2, 3)) / (here**evenness * elsewhere ** (1 - evenness))
    chances = logits.sigmoid()
    both, either = (chances * targets).sum((2, 3)), chances.sum((2, 3)) + targets.sum((2, 3))
    return (valid + outside) / 2 + 1 - (2 * both + 1) / (either + 1)


@pytest.mark.parametrize("evenness", [0.0, 0.4, 1.0])
def test_mask_loss_matches_its_definition(evenness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(5, 4, 8, 8, generator=generator)
    targets = torch.rand(5, 8, 8, generator=generator).round(decimals=1)
    targets[0], targets[1], targets[2, 2:] = 0, 1, 0
    torch.testing.assert_close(
        WeightedTargets(targets, evenness).losses(logits), plain_mask_loss(logits, targets, evenness)
    )


def deterministic_corrections(
    masks: Tensor, targets: Tensor, logits: Tensor, generator: object
) -> tuple[Tensor, Tensor]:
    """Replace random corrections: click on the cell with the largest logit, labelled by the target there."""
    cell = logits.flatten(1).argmax(1)
    side = logits.shape[-1]
    label = targets.flatten(1).gather(1, cell[:, None])[:, 0] > 0.5
    return torch.stack([4.0 * (cell % side), 4.0 * (cell // side)], 1), label.long()


def group_by_group(
    model: SamModel, embeddings: Tensor, groups: list[PromptGroup], rounds: int, evenness: float
) -> tuple[Tensor, list[Tensor]]:
    """Return loss (after backward) and mean IoU of the first and last round, computed separately for each group."""
    count = sum(len(group.labels) for group in groups)
    encoder, total = model.prompt_encoder, torch.zeros(())
    ious = [torch.zeros(()), torch.zeros(())]
    for group in groups:
        targets, share, fed = group.targets, len(group.labels) / count, None
        for turn in range(rounds):
            points = group.points if group.points.shape[1] else None
            sparse = encoder.sparse(points, None if points is None else group.labels, group.boxes)
            dense = encoder.dense(None if fed is None else fed[:, None])
            position = encoder.get_dense_pe()
            logits, iou = model.mask_decoder.predict_masks(embeddings[targets.image_index], position, sparse, dense)
            losses = plain_mask_loss(logits, targets.coverage, evenness)
            ambiguous = group.boxes is None and turn == 0
            rest = losses[:, 1:].mean(1)
            masks = losses[:, 0] + (losses[:, 1:].amin(1) + 0.05 * rest if ambiguous else rest)
            objects = targets.is_object.sum().clamp(min=1)
            found = mask_iou(logits, targets.coverage)
            judged = ((iou - found * targets.is_object[:, None]) ** 2).sum(1).mean()
            total = total + share / rounds * ((masks * targets.is_object).sum() / objects + judged)
            for place in {0: [0], rounds - 1: [1]}.get(turn, []) if rounds > 1 else [0, 1]:
                ious[place] = ious[place] + share * (found[:, 0] * targets.is_object).sum() / objects
            chosen = iou[:, 1:].argmax(1) + 1 if ambiguous else torch.zeros_like(iou[:, 0]).long()
            fed = logits.detach()[torch.arange(len(logits)), chosen]
            if turn < rounds - 1:
                click, label = deterministic_corrections(targets.masks, targets.coverage, fed, None)
                group.points = torch.cat([group.points, click[:, None]], 1)
                group.labels = torch.cat([group.labels, label[:, None]], 1)
    total.backward()
    return total.detach(), ious


@pytest.mark.parametrize("rounds", [1, 3])
def test_groups_decoded_together_match_each_on_its_own(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactive, "corrective_clicks", deterministic_corrections)
    torch.manual_seed(0)
    model = registry.build("sam_nano")
    model.set_image_size(SIZE)
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    planes = torch.zeros(2, 2, SIZE, SIZE, dtype=torch.uint8)
    planes[0, 0, 8:40, 16:48], planes[0, 1, 12:24, 20:32], planes[1, 0, 4:20, 4:60] = 1, 1, 2
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    groups = draw_groups(planes, valid, 9, generator, min_area=0.01, background=0.3)
    assert not groups[0].targets.is_object.all()  # so that objects and prompts differ in number
    copies = copy.deepcopy(groups)
    embeddings = torch.randn(2, model.prompt_encoder.embed_dim, 4, 4, generator=generator)
    one, each = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    outcome = train_rounds(
        model, one, groups, rounds, generator, evenness=0.4, mask_feedback=2.0, amp=lambda: nullcontext()
    )
    loss, ious = group_by_group(other, each, copies, rounds, 0.4)
    torch.testing.assert_close(outcome.loss, loss)
    torch.testing.assert_close([outcome.first_iou, outcome.last_iou], ious)
    assert outcome.logits.shape == (12, 16, 16)
    assert one.grad is not None and each.grad is not None
    torch.testing.assert_close(one.grad, each.grad, rtol=1e-3, atol=1e-6)
    seen = 0
    for (name, found), wanted in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (found.grad is None) == (wanted.grad is None), name
        if found.grad is not None and wanted.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=2e-6, msg=name)
            seen += bool(found.grad.any())
    assert seen > 80
    for group, wanted_group in zip(groups, copies, strict=True):
        assert torch.equal(group.points, wanted_group.points) and torch.equal(group.labels, wanted_group.labels)
        assert group.points.shape[1] == (rounds if group.boxes is None else rounds - 1)


def test_draws_match_torch_multinomial() -> None:
    weights = (
        torch.rand(500, 40, generator=torch.Generator().manual_seed(1)).relu_().where(torch.rand(500, 40) < 0.3, 0)
    )
    weights[:, 7] += 0.01
    one, other = (torch.Generator().manual_seed(2) for _ in range(2))
    assert torch.equal(_sample_columns(weights, one), torch.multinomial(weights, 1, generator=other)[:, 0])


class Blocks(Dataset[LabelledImage]):
    """Data set of noise images with a few square regions."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> LabelledImage:
        rng = np.random.default_rng(index)
        planes = np.zeros((3, SIZE, SIZE), np.int16)
        for number in range(1, 4):
            top, left = rng.integers(0, SIZE // 2, 2)
            planes[number % 3, top : top + 30, left : left + 30] = number
        return LabelledImage(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), planes)


def trainer_in_a_run(folder: Path, device: str = "cpu", precision: str = "bfloat16") -> Trainer:
    """Return a trainer with images in its pool and one step done."""
    config = TrainConfig(phases=(Phase(SIZE, 100, 8),), prompts=6, pool=8, precision=precision)
    trainer = Trainer(config, Blocks(), folder, device, workers=0)
    trainer._enter_phase(0)
    trainer.pool.add(collate([Blocks()[k] for k in range(8)]))
    trainer._train_step(0)
    trainer.step = 21  # every 20th step reads the gradient norm; this isn't one
    return trainer


class WaitRecorder(TorchDispatchMode):
    """Records operations for which the host would wait for a GPU, because shapes or results depend on device values."""

    ALWAYS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.uploads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.ALWAYS or (name == "multinomial" and args[1] == 1):
            self.found.append(name)
        elif name.lstrip("_").startswith("index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        ):
            self.found.append(f"{name} by a mask")
        self.uploads += name == "lift_fresh"  # a tensor made of host numbers
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: bool(x.any()), "_local_scalar_dense"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.multinomial(x, 1), "multinomial"),
    ],
)
def test_wait_recorder_detects_waiting_operations(wait: Callable[[Tensor], object], name: str) -> None:
    with WaitRecorder() as recorder:
        wait(torch.ones(3))
    assert name in recorder.found


@pytest.mark.once("gradients are PyTorch's")
@pytest.mark.parametrize("rounds", [1, 3])
def test_training_step_reads_nothing_from_the_device(tmp_path: Path, rounds: int) -> None:
    trainer = trainer_in_a_run(tmp_path)
    trainer.config = replace(trainer.config, rounds=tuple(float(k == rounds - 1) for k in range(4)))
    # The unfused optimizer, the default on a CPU, reads values of the device. On a GPU it is fused.
    trainer.optimizer = torch.optim.AdamW(trainer.trained_parameters, fused=True)
    with WaitRecorder() as recorder:
        trainer._train_step(0)
    assert not recorder.found
    assert recorder.uploads == 1  # random numbers for the views, in one tensor
    assert trainer.optimizer.state  # the optimizer did run


@pytest.mark.gpu
def test_training_step_does_not_wait_for_the_gpu(tmp_path: Path) -> None:
    trainer = trainer_in_a_run(tmp_path, "cuda")
    for _ in range(12):  # enough to use every number of rounds
        trainer._train_step(0)
        trainer.step += 2 if trainer.step % 20 == 19 else 1
    with waits() as found:
        trainer._train_step(0)
    assert not found
