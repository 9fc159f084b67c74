"""Procedurally generated scenes with exact masks, the training data of the bundled model.

Nothing is downloaded and nothing is labelled by hand: a scene is painted back to front from random shapes and
textures, so what is visible of every object is known to the pixel. Shadows, highlights, blur, noise and compression
are in the picture but not in the masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .camera import photograph
from .layouts import LAYOUTS
from .textures import TexturePool

__all__ = ["Scene", "TexturePool", "make_scene"]

# A part that shows nearly all that is visible of its object has the object's mask, up to noise; it is dropped.
_REDUNDANT_PART = 0.92
# The same for an object and its group.
_REDUNDANT_GROUP = 0.95

# A scene whose largest object shows less than this share of the picture teaches little and is made again, a few times
# at most.
_LARGEST = 0.02
_ATTEMPTS = 8


@dataclass(frozen=True)
class Scene:
    """A picture and its ground truth.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        labels: (S, S) int32: 0 is background, k the visible pixels of object k; every k from 1 to the maximum occurs.
        parts: (S, S) int32: 0 is no part, else a part numbered across the whole scene; parts lie inside their object.
        part_owner: (P + 1,) int32: the object of each part; entry 0 is 0.
        groups: (S, S) int32: 0 is no group, else what several objects make up together, such as a rider with the horse;
            a group is the union of what is visible of at least two objects, and no object is in two groups.
    """

    image: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    part_owner: np.ndarray
    groups: np.ndarray

    def masks(self, min_area: float = 0.01) -> list[np.ndarray]:
        """Boolean (S, S) masks of the objects, then the parts, then the groups, that cover at least `min_area`."""
        least = max(min_area * self.labels.size, 1.0)
        found = []
        for names in (self.labels, self.parts, self.groups):
            areas = np.bincount(names.ravel())
            found += [names == name for name in range(1, len(areas)) if areas[name] >= least]
        return found


def _areas(names: np.ndarray, count: int) -> np.ndarray:
    """How many pixels each of the numbers below `count` has in (S, S) int32 `names`, (count,) int64."""
    # Four times as fast as numpy.bincount; 16 bits hold more numbers than a picture has objects.
    hist = cv2.calcHist([names.astype(np.uint16)], [0], None, [count], [0, count])
    return hist.ravel().astype(np.int64)


def _compact(names: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`names` with the numbers in boolean `keep` renumbered 1, 2, ... and all others 0, and the numbers kept."""
    kept = np.flatnonzero(keep)
    if len(kept) == len(keep) - 1:
        return names, kept
    table = np.zeros(len(keep), np.int32)
    table[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    return table[names], kept


def _groups(group_of: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """The final group of each of the painter's objects, int32, from the visible `areas` of the objects."""
    members = [np.flatnonzero((group_of == group) & (areas > 0)) for group in range(1, int(group_of.max()) + 1)]
    final = np.zeros(len(group_of), np.int32)
    number = 0
    for names in members:
        if len(names) > 1 and areas[names].max() < _REDUNDANT_GROUP * areas[names].sum():
            number += 1
            final[names] = number
    return final


def make_scene(
    rng: np.random.Generator,
    size: int,
    pool: TexturePool,
    *,
    objects: tuple[int, int] = (3, 25),
    layout: str | None = None,
) -> Scene:
    """Generate a scene; the same generator state, size and pool give the same scene.

    Args:
        rng: source of all randomness.
        size: side of the square picture in pixels, at least 32.
        pool: textures for every surface.
        objects: least and most things to place. Some may end up hidden, a few layouts add one or two, and a thing may
            be made of several objects (a group).
        layout: one of `fastsam_core.train.layouts.LAYOUTS`; None draws one by its weight.

    Raises:
        ValueError: for a size below 32, an empty range of objects or an unknown layout.
    """
    if not isinstance(size, int | np.integer) or size < 32:
        raise ValueError(f"a scene's size is a whole number of pixels from 32 up, got {size!r}")
    size = int(size)
    fewest, most = objects
    if not 1 <= fewest <= most:
        raise ValueError(f"objects is (least, most) with 1 <= least <= most, got {objects!r}")
    if layout is None:
        weights = np.array([weight for _, weight in LAYOUTS.values()])
        layout = list(LAYOUTS)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    elif layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")
    count = round(float(np.exp(rng.uniform(np.log(fewest), np.log(most)))))
    for _ in range(_ATTEMPTS):
        painter = LAYOUTS[layout][0](rng, pool, size, count)
        areas = _areas(painter.labels, painter.objects + 1)
        areas[0] = 0
        if areas.max() >= _LARGEST * size * size:
            break
        count = max(count * 2 // 3, fewest)  # fewer objects are larger ones
    labels, kept = _compact(painter.labels, areas > 0)
    owner = np.array(painter.owners, np.int64)
    shown = _areas(painter.parts, len(owner))
    shown[0] = 0
    parts, kept_parts = _compact(painter.parts, (shown > 0) & (shown < _REDUNDANT_PART * areas[owner]))
    renumbered = np.zeros(painter.objects + 1, np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    part_owner = np.concatenate([[0], renumbered[owner[kept_parts]]]).astype(np.int32)
    groups = _groups(np.array(painter.group_of), areas)[painter.labels]
    return Scene(photograph(rng, painter.image, pool), labels, parts, part_owner, groups)
