"""Contours of one mask through pixel centres: all its parts and holes, or the single ring that YOLO labels need."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

# Above this many point pairs, the nearest pair is first searched on thinned contours.
_EXHAUSTIVE_PAIRS = 1_000_000


class Polygon(NamedTuple):
    """One connected part of a mask. Points are float32 (K, 2): x and y indices of its border pixels."""

    exterior: np.ndarray
    holes: list[np.ndarray]


def polygons(mask: np.ndarray, offset: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """Return every 8-connected part of a bool mask (h, w), with its holes; `offset` (x, y) is added to the points.

    The points of a hole are the mask pixels around it. Filling the exterior and then clearing the strict interior of
    the holes therefore restores the mask.
    """
    import cv2

    # Rows of the two-level hierarchy are next, previous, first child, parent. Exteriors have no parent (-1).
    found, hierarchy = cv2.findContours(
        np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset
    )
    if not found:
        return []
    parents = np.asarray(hierarchy).reshape(-1, 4)[:, 3].tolist()
    parts = {i: Polygon(_points(found[i]), []) for i, parent in enumerate(parents) if parent < 0}
    for i, parent in enumerate(parents):
        if parent >= 0:
            parts[parent].holes.append(_points(found[i]))
    return list(parts.values())


def ring(mask: np.ndarray, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return one closed ring around a bool mask (h, w): float32 (K, 2); (0, 2) for an empty mask. Holes are lost.

    Each part is joined to the next by a line between their nearest points, traversed in both directions. Such a line
    encloses no area, so the ring's area is the sum of the parts' areas. `offset` (x, y) is added to the points.
    """
    import cv2

    found, _ = cv2.findContours(
        np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=offset
    )
    return join([_points(contour) for contour in found])


def join(parts: list[np.ndarray]) -> np.ndarray:
    """Join closed contours, each (K, 2), into one ring that goes along the chain of contours and back again."""
    if not parts:
        return np.zeros((0, 2), np.float32)
    out: list[np.ndarray] = []
    back: list[np.ndarray] = []
    entry = 0
    for part, following in pairwise(parts):
        leave, enter = nearest_pair(part, following)
        turned = np.roll(part, -entry, axis=0)
        leave = (leave - entry) % len(part)
        out.append(turned[: leave + 1])
        # The way back runs from the point where the chain left this contour to the point where it entered.
        back.append(turned[leave:] if not back else np.concatenate([turned[leave:], turned[:1]]))
        entry = enter
    last = np.roll(parts[-1], -entry, axis=0)
    out.append(last if len(parts) == 1 else np.concatenate([last, last[:1]]))
    return np.concatenate(out + back[::-1])


def nearest_pair(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Return the indices of the points of two contours, (K, 2) and (L, 2), that are nearest to each other.

    Exact up to a million pairs. Beyond that, the nearest pair of the thinned contours is refined in its neighbourhood.
    """
    if len(first) * len(second) <= _EXHAUSTIVE_PAIRS:
        apart = first[:, None].astype(np.float64) - second[None]
        return divmod(int(np.square(apart).sum(2).argmin()), len(second))
    side = int(_EXHAUSTIVE_PAIRS**0.5)
    thin_first, thin_second = -(-len(first) // side), -(-len(second) // side)
    i, j = nearest_pair(first[::thin_first], second[::thin_second])
    from_i, from_j = max(0, (i - 1) * thin_first), max(0, (j - 1) * thin_second)
    near_first = first[from_i : (i + 1) * thin_first + 1]
    near_second = second[from_j : (j + 1) * thin_second + 1]
    if len(near_first) * len(near_second) > _EXHAUSTIVE_PAIRS:
        return i * thin_first, j * thin_second
    i, j = nearest_pair(near_first, near_second)
    return from_i + i, from_j + j


def _points(contour: np.ndarray) -> np.ndarray:
    return np.asarray(contour, dtype=np.float32).reshape(-1, 2)
