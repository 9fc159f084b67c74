"""Procedurally generated scenes with exact masks, the training data of the bundled model.

Nothing is downloaded and nothing is labelled by hand: a scene is painted back to front from random shapes and
textures, so the visible pixels of every object are known exactly. Shadows, highlights, blur, noise and compression
affect the image but not the masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .camera import apply_camera_effects
from .layouts import LAYOUTS
from .textures import TexturePool

__all__ = ["Scene", "TexturePool", "make_scene"]

# A part with at least this fraction of its object's visible pixels is dropped: its mask is nearly the object's.
_REDUNDANT_PART = 0.92
# A group is dropped if one of its objects has at least this fraction of the group's visible pixels.
_REDUNDANT_GROUP = 0.95

# Smallest fraction of the image that the largest object must show. Scenes below it teach little and are generated
# again, with up to `_MAX_ATTEMPTS` attempts in all.
_MIN_LARGEST_OBJECT = 0.02
_MAX_ATTEMPTS = 8


@dataclass(frozen=True)
class Scene:
    """An image and its ground truth.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        labels: (S, S) int32: number of the object visible at each pixel, 0 for background. Every number from 1 to the
            maximum occurs.
        parts: (S, S) int32: number of the part, counted across the whole scene, 0 for none. Parts lie inside their
            object.
        part_owner: (P + 1,) int32: the object of each part; entry 0 is 0.
        groups: (S, S) int32: number of the group, 0 for none. A group is several objects that belong together, such as
            a horse and its rider: the union of the visible pixels of at least two objects. No object is in two groups.
    """

    image: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    part_owner: np.ndarray
    groups: np.ndarray

    def masks(self, min_area: float = 0.01) -> list[np.ndarray]:
        """Return bool (S, S) masks of the objects, then the parts, then the groups.

        min_area: masks that cover a smaller fraction of the image are left out.
        """
        min_pixels = max(min_area * self.labels.size, 1.0)
        masks = []
        for label_map in (self.labels, self.parts, self.groups):
            areas = np.bincount(label_map.ravel())
            masks += [label_map == label for label in range(1, len(areas)) if areas[label] >= min_pixels]
        return masks


def _areas(label_map: np.ndarray, count: int) -> np.ndarray:
    """Return the number of pixels of each value below `count` in `label_map` (S, S) int32, (count,) int64."""
    # Four times as fast as numpy.bincount. 16 bits are enough for the objects of an image.
    hist = cv2.calcHist([label_map.astype(np.uint16)], [0], None, [count], [0, count])
    return hist.ravel().astype(np.int64)


def _renumber(label_map: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumber the values selected by bool `keep` to 1, 2, ... in `label_map`, and all others to 0.

    Returns the new array (`label_map` itself if all are kept) and the old numbers of the values kept.
    """
    kept_labels = np.flatnonzero(keep)
    if len(kept_labels) == len(keep) - 1:
        return label_map, kept_labels
    lookup = np.zeros(len(keep), np.int32)
    lookup[kept_labels] = np.arange(1, len(kept_labels) + 1, dtype=np.int32)
    return lookup[label_map], kept_labels


def _final_groups(group_of: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Return the final group of each of the painter's objects, int32, or 0.

    group_of: the painter's group of each object. areas: visible pixels of each object. Groups keep only visible
    objects; groups with fewer than two of these, or dominated by one (`_REDUNDANT_GROUP`), are dropped.
    """
    members = [np.flatnonzero((group_of == group) & (areas > 0)) for group in range(1, int(group_of.max()) + 1)]
    final_groups = np.zeros(len(group_of), np.int32)
    num_groups = 0
    for member_indices in members:
        if len(member_indices) > 1 and areas[member_indices].max() < _REDUNDANT_GROUP * areas[member_indices].sum():
            num_groups += 1
            final_groups[member_indices] = num_groups
    return final_groups


def make_scene(
    rng: np.random.Generator,
    size: int,
    pool: TexturePool,
    *,
    objects: tuple[int, int] = (3, 25),
    layout: str | None = None,
) -> Scene:
    """Generate a scene. The same generator state and arguments give the same scene.

    Args:
        rng: source of all randomness.
        size: side of the square image in pixels, at least 32.
        pool: textures for every surface.
        objects: minimum and maximum number of things to place. Some may end up hidden, a few layouts add one or two,
            and a thing may consist of several objects (a group).
        layout: a name in `fastsam_core.train.layouts.LAYOUTS`; None draws one by weight.

    Raises:
        ValueError: for a size below 32, an empty range of objects or an unknown layout.
    """
    if not isinstance(size, int | np.integer) or size < 32:
        raise ValueError(f"a scene's size must be an integer of at least 32 pixels, got {size!r}")
    size = int(size)
    min_objects, max_objects = objects
    if not 1 <= min_objects <= max_objects:
        raise ValueError(f"objects is (least, most) with 1 <= least <= most, got {objects!r}")
    if layout is None:
        weights = np.array([weight for _, weight in LAYOUTS.values()])
        layout = list(LAYOUTS)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    elif layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; accepted: {', '.join(LAYOUTS)}")
    count = round(float(np.exp(rng.uniform(np.log(min_objects), np.log(max_objects)))))
    for _ in range(_MAX_ATTEMPTS):
        painter = LAYOUTS[layout][0](rng, pool, size, count)
        areas = _areas(painter.labels, painter.objects + 1)
        areas[0] = 0
        if areas.max() >= _MIN_LARGEST_OBJECT * size * size:
            break
        count = max(count * 2 // 3, min_objects)  # fewer objects are placed larger
    labels, kept_objects = _renumber(painter.labels, areas > 0)
    part_owner_before = np.array(painter.owners, np.int64)
    part_areas = _areas(painter.parts, len(part_owner_before))
    part_areas[0] = 0
    parts, kept_parts = _renumber(
        painter.parts, (part_areas > 0) & (part_areas < _REDUNDANT_PART * areas[part_owner_before])
    )
    renumbered = np.zeros(painter.objects + 1, np.int32)
    renumbered[kept_objects] = np.arange(1, len(kept_objects) + 1, dtype=np.int32)
    part_owner = np.concatenate([[0], renumbered[part_owner_before[kept_parts]]]).astype(np.int32)
    groups = _final_groups(np.array(painter.group_of), areas)[painter.labels]
    return Scene(apply_camera_effects(rng, painter.image, pool), labels, parts, part_owner, groups)
