"""Models with the generated weights of tests/golden_recipe.py, so that no checkpoint has to be downloaded."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch

from fastsam_core._files import atomic_path
from fastsam_core.models import registry
from fastsam_core.models.sam_model import SamModel

# Exported graphs and recipe checkpoints, hundreds of MB in all. It is safe to delete.
CACHE = Path(__file__).parent / ".cache"


@lru_cache
def import_from_tests(name: str) -> ModuleType:
    """Import tests/NAME.py by its path, since tests/ is not a package."""
    path = Path(__file__).parent.parent / "tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden_recipe() -> ModuleType:
    """Return tests/golden_recipe.py, which fills any state dict with weights that are equal on all machines."""
    return import_from_tests("golden_recipe")


def checkpoint(name: str) -> Path:
    """Return the path of a checkpoint with recipe weights, named like the official one. It is created once."""
    path = CACHE / f"{name}.pt"
    if not path.exists():
        state = golden_recipe().fill_state_dict(registry.build(name).state_dict())
        with atomic_path(path) as partial:
            torch.save(state, partial)
    return path


@lru_cache
def recipe_model(name: str) -> SamModel:
    """Return the registered model `name` with recipe weights, in evaluation mode. It is cached for later benchmarks."""
    model = registry.build(name)
    model.load_state_dict(torch.load(checkpoint(name), weights_only=True, mmap=True))
    return model.eval()
