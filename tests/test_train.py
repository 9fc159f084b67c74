"""Training: losses, the training loop, and resuming."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastsam_core.models import registry
from fastsam_core.models.checkpoint import load_model
from fastsam_core.models.tiny_vit import Attention, TinyViT
from fastsam_core.train import loop
from fastsam_core.train.config import Phase, TrainConfig
from fastsam_core.train.evaluate import evaluate
from fastsam_core.train.loop import Trainer
from fastsam_core.train.losses import WeightedTargets, mask_iou, prompt_loss
from fastsam_core.train.pool import LabelledImage
from fastsam_core.train.progress import COLUMNS, Curves
from fastsam_core.train.windows import shrink_windows
from training_scenes import scenes

SHORT = TrainConfig(phases=(Phase(64, 2, 8), Phase(96, 2, 2)), prompts=3, pool=8, reuse=2, seed=3)
# The other tests still run the trainer, for fewer steps.
ONCE = pytest.mark.once("gradients are PyTorch's")


def test_mask_loss_prefers_the_right_mask() -> None:
    target = torch.zeros(1, 16, 16)
    target[0, 4:8, 4:8] = 1
    right = (target - 0.5) * 20
    candidates = torch.stack([right[0], -right[0], torch.full((16, 16), -10.0), torch.full((16, 16), 10.0)])[None]
    losses = WeightedTargets(target).losses(candidates)[0]
    assert losses.argmin() == 0
    assert losses[0] < 0.01
    # A small object weighs as much as its background, so predicting all or nothing stays costly.
    assert losses[2] > 2
    assert losses[3] > 2


def test_mask_iou_of_half_overlapping_and_empty_masks() -> None:
    target = torch.zeros(1, 4, 4)
    target[0, :2] = 1
    half = torch.full((4, 4), -1.0)
    half[0] = 1
    iou = mask_iou(torch.stack([half, -half, torch.full((4, 4), -1.0)])[None], target)
    torch.testing.assert_close(iou, torch.tensor([[0.5, 4 / 16, 0.0]]))
    assert mask_iou(torch.full((1, 1, 4, 4), -1.0), torch.zeros(1, 4, 4)).item() == 0


def test_ambiguous_prompts_train_mostly_the_best_mask() -> None:
    target = torch.zeros(1, 8, 8)
    target[0, :4] = 1
    logits = torch.randn(1, 4, 8, 8)
    logits[0, 2] = (target[0] - 0.5) * 4
    logits.requires_grad_()
    prompt_loss(logits, torch.zeros(1, 4), WeightedTargets(target), torch.tensor([True]), torch.ones(1))[0].backward()
    assert logits.grad is not None
    strength = logits.grad.abs().sum((2, 3))[0]
    best_alone = torch.autograd.grad(WeightedTargets(target).losses(logits)[0, 2], logits)[0].abs().sum()
    assert strength[2] > best_alone * 0.99
    others_alone = torch.autograd.grad(WeightedTargets(target).losses(logits)[0, [1, 3]].sum(), logits)[0].abs().sum()
    assert strength[[1, 3]].sum() < 0.1 * others_alone


def test_background_clicks_train_only_the_iou_prediction() -> None:
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    iou = torch.full((1, 4), 0.7, requires_grad=True)
    arguments = WeightedTargets(torch.zeros(1, 8, 8)), torch.tensor([True]), torch.zeros(1)
    prompt_loss(logits, iou, *arguments)[0].backward()
    assert logits.grad is not None
    assert iou.grad is not None
    assert not logits.grad.any()
    assert (iou.grad > 0).all()
    stronger = torch.autograd.grad(prompt_loss(logits, iou, *arguments, iou_weight=3)[0], iou)[0]
    torch.testing.assert_close(stronger, 3 * iou.grad)


def test_background_clicks_train_nothing_if_objects_may_be_unlabelled() -> None:
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(2, 8, 8)
    targets[0, :4] = 1
    iou = torch.full((2, 4), 0.7, requires_grad=True)
    arguments = WeightedTargets(targets), torch.tensor([True, True]), torch.tensor([1.0, 0.0])
    loss, _ = prompt_loss(logits, iou, *arguments, score_background=False)
    object_loss, _ = prompt_loss(logits[:1], iou[:1], WeightedTargets(targets[:1]), torch.tensor([True]), torch.ones(1))
    torch.testing.assert_close(loss, object_loss)
    (gradient,) = torch.autograd.grad(loss, iou)
    assert gradient[0].all() and not gradient[1].any()


@pytest.mark.parametrize("background", [0.0, 0.5])
def test_image_without_an_object_trains_only_with_background_clicks(background: float, tmp_path: Path) -> None:
    """A random crop may contain none of the labelled objects, and still show others."""
    image = LabelledImage(np.full((64, 64, 3), 200, np.uint8), np.zeros((1, 64, 64), np.int16))
    config = replace(SHORT, phases=(Phase(64, 1, 1),), pool=1, auxiliary=0, final_auxiliary=0, background=background)
    trainer = Trainer(config, [image], tmp_path, workers=0)  # type: ignore[arg-type]
    trainer.run(sample_every=0)
    gradients = [value.grad for value in trainer.model.mask_decoder.parameters() if value.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients) == (background > 0)


@pytest.mark.parametrize("rate", [0.0, 1e-6, 1e-4])
def test_learning_rate_never_exceeds_the_given_one(rate: float) -> None:
    config = replace(SHORT, learning_rate=rate, warmup_steps=0)
    rates = [config.learning_rate_at(step, step / 10) for step in range(11)]
    assert rates[0] == rate and rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(min(rate, config.final_learning_rate))


@ONCE
def test_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = Trainer(SHORT, scenes(), tmp_path / "straight", workers=0).run()

    class Stopped(Exception):
        pass

    broken = Trainer(SHORT, scenes(), tmp_path / "broken", workers=0)
    step = broken._train_step

    def stop_at_third(sample_every: int) -> torch.Tensor:
        if broken.step == 3:
            raise Stopped
        return step(sample_every)

    monkeypatch.setattr(broken, "_train_step", stop_at_third)
    with pytest.raises(Stopped):
        broken.run(save_every=1)
    resumed = Trainer(SHORT, scenes(), tmp_path / "broken", workers=0)
    assert resumed.step == 3
    weights = resumed.run().state_dict()
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_resumed_curves_continue_after_the_last_step(tmp_path: Path) -> None:
    """Rows after the last step are removed, also where steps have seven digits."""
    values = dict.fromkeys(COLUMNS, 0.5)
    curves = Curves(tmp_path, 0)
    for step in (999_980, 1_000_020, 1_000_040):
        curves.add(**values | {"step": step})
    Curves(tmp_path, 1_000_020).add(**values | {"step": 1_000_030})
    with open(tmp_path / "curves.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["999980", "1000020", "1000030"]


@pytest.mark.parametrize("damage", ["9", "9,64,0.1\n", "\0\0\0\0\n", "\n", "x" + 8 * ",1" + "\n"])
def test_incomplete_lines_of_the_curves_are_dropped(damage: str, tmp_path: Path) -> None:
    """A killed run or a lost power supply may leave part of a line, or zero bytes."""
    values = dict.fromkeys(COLUMNS, 0.5)
    Curves(tmp_path, 0).add(**values | {"step": 20})
    with open(tmp_path / "curves.csv", "a") as file:
        file.write(damage)
    Curves(tmp_path, 20).add(**values | {"step": 40})
    with open(tmp_path / "curves.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["20", "40"]


@ONCE
def test_run_killed_while_saving_still_ends_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SHORT, phases=(Phase(64, 1, 2),))

    def fail(*arguments: object) -> None:
        raise OSError

    trainer = Trainer(config, scenes(64), tmp_path, workers=0)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(loop, "save_weights", fail)
        trainer.run()
    again = Trainer(config, scenes(64), tmp_path, workers=0)
    again.run()
    first = again.weights.read_bytes()
    again.weights.unlink()
    finished = Trainer(config, scenes(64), tmp_path, workers=0)
    assert finished.step == 1
    finished.run()
    assert finished.weights.read_bytes() == first


def test_checkpoint_to_start_from_is_not_overwritten(tmp_path: Path) -> None:
    checkpoint = tmp_path / "sam_nano.safetensors"
    loop.save_weights(load_model("sam_nano.pt"), checkpoint)
    content = checkpoint.read_bytes()
    config = replace(SHORT, model=str(checkpoint))
    with pytest.raises(ValueError, match=r"would overwrite .*sam_nano\.safetensors, which it starts from"):
        Trainer(config, scenes(), tmp_path)
    Trainer(config, scenes(), tmp_path / "run")
    assert checkpoint.read_bytes() == content


@ONCE
def test_non_finite_weights_do_not_overwrite_saved_ones(tmp_path: Path) -> None:
    trainer = Trainer(SHORT, scenes(), tmp_path, workers=0)
    trainer.step = 1
    trainer._save()
    before = trainer.weights.read_bytes(), (tmp_path / "state.pt").read_bytes()
    next(iter(trainer.model.parameters())).data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite at step 4; lower the learning rate"):
        trainer.run()
    assert before == (trainer.weights.read_bytes(), (tmp_path / "state.pt").read_bytes())


@ONCE
def test_training_reduces_loss_and_raises_iou(tmp_path: Path) -> None:
    """Train on a few images again and again. The loss must fall and the IoU rise."""
    config = TrainConfig(
        phases=(Phase(64, 60, 8),),
        prompts=6,
        pool=2,
        reuse=1000,
        final_learning_rate=1e-3,
        warmup_steps=10,
        evenness_share=50,
        min_area=0.04,
    )
    Trainer(config, scenes(64, seed=0), tmp_path, workers=0).run(log_every=10, sample_every=20)
    with open(tmp_path / "curves.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50, 60]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.1
    assert max(float(row["iou_last"]) for row in rows) > float(rows[0]["iou_last"]) + 0.08
    sheets = sorted((tmp_path / "samples").glob("*.jpg"))
    assert [sheet.name for sheet in sheets] == ["step-000000.jpg", "step-000020.jpg", "step-000040.jpg"]
    assert cv2.imread(str(sheets[-1])).shape == (2 * 64, 4 * 64, 3)


def test_train_decoder_leaves_the_image_encoder_unchanged(tmp_path: Path) -> None:
    config = TrainConfig(model="sam_nano.pt", train="decoder", phases=(Phase(64, 2, 2),), prompts=3, pool=4)
    trainer = Trainer(config, scenes(64), tmp_path, workers=0)
    before = load_model("sam_nano.pt").state_dict()
    after = trainer.run().state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith("image_encoder.") for name in changed)
    assert any(name.startswith("mask_decoder.") for name in changed)
    # A fine-tuned model keeps its training precision and can be loaded.
    assert {t.dtype for t in load_file(trainer.weights).values()} == {torch.float32, torch.int64}
    assert load_model(trainer.weights).name == "sam_nano"


def test_run_stops_after_its_minutes_with_all_phases_visited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 0.1)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    config = TrainConfig(phases=(Phase(64, 1_000_000, 1), Phase(96, 1_000_000, 1)), prompts=3, pool=4, minutes=0.05)
    trainer = Trainer(config, scenes(), tmp_path, workers=0)
    trainer.run(log_every=1)
    assert 0 < trainer.step < 1000
    with open(tmp_path / "curves.csv") as file:
        sizes = [int(row["size"]) for row in csv.DictReader(file)]
    assert sizes == sorted(sizes) and set(sizes) == {64, 96}
    assert trainer.weights.exists()


@ONCE
def test_bfloat16_loss_is_close_to_float32(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = TrainConfig(phases=(Phase(64, 3, 8),), prompts=3, pool=8, precision=precision)
        Trainer(config, scenes(64), tmp_path / precision, workers=0).run(log_every=3)
        with open(tmp_path / precision / "curves.csv") as file:
            losses[precision] = float(next(csv.DictReader(file))["loss"])
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_fit_windows_shrinks_windows_and_keeps_bias_indices() -> None:
    model = registry.build("sam_nano")
    assert isinstance(model.image_encoder, TinyViT)
    layers = [module for module in model.image_encoder.modules() if isinstance(module, Attention)]
    before = [(layer.window_size, layer.bias_index) for layer in layers]
    shrink_windows(model.image_encoder, 128)
    assert {layer.window_size for layer in layers} == {8}
    for layer, (window, index) in zip(layers, before, strict=True):
        # Each offset between two positions has the same bias index as in the whole window.
        whole = index.view(window, window, window, window)[:8, :8, :8, :8]
        assert torch.equal(layer.bias_index.view(8, 8, 8, 8), whole)
    shrink_windows(model.image_encoder, 512)
    for layer, (window, index) in zip(layers, before, strict=True):
        assert layer.window_size == window and torch.equal(layer.bias_index, index)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train", "encoder"),
        ("precision", "float16"),
        ("phases", ()),
        ("prompts", 2),
        ("reuse", 0.5),
        ("rounds", ()),
        ("rounds", (0.0, 0.0)),
        ("rounds", (1.0, -0.5)),
        ("rounds", (float("inf"),)),
        ("plane_shares", (1.0, float("inf"))),
        ("plane_shares", (1.0, 1.0, 1.0, 1.0)),
        ("seed", 1 << 63),
        ("seed", -1),
        ("iou_weight", -1.0),
        ("background", float("nan")),
    ],
)
def test_bad_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name if name != "phases" else "phase"):
        TrainConfig(**{name: value})  # type: ignore[arg-type]


def test_evaluate_scores_an_untrained_model_low() -> None:
    torch.manual_seed(0)
    model = registry.build("sam_nano").eval()
    model.set_image_size(128)
    scores = evaluate(model, scenes=2, seed=1, textures=4)
    assert scores.objects > 0
    assert 0 <= scores.point <= scores.oracle < 0.5
    assert 0 <= scores.box < 0.6
