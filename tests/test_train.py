"""The trainer: losses, prompts, and runs that resume to the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastsam_core.models import registry
from fastsam_core.train.__main__ import main as train_main
from fastsam_core.train.evaluate import evaluate
from fastsam_core.train.loop import Phase, TrainConfig, Trainer
from fastsam_core.train.losses import mask_iou, mask_loss, prompt_loss
from fastsam_core.train.samples import MAX_POINTS, SceneDataset, box_of, inner, sample_prompts
from fastsam_core.train.scenes import Scene


def square_scene(size: int = 64) -> Scene:
    """One square object with a smaller square part."""
    labels, parts = np.zeros((size, size), np.int32), np.zeros((size, size), np.int32)
    labels[8:40, 16:48] = 1
    parts[12:24, 20:32] = 1
    groups = np.zeros((size, size), np.int32)
    return Scene(np.zeros((size, size, 3), np.uint8), labels, parts, np.array([0, 1], np.int32), groups)


def test_mask_loss_prefers_the_right_mask() -> None:
    target = torch.zeros(1, 16, 16)
    target[0, 4:8, 4:8] = 1
    right = (target - 0.5) * 20
    candidates = torch.stack([right[0], -right[0], torch.full((16, 16), -10.0), torch.full((16, 16), 10.0)])[None]
    losses = mask_loss(candidates, target)[0]
    assert losses.argmin() == 0
    assert losses[0] < 0.01
    # A small object weighs as much as its background: neither all nor nothing is a way out.
    assert losses[2] > 2
    assert losses[3] > 2


def test_mask_iou() -> None:
    target = torch.zeros(1, 4, 4)
    target[0, :2] = 1
    half = torch.full((4, 4), -1.0)
    half[0] = 1
    iou = mask_iou(torch.stack([half, -half, torch.full((4, 4), -1.0)])[None], target)
    torch.testing.assert_close(iou, torch.tensor([[0.5, 4 / 16, 0.0]]))
    assert mask_iou(torch.full((1, 1, 4, 4), -1.0), torch.zeros(1, 4, 4)).item() == 0


def test_ambiguous_prompts_teach_the_best_mask_most() -> None:
    target = torch.zeros(1, 8, 8)
    target[0, :4] = 1
    logits = torch.randn(1, 4, 8, 8)
    logits[0, 2] = (target[0] - 0.5) * 4
    logits.requires_grad_()
    prompt_loss(logits, torch.zeros(1, 4), target, torch.tensor([True]), torch.tensor([True])).backward()
    assert logits.grad is not None
    strength = logits.grad.abs().sum((2, 3))[0]
    best_alone = torch.autograd.grad(mask_loss(logits, target)[0, 2], logits)[0].abs().sum()
    assert strength[2] > best_alone * 0.99
    others_alone = torch.autograd.grad(mask_loss(logits, target)[0, [1, 3]].sum(), logits)[0].abs().sum()
    assert strength[[1, 3]].sum() < 0.1 * others_alone


def test_background_clicks_teach_the_iou_alone() -> None:
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    iou = torch.full((1, 4), 0.7, requires_grad=True)
    prompt_loss(logits, iou, torch.zeros(1, 8, 8), torch.tensor([True]), torch.tensor([False])).backward()
    assert logits.grad is not None
    assert iou.grad is not None
    assert not logits.grad.any()
    assert (iou.grad > 0).all()


def test_prompts_ask_for_their_targets() -> None:
    scene = square_scene()
    sample = sample_prompts(np.random.default_rng(0), scene, 200)
    whole = torch.from_numpy((scene.labels == 1).reshape(16, 4, 16, 4).mean((1, 3)).astype(np.float32))
    part = torch.from_numpy((scene.parts == 1).reshape(16, 4, 16, 4).mean((1, 3)).astype(np.float32))
    kinds = set()
    for i in range(200):
        clicks = [
            (x, y, k)
            for (x, y), k in zip(sample.points[i].long().tolist(), sample.labels[i].tolist(), strict=True)
            if k >= 0
        ]
        if not sample.is_object[i]:
            (x, y, _), kind = clicks[0], "background"
            assert scene.labels[y, x] == 0
            assert not sample.targets[i].any()
        else:
            is_part = torch.equal(sample.targets[i], part)
            assert is_part or torch.equal(sample.targets[i], whole)
            mask = (scene.parts if is_part else scene.labels) == 1
            assert all(mask[y, x] == bool(k) for x, y, k in clicks)
            kind = "box" if sample.has_box[i] else ("part" if is_part else f"{len(clicks)} clicks")
        if sample.has_box[i]:
            assert (sample.boxes[i] - torch.tensor(box_of(mask))).abs().max() <= 3.2
        assert len(clicks) + bool(sample.has_box[i]) >= 1
        kinds.add(kind)
    assert kinds >= {"background", "box", "part", "1 clicks", f"{MAX_POINTS} clicks"}


def test_inner_and_box() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:14, 3:28] = True
    assert box_of(mask) == (3, 5, 27, 13)
    innermost = np.argwhere(inner(mask, 1.0))
    assert set(innermost[:, 0]) == {9}
    full = np.ones((8, 8), bool)
    assert inner(full)[4, 4]
    assert not inner(full)[0, 0]


def test_dataset_depends_on_seed_and_index_alone() -> None:
    whole = SceneDataset(64, 3, seed=5, length=4, textures=4)
    tail = SceneDataset(64, 3, seed=5, length=4, start=2, textures=4)
    assert (len(whole), len(tail)) == (4, 2)
    torch.testing.assert_close(whole[3].image, tail[1].image, rtol=0, atol=0)
    torch.testing.assert_close(whole[3].targets, tail[1].targets, rtol=0, atol=0)
    assert not torch.equal(whole[2].image, whole[3].image)
    with pytest.raises(IndexError):
        tail[2]


def test_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam_core.train.loop.SceneDataset", few_textures)
    config = TrainConfig(phases=(Phase(64, 2, 8), Phase(96, 2, 2)), prompts=2, seed=3)
    straight = Trainer(config, tmp_path / "straight", workers=0).run()

    class Stopped(Exception):
        pass

    broken = Trainer(config, tmp_path / "broken", workers=0)
    step = broken._train_step

    def stop_at_third(samples: list) -> float:  # type: ignore[type-arg]
        if broken.step == 3:
            raise Stopped
        return step(samples)

    monkeypatch.setattr(broken, "_train_step", stop_at_third)
    with pytest.raises(Stopped):
        broken.run(save_every=1)
    resumed = Trainer(config, tmp_path / "broken", workers=0)
    assert resumed.step == 3
    weights = resumed.run().state_dict()
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_command_writes_half_precision_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam_core.train.loop.SceneDataset", few_textures)
    arguments = ["--output", str(tmp_path), "--phases", "64:1:2", "--prompts", "2", "--workers", "0", "--device", "cpu"]
    assert train_main(arguments) == 0
    state = load_file(tmp_path / "sam_nano.safetensors")
    assert set(state) == set(registry.build("sam_nano").state_dict())
    assert {t.dtype for t in state.values()} == {torch.float16, torch.int64}
    with pytest.raises(ValueError, match="a run of 'sam_nano', not of 'mobile_sam'"):
        Trainer(TrainConfig(model="mobile_sam"), tmp_path)


@pytest.mark.parametrize("phase", ["64", "64:1", "a:1:1", "20:1:1", "64:0:1"])
def test_bad_phases_are_refused(phase: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_main(["--phases", phase])
    assert "SIZE" in capsys.readouterr().err


def test_evaluate_scores_an_untrained_model_low() -> None:
    torch.manual_seed(0)
    model = registry.build("sam_nano").eval()
    model.set_image_size(128)
    scores = evaluate(model, scenes=2, seed=1, textures=4)
    assert scores.objects > 0
    assert 0 <= scores.point <= scores.oracle < 0.5
    assert 0 <= scores.box < 0.6


def few_textures(*args: object, **kwargs: object) -> SceneDataset:
    """The dataset with a texture pool that is quick to make."""
    return SceneDataset(*args, **{**kwargs, "textures": 4})  # type: ignore[arg-type]
