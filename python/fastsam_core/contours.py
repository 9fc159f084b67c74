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
    contours, hierarchy = cv2.findContours(
        np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset
    )
    if not contours:
        return []
    parents = np.asarray(hierarchy).reshape(-1, 4)[:, 3].tolist()
    parts = {i: Polygon(_points(contours[i]), []) for i, parent in enumerate(parents) if parent < 0}
    for i, parent in enumerate(parents):
        if parent >= 0:
            parts[parent].holes.append(_points(contours[i]))
    return list(parts.values())


def ring(mask: np.ndarray, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return one closed ring around a bool mask (h, w): float32 (K, 2); (0, 2) for an empty mask. Holes are lost.

    Each part is joined to the next by a line between their nearest points, traversed in both directions. Such a line
    encloses no area, so the ring's area is the sum of the parts' areas. `offset` (x, y) is added to the points.
    """
    import cv2

    contours, _ = cv2.findContours(
        np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=offset
    )
    return join([_points(contour) for contour in contours])


def join(parts: list[np.ndarray]) -> np.ndarray:
    """Join closed contours, each (K, 2), into one ring that goes along the chain of contours and back again."""
    if not parts:
        return np.zeros((0, 2), np.float32)
    outbound: list[np.ndarray] = []
    inbound: list[np.ndarray] = []
    entry = 0
    for part, next_part in pairwise(parts):
        exit_index, next_entry = nearest_pair(part, next_part)
        rotated = np.roll(part, -entry, axis=0)
        exit_index = (exit_index - entry) % len(part)
        outbound.append(rotated[: exit_index + 1])
        # The way back runs from the point where the chain left this contour to the point where it entered.
        inbound.append(rotated[exit_index:] if not inbound else np.concatenate([rotated[exit_index:], rotated[:1]]))
        entry = next_entry
    last = np.roll(parts[-1], -entry, axis=0)
    outbound.append(last if len(parts) == 1 else np.concatenate([last, last[:1]]))
    return np.concatenate(outbound + inbound[::-1])


def nearest_pair(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Return the indices of the points of two contours, (K, 2) and (L, 2), that are nearest to each other.

    Exact up to a million pairs. Beyond that, the nearest pair of the thinned contours is refined in its neighbourhood.
    """
    if len(first) * len(second) <= _EXHAUSTIVE_PAIRS:
        differences = first[:, None].astype(np.float64) - second[None]
        return divmod(int(np.square(differences).sum(2).argmin()), len(second))
    max_points = int(_EXHAUSTIVE_PAIRS**0.5)
    step_first, step_second = -(-len(first) // max_points), -(-len(second) // max_points)
    i, j = nearest_pair(first[::step_first], second[::step_second])
    start_first, start_second = max(0, (i - 1) * step_first), max(0, (j - 1) * step_second)
    window_first = first[start_first : (i + 1) * step_first + 1]
    window_second = second[start_second : (j + 1) * step_second + 1]
    if len(window_first) * len(window_second) > _EXHAUSTIVE_PAIRS:
        return i * step_first, j * step_second
    i, j = nearest_pair(window_first, window_second)
    return start_first + i, start_second + j


def _points(contour: np.ndarray) -> np.ndarray:
    return np.asarray(contour, dtype=np.float32).reshape(-1, 2)
