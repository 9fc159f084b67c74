"""Outlines that the things of a generated scene are built from: circles, boxes, blobs, bands, foliage.

Each is a polygon, y pointing down, or several polygons where a single one would intersect itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

Outline = np.ndarray  # (K, 2) float32 x, y


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a uniformly random number from `low` to `high`."""
    return float(rng.uniform(low, high))


@cache
def _circle(n: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.cos(angle), np.sin(angle)


def ellipse(
    x: float = 0, y: float = 0, rx: float = 1, ry: float = 1, *, rotation: float = 0.0, power: float = 2.0, n: int = 40
) -> Outline:
    """Return a superellipse of `n` points, rotated by `rotation` radians.

    power: its exponent; 2 is an ellipse, above 3 it is a rounded box.
    """
    cos, sin = _circle(n)
    if power != 2.0:
        cos = np.sign(cos) * np.abs(cos) ** (2 / power)
        sin = np.sign(sin) * np.abs(sin) ** (2 / power)
    px, py = rx * cos, ry * sin
    out = np.empty((n, 2), np.float32)
    if rotation:
        c, s = np.cos(rotation), np.sin(rotation)
        px, py = c * px - s * py, s * px + c * py
    np.add(px, x, out=out[:, 0], casting="same_kind")
    np.add(py, y, out=out[:, 1], casting="same_kind")
    return out


def box(left: float, top: float, right: float, bottom: float, *, corner: float = 0.0) -> Outline:
    """Return an axis-aligned rectangle whose corners are rounded with radius `corner`."""
    corner = min(corner, abs(right - left) / 2, abs(bottom - top) / 2)
    if corner <= 0:
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    x0, y0, x1, y1 = left + corner, top + corner, right - corner, bottom - corner
    centres = np.array([(x1, y1), (x0, y1), (x0, y0), (x1, y0)], np.float32)
    return (np.float32(corner) * _arcs() + centres[:, None]).reshape(-1, 2)


@cache
def _arcs() -> np.ndarray:
    """Return the four quarters of a unit circle, (4, 7, 2) float32."""
    angle = 0.5 * np.pi * (np.arange(4)[:, None] + np.linspace(0, 1, 7))
    return np.stack([np.cos(angle), np.sin(angle)], axis=2).astype(np.float32)


def polygon(*points: tuple[float, float]) -> Outline:
    """Return a polygon through the given points."""
    return np.array(points, np.float32)


def blob(rng: np.random.Generator, *, rough: float | None = None, waves: int | None = None, n: int = 64) -> Outline:
    """Return a smooth closed curve around the origin: a circle with random harmonics, stretched at random.

    rough: amplitude of the harmonics; waves: their number. Both are random by default. n: number of points.
    """
    cos, sin = _circle(n)
    amplitude = rng.uniform(0.1, 0.6) if rough is None else rough
    num_waves = int(rng.integers(2, 9)) if waves is None else waves
    decay = 0.5 * amplitude / np.arange(1, num_waves + 1) ** 0.8
    radius = 1.0 + (rng.normal(size=num_waves) * decay) @ np.cos(
        _multiples(n, num_waves) + rng.uniform(0, 2 * np.pi, (num_waves, 1))
    )
    np.maximum(radius, 0.15, out=radius)
    rotation = rng.uniform(0, 2 * np.pi)
    x, y = radius * cos * np.exp(rng.uniform(-0.5, 0.5)), radius * sin
    out = np.empty((n, 2), np.float32)
    out[:, 0], out[:, 1] = x * np.cos(rotation) - y * np.sin(rotation), x * np.sin(rotation) + y * np.cos(rotation)
    return out


@cache
def _multiples(n: int, num_waves: int) -> np.ndarray:
    return np.arange(1, num_waves + 1)[:, None] * np.linspace(0, 2 * np.pi, n, endpoint=False)


def corners(rng: np.random.Generator, count: int, *, jitter: float = 0.0) -> Outline:
    """Return a polygon with `count` corners around a circle. jitter: 0 is regular, 1 very irregular and concave."""
    step = 2 * np.pi / count
    angle = np.arange(count) * step + rng.uniform(-0.45, 0.45, count) * step * jitter + rng.uniform(0, 2 * np.pi)
    radius = 1.0 - jitter * rng.uniform(0, 0.65, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def star(rng: np.random.Generator) -> Outline:
    """Return a star or gear: its corners alternate between two circles."""
    count = int(rng.integers(4, 13))
    angle = np.arange(2 * count) * np.pi / count
    radius = np.where(np.arange(2 * count) % 2 == 0, 1.0, rng.uniform(0.35, 0.85))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def smooth(line: Outline, rounds: int = 2) -> Outline:
    """Cut the corners of a closed polygon `rounds` times (Chaikin's algorithm)."""
    for _ in range(rounds):
        following = np.roll(line, -1, axis=0)
        line = np.stack([0.75 * line + 0.25 * following, 0.25 * line + 0.75 * following], axis=1).reshape(-1, 2)
    return line.astype(np.float32)


def stroke(
    points: Sequence[tuple[float, float]] | np.ndarray, start: float, stop: float | None = None
) -> tuple[Outline, ...]:
    """Return a round-ended band along a path, whose half-width goes from `start` to `stop` (default: constant).

    The band is one convex polygon per link of the path, with a half-disc at either end; a single outline would
    intersect itself in tight bends. If the width changes strongly along a link, whole discs are added at the points.
    """
    path = np.asarray(points, np.float32)
    radius_step = 0.0 if stop is None else (stop - start) / max(len(path) - 1, 1)
    radius = np.arange(len(path), dtype=np.float32) * np.float32(radius_step) + np.float32(start)
    direction = path[1:] - path[:-1]
    length = np.sqrt(direction[:, :1] * direction[:, :1] + direction[:, 1:] * direction[:, 1:])
    direction /= np.maximum(length, 1e-6)
    x, y = direction[:, :1], direction[:, 1:]
    cos, sin = _half_circle()
    links = np.empty((len(direction), 16, 2), np.float32)
    first, second = radius[:-1, None], radius[1:, None]
    links[:, :8, 0] = path[:-1, :1] - first * (x * cos - y * sin)
    links[:, :8, 1] = path[:-1, 1:] - first * (y * cos + x * sin)
    links[:, 8:, 0] = path[1:, :1] + second * (x * cos - y * sin)
    links[:, 8:, 1] = path[1:, 1:] + second * (y * cos + x * sin)
    if abs(radius_step) <= 0.4 * float(length.min()):
        return tuple(links)
    cos, sin = _circle(14)
    discs = np.empty((len(path), 14, 2), np.float32)
    discs[:, :, 0] = path[:, :1] + radius[:, None] * cos
    discs[:, :, 1] = path[:, 1:] + radius[:, None] * sin
    return (*discs, *links)


@cache
def _half_circle() -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 8)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def curve(rng: np.random.Generator, *, bend: float) -> np.ndarray:
    """Return a gently winding open path from left to right, (14, 2) float32."""
    heading = np.cumsum(rng.normal(0, 0.35 * bend, 14)) + rng.normal(0, 0.4 * bend) * np.linspace(-1, 1, 14)
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return np.cumsum(steps, axis=0).astype(np.float32)


def foliage(rng: np.random.Generator, *, y: float = 0.0, rx: float = 1.0, ry: float = 1.0) -> tuple[Outline, ...]:
    """Return a ragged mass of lumps, like a tree's crown, a bush or a cloud."""
    lump = float(rng.uniform(0.14, 0.35))
    angle = np.arange(0, 2 * np.pi, lump * 1.2)
    reach = rng.uniform(0.6, 0.9, len(angle))
    size = lump * min(rx, ry) * rng.uniform(0.6, 1.3, (len(angle), 1)) * rng.uniform(0.6, 1.25, (len(angle), 12))
    cos, sin = _circle(12)
    lumps = np.empty((len(angle), 12, 2), np.float32)
    lumps[:, :, 0] = (rx * reach * np.cos(angle))[:, None] + size * cos
    lumps[:, :, 1] = (y + ry * reach * np.sin(angle))[:, None] + size * sin
    return (ellipse(0, y, rx * 0.75, ry * 0.75), *lumps)
