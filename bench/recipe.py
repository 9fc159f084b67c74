"""Models on the weights of the golden recipe: official checkpoints can't be had everywhere, nor are they needed."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch

from fastsam_core._files import atomic_path
from fastsam_core.models import registry
from fastsam_core.models.sam_model import SamModel

# Exported graphs and recipe checkpoints, hundreds of MB in all; `rm -r` it at will.
CACHE = Path(__file__).parent / ".cache"


@lru_cache
def from_tests(name: str) -> ModuleType:
    """tests/NAME.py, which is no part of a package."""
    path = Path(__file__).parent.parent / "tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden_recipe() -> ModuleType:
    """Weights for any state dict, the same everywhere."""
    return from_tests("golden_recipe")


def checkpoint(name: str) -> Path:
    """A state dict of recipe weights under the model's own file name, made once."""
    path = CACHE / f"{name}.pt"
    if not path.exists():
        state = golden_recipe().fill_state_dict(registry.build(name).state_dict())
        with atomic_path(path) as partial:
            torch.save(state, partial)
    return path


@lru_cache
def recipe_model(name: str) -> SamModel:
    """The registry row `name` on recipe weights, in evaluation mode, kept for the benchmarks that follow."""
    model = registry.build(name)
    model.load_state_dict(torch.load(checkpoint(name), weights_only=True, mmap=True))
    return model.eval()
