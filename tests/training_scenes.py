"""Generated scenes for the tests of training."""

from __future__ import annotations

from fastsam_core.train.scene_data import SceneDataset


def scenes(size: int = 96, seed: int = 3) -> SceneDataset:
    """Return generated scenes with few textures, which saves time."""
    return SceneDataset(size, seed=seed, textures=4)
