"""The command line of training and of its evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastsam_core.models import registry
from fastsam_core.models.checkpoint import load_model
from fastsam_core.train import __main__ as command
from fastsam_core.train import evaluate as evaluation
from fastsam_core.train.config import Phase, TrainConfig
from fastsam_core.train.loop import Trainer
from training_scenes import scenes


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", {}, {"head": {}}, {"optimizer": {}}])
def test_damaged_state_file_is_refused_by_name(
    content: bytes | dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state is damaged, another file, or from a version with other parts."""
    path = tmp_path / "state.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif not content:
        torch.save(content, path)
    else:
        Trainer(TrainConfig(phases=(Phase(64, 1, 1),)), scenes(), tmp_path, workers=0)._save()
        torch.save(torch.load(path, weights_only=True) | content, path)
    with pytest.raises(SystemExit, match="2"):
        command.main(["--phases", "64:1:1", "--output", str(tmp_path)])
    said = r"state\.pt is not the state of a run, damaged, or of another version; remove"
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize("function", ["__init__", "run"])
@pytest.mark.parametrize("error", [FloatingPointError("lower it"), MemoryError("lower it"), KeyboardInterrupt()])
def test_command_exits_without_a_traceback(
    error: BaseException,
    function: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Trainer, function, fail)
    status = 130 if isinstance(error, KeyboardInterrupt) else 1
    with pytest.raises((SystemExit, type(error))) as raised:
        command.main(["--phases", "64:1:1", "--output", str(tmp_path)])
    assert isinstance(raised.value, SystemExit) and raised.value.code == status
    assert re.search("error: lower it|interrupted; .* to resume", capsys.readouterr().err)


def test_command_writes_half_precision_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SceneDataset", lambda size, *, seed: scenes(size, seed))
    arguments = ["--output", str(tmp_path), "--phases", "64:1:2", "--prompts", "3", "--workers", "0"]
    arguments += ["--device", "cpu", "--pool", "4"]
    assert command.main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sam_nano.safetensors")
    state = load_file(tmp_path / "sam_nano.safetensors")
    assert set(state) == set(registry.build("sam_nano").state_dict())
    assert {t.dtype for t in state.values()} == {torch.float16, torch.int64}
    with pytest.raises(ValueError, match="a run with model 'sam_nano', not 'mobile_sam'"):
        Trainer(TrainConfig(model="mobile_sam", pool=1, phases=(Phase(64, 1, 1),)), scenes(), tmp_path)


def test_command_trains_on_labelled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for number in range(3):
        example = scenes(64)[number]
        cv2.imwrite(str(tmp_path / "set" / "images" / f"{number}.png"), example.image[:48, :, ::-1])
        cv2.imwrite(str(tmp_path / "set" / "masks" / f"{number}.png"), example.planes[0, :48].astype(np.uint8))
    arguments = ["--model", "sam_nano.pt", "--data", str(tmp_path / "set"), "--train", "decoder"]
    arguments += ["--phases", "64:2:2", "--prompts", "3", "--workers", "0", "--device", "cpu"]
    assert command.main([*arguments, "--output", str(tmp_path / "run")]) == 0
    weights = tmp_path / "run" / "sam_nano.safetensors"
    assert capsys.readouterr().out.strip() == str(weights)
    before, after = load_model("sam_nano.pt").state_dict(), load_model(weights).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("image_encoder."))
    assert not all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("own", [False, True])
def test_command_options_reach_the_config(own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[TrainConfig] = []

    class Stop(Exception):
        pass

    def trainer(config: TrainConfig, *rest: object) -> None:
        seen.append(config)
        raise Stop

    monkeypatch.setattr(command, "Trainer", trainer)
    arguments = ["--output", str(tmp_path)]
    if own:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
            cv2.imwrite(str(tmp_path / folder / "a.png"), np.full((40, 40), 1, np.uint8))
        arguments += ["--data", str(tmp_path), "--model", "sam_nano.pt"]
    chosen = ["--rounds", "1", "3", "--background", "0.5", "--iou-weight", "4", "--learning-rate", "0"]
    for more in ([], chosen):
        with pytest.raises(Stop):
            command.main([*arguments, *more])
    plain, said = seen
    assert (plain.rounds, plain.iou_weight) == (TrainConfig().rounds, 1)
    assert plain.background == (0 if own else TrainConfig().background)
    assert plain.learning_rate == (1e-4 if own else TrainConfig().learning_rate)
    assert (said.rounds, said.background, said.iou_weight, said.learning_rate) == ((1, 3), 0.5, 4, 0)


@pytest.mark.parametrize("phase", ["64", "64:1", "a:1:1", "20:1:1", "64:0:1"])
def test_bad_phases_are_refused(phase: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--phases", phase])
    assert re.search("error: .*(three integers|a multiple of 16 from 32)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model nowhere.pt", r"no checkpoint 'nowhere\.pt'"),
        ("--model sam_nano.pt --data nowhere", "no such file or folder: nowhere"),
        ("--device nowhere", "device='nowhere' is not a device"),
        ("--device cuda:99", "cuda:99"),
        ("--learning-rate nan", "learning_rate is 0 or more, not nan"),
        ("--warmup-steps -1", "warmup_steps is 0 or more"),
        ("--average-decay 1", "average_decay is from 0 to below 1"),
        ("--seed -1", "seed is 0 or more, not -1"),
        ("--threads -1", "--threads is 0 or more"),
        ("--workers -1", "--workers is 0 or more"),
        ("--images photos", "--images is the folder of the images of --data, which is missing"),
        ("--data nowhere --plane-shares 1 1", "--plane-shares is for generated scenes"),
    ],
)
def test_invalid_arguments_exit_with_an_error(
    arguments: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([*arguments.split(), "--output", str(tmp_path / "run")])
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model nowhere.pt", r"no checkpoint 'nowhere\.pt'"),
        ("--scenes 0", "scenes must be 1 or more"),
        ("--seed -1", "seed 0 or more"),
        ("--device nowhere", "device='nowhere' is not a device"),
    ],
)
def test_invalid_evaluation_arguments_exit_with_an_error(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluation.main(arguments.split())
    assert re.search(said, capsys.readouterr().err)


def test_data_without_usable_images_exits_with_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"broken")
    with pytest.raises(SystemExit, match="2"):
        command.main(["--model", "sam_nano.pt", "--data", str(tmp_path), "--output", str(tmp_path / "run")])
    assert re.search("error: .*none of 1 images is usable: a.png", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
