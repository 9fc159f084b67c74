"""Weights to be written, read and compared, and empty folders to do it in: for the tests of checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsam_core.models import checkpoint, registry

State = dict[str, Tensor]
NANO = "sam_nano"


def empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(current folder, FASTSAM_HOME), both empty; and no way out to the network."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("FASTSAM_HOME", str(home))
    for name, spec in registry.MODELS.items():
        gone = tuple(f"http://127.0.0.1:9/{url.rsplit('/', 1)[-1]}" for url in spec.urls)
        monkeypatch.setitem(registry.MODELS, name, replace(spec, urls=gone))
    return here, home


def nano_state() -> State:
    torch.manual_seed(3)
    return registry.build(NANO).state_dict()


def hollow(name: str) -> State:
    """A state dict of the right names and shapes that takes no memory."""
    return {key: torch.zeros(()).expand(shape) for key, shape in checkpoint._expected(name).items()}


def same(model: Any, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def touch(*parts: Any) -> Path:
    """A file that stands for weights."""
    path = Path(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path
