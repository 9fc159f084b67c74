"""Calibration: fitting the head that predicts IoU, while all other weights stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastsam_core.models import registry, sam_model
from fastsam_core.models.checkpoint import load_model
from fastsam_core.models.sam_model import SamModel
from fastsam_core.train import calibrate, evaluate
from fastsam_core.train.scene_data import SceneDataset
from training_scenes import scenes

HEAD = "mask_decoder.iou_prediction_head."


def small() -> SamModel:
    torch.manual_seed(0)
    model = registry.build("sam_nano").eval()
    model.set_image_size(64)
    return model


def test_fit_head_changes_only_the_iou_head() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = calibrate.collect_iou_samples(model, scenes(64, seed=9), 21, 6, seed=1, workers=0)
    assert samples.tokens.shape[1:] == (128,) and samples.ious.shape == (len(samples.tokens), 4)
    assert len(samples.tokens) >= 21 * 6 and samples.ious.min() >= 0 and samples.ious.max() <= 1
    first, last = calibrate.fit_head(model, samples, seed=1)
    assert last < 0.8 * first
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(HEAD) for name in changed)


@pytest.mark.parametrize("native", [True, False])
def test_decoded_tokens_reproduce_the_predicted_iou(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    embedding, points, labels = torch.randn(1, 128, 4, 4), 64 * torch.rand(5, 1, 2), torch.ones(5, 1)
    with torch.no_grad():
        expected_logits, expected_iou = model.decode_prompts(embedding, points, labels, multimask_output=True)
        if not native:
            monkeypatch.setattr(sam_model, "can_use_native", lambda *tensors: False)
        tokens, logits = calibrate._decode(model.prepare(embedding), model.prompt_encoder.sparse(points, labels, None))
        iou = model.mask_scoring.predicted_iou(model.mask_decoder.iou_prediction_head(tokens), logits)[:, 1:]
    torch.testing.assert_close(iou, expected_iou, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits[:, 1:], expected_logits, rtol=1e-3, atol=1e-4)


def test_too_few_images_are_refused() -> None:
    model = small()
    samples = calibrate.collect_iou_samples(model, scenes(64, seed=9), 1, 3, seed=1, workers=0)
    with pytest.raises(ValueError, match="too few to hold some out"):
        calibrate.fit_head(model, samples, seed=1)


def test_command_writes_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "SceneDataset", lambda size, *, seed: SceneDataset(size, seed=seed, textures=2))
    before = load_model("sam_nano.pt").state_dict()
    before[HEAD + "layers.2.bias"] += 0.5  # so far off that few images improve it
    source, target = tmp_path / "off.safetensors", tmp_path / "sam_nano.safetensors"
    save_file(before, source)
    arguments = ["--model", str(source), "--output", str(target), "--device", "cpu"]
    assert calibrate.main([*arguments, "--images", "8", "--prompts", "3", "--workers", "0"]) == 0
    assert "mean squared error" in capsys.readouterr().out
    after = load_model(target).state_dict()
    assert {t.dtype for t in load_file(target).values()} == {torch.float16, torch.int64}
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed and all(name.startswith(HEAD) for name in changed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model nowhere.pt --output x.safetensors", "no checkpoint 'nowhere.pt'"),
        ("--output .", ". is a folder"),
        ("--output x.safetensors --images 0", "--images is 1 or more, not 0"),
        ("--output x.safetensors --prompts 0", "--prompts is 1 or more, not 0"),
        ("--output x.safetensors --seed -1", "--seed is 0 or more, not -1"),
        (f"--output x.safetensors --seed {1 << 63}", "--seed is below 2**63, not 9223372036854775808"),
        ("--output x.safetensors --workers -1", "--workers is 0 or more, not -1"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    arguments: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        calibrate.main(["--workers", "0", "--device", "cpu", "--images", "1", *arguments.split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: " in line and said in line


@pytest.mark.parametrize(("command", "arguments"), [(calibrate, ["--output", "x.safetensors"]), (evaluate, [])])
def test_interrupted_commands_exit_with_130(
    command: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load_model", interrupt)
    with pytest.raises(SystemExit, match="130"):
        command.main(arguments)
    assert capsys.readouterr().err == "interrupted\n"
