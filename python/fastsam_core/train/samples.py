"""Training examples: a generated scene with prompts and the masks they ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..preprocess import PIXEL_MEAN, PIXEL_STD
from .scenes import Scene, TexturePool, make_scene

MAX_POINTS = 3  # clicks per prompt
_KINDS = ("point", "box", "points", "background")
_KIND_SHARES = (0.55, 0.25, 0.12, 0.08)
_PART_SHARE = 0.25  # of the prompts, where the scene has parts


@dataclass(frozen=True)
class Sample:
    """One scene with N prompts; coordinates in pixels of the picture.

    image: (3, S, S) normalised. targets: (N, S / 4, S / 4), the share of each cell that the object covers.
    points: (N, MAX_POINTS, 2) with labels (N, MAX_POINTS), -1 where there is none; boxes: (N, 4), valid where has_box.
    is_object: False for a click on the background, which asks for nothing: only its predicted IoU (0) is trained.
    """

    image: Tensor
    targets: Tensor
    points: Tensor
    labels: Tensor
    boxes: Tensor
    has_box: Tensor
    is_object: Tensor


class SceneDataset(Dataset[Sample]):
    """Scenes by index. The same seed and index give the same sample, whoever asks and in whatever order."""

    def __init__(self, size: int, prompts: int, *, seed: int, length: int, start: int = 0, textures: int = 200) -> None:
        self.size, self.prompts, self.seed, self.length, self.start = size, prompts, seed, length, start
        self.pool = TexturePool(seed=seed, count=textures)

    def __len__(self) -> int:
        return self.length - self.start

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.start + index))
        while True:
            scene = make_scene(rng, self.size, self.pool)
            if scene.masks():
                return sample_prompts(rng, scene, self.prompts)


def sample_prompts(rng: np.random.Generator, scene: Scene, count: int) -> Sample:
    """Draw `count` prompts for the objects and parts of `scene` that cover at least 1 % of it."""
    size = scene.labels.shape[0]
    objects, parts = _split_masks(scene)
    background = scene.labels == 0
    targets = np.zeros((count, size // 4, size // 4), np.float32)
    points = np.zeros((count, MAX_POINTS, 2), np.float32)
    labels = np.full((count, MAX_POINTS), -1, np.int64)
    boxes = np.zeros((count, 4), np.float32)
    has_box = np.zeros(count, bool)
    is_object = np.ones(count, bool)
    for i in range(count):
        kind = rng.choice(_KINDS, p=_KIND_SHARES)
        if kind == "background" and background.any():
            is_object[i] = False
            points[i, 0], labels[i, 0] = _click(rng, background), 1
            continue
        group = parts if parts and (not objects or rng.random() < _PART_SHARE) else objects
        mask = group[rng.integers(len(group))]
        targets[i] = mask.reshape(size // 4, 4, size // 4, 4).mean((1, 3), dtype=np.float32)
        if kind == "box":
            boxes[i], has_box[i] = _box(rng, mask), True
            if rng.random() < 0.2:
                points[i, 0], labels[i, 0] = _click(rng, mask), 1
            continue
        points[i, 0], labels[i, 0] = _click(rng, mask), 1
        if kind == "points":
            for j in range(1, rng.integers(2, MAX_POINTS + 1)):
                inside = bool(rng.random() < 0.5) or bool(mask.all())
                points[i, j], labels[i, j] = _click(rng, mask if inside else ~mask), int(inside)
    mean, std = (np.array(values, np.float32) for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = (scene.image.astype(np.float32) - mean) / std
    return Sample(
        image=torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        targets=torch.from_numpy(targets),
        points=torch.from_numpy(points),
        labels=torch.from_numpy(labels),
        boxes=torch.from_numpy(boxes),
        has_box=torch.from_numpy(has_box),
        is_object=torch.from_numpy(is_object),
    )


def collate(samples: list[Sample]) -> list[Sample]:
    """Batches stay lists: the trainer stacks the pictures and walks the prompts."""
    return samples


def _split_masks(scene: Scene) -> tuple[list[np.ndarray], list[np.ndarray]]:
    minimum = 0.01 * scene.labels.size
    found = []
    for plane in (scene.labels, scene.parts):
        areas = np.bincount(plane.ravel())
        found.append([plane == k for k in range(1, len(areas)) if areas[k] >= minimum])
    return found[0], found[1]


def _click(rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int]:
    """A pixel of `mask` as (x, y). Half of the clicks avoid its border, as people do."""
    chosen = mask
    if rng.random() < 0.5:
        chosen = inner(mask)
    y, x = divmod(int(rng.choice(np.flatnonzero(chosen))), mask.shape[1])
    return x, y


def inner(mask: np.ndarray, share: float = 0.5) -> np.ndarray:
    """The pixels of a non-empty mask whose distance to its border is at least `share` of the largest one."""
    import cv2

    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return distance >= share * distance.max()


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of a non-empty mask; x2 and y2 are its last column and row."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """The mask's box with each side moved by up to about a tenth of the box's size, as drawn by hand."""
    x1, y1, x2, y2 = box_of(mask)
    spread = 0.05 * np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    moved = np.array([x1, y1, x2, y2]) + (rng.standard_normal(4) * spread).clip(-2 * spread, 2 * spread)
    return moved.clip(0, mask.shape[0] - 1).astype(np.float32)
