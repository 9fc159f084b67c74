"""Weights to write, read and compare, and empty folders to do it in, for the tests of checkpoints."""

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
    """Make an empty current folder and an empty FASTSAM_HOME, and return both. Downloads fail: their URLs are dead."""
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
    """Return a state dict with the model's names and shapes that takes almost no memory."""
    shapes = checkpoint._expected_shapes(registry.MODELS[name])
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def same(model: Any, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def touch(*parts: Any) -> Path:
    """Write a placeholder for a weights file; `parts` are joined to its path."""
    path = Path(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path
