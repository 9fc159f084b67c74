"""Generated scenes as a dataset of labelled images. Each scene is reproducible from its number."""

from __future__ import annotations

import cv2
import numpy as np
from torch.utils.data import Dataset, get_worker_info

from .pool import LabelledImage
from .scenes import TexturePool, make_scene

# Number of consecutive scenes that share a set of textures.
_SCENES_PER_POOL = 8192
_LENGTH = 1 << 40


class SceneDataset(Dataset[LabelledImage]):
    """Practically endless dataset of scenes. A scene depends only on the dataset's arguments and on its index.

    size: side of the scenes in pixels. textures: number of textures in a set, which many scenes share.
    """

    def __init__(self, size: int, *, seed: int, textures: int = 200) -> None:
        self.size, self.seed, self.textures = size, seed, textures
        self._pool: tuple[int, TexturePool] | None = None

    def __len__(self) -> int:
        return _LENGTH

    def __getitem__(self, index: int) -> LabelledImage:
        """Return a scene whose planes are objects, parts and groups."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if get_worker_info() is not None:
            cv2.setNumThreads(1)  # worker processes already use all cores
        scene = make_scene(
            np.random.default_rng((self.seed, index)), self.size, self._texture_pool(index // _SCENES_PER_POOL)
        )
        planes = (scene.labels, scene.parts, scene.groups)
        return LabelledImage(scene.image, np.stack(planes).astype(np.int16))

    def _texture_pool(self, pool_index: int) -> TexturePool:
        if self._pool is None or self._pool[0] != pool_index:
            self._pool = pool_index, TexturePool(seed=self.seed * 65537 + pool_index, count=self.textures)
        return self._pool[1]
