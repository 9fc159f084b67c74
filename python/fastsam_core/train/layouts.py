"""Layouts of generated scenes: objects scattered, standing on a floor, in rows, in piles, close up.

Each layout paints a scene of `size` pixels with about `count` objects and returns its painter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from . import backdrops
from .catalogue import any_shape, upright_shape
from .composites import any_cluster
from .finish import Finish, Placed, random_finish
from .painter import Painter
from .primitives import box
from .shapes import Cluster, Piece, Shape
from .textures import Material, TexturePool

Layout = Callable[[np.random.Generator, TexturePool, int, int], Painter]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _matrix(
    rng: np.random.Generator,
    shape: Shape | Cluster,
    size: int,
    area: float,
    x: float,
    y: float,
    *,
    turn: float = 0.0,
    stretch: float = 1.0,
    limit: float = 0.8,
) -> np.ndarray:
    """Return the (2, 3) matrix that places `shape` at (x, y) in pixels, mirrored half of the time.

    area: fraction of the image that the shape covers, reduced so that its longer half-extent is at most `limit` times
    the image's side. turn: rotation in radians. stretch: ratio of horizontal to vertical scale.
    """
    scale = min(np.sqrt(area * size * size / shape.area), limit * size)
    across, down = scale * stretch**0.5, scale / stretch**0.5
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(turn), np.sin(turn)
    return np.array([[flip * across * cos, -down * sin, x], [flip * across * sin, down * cos, y]], np.float32)


def _share(rng: np.random.Generator, count: int) -> float:
    """Return a log-uniform object area, a fraction of the image. Its maximum is smaller for more objects."""
    return _log_uniform(rng, 0.008, min(0.5, max(0.06, 3.0 / count)))


def _turn(rng: np.random.Generator, shape: Shape | Cluster) -> float:
    if shape.upright:
        return float(rng.normal(0, 0.12))
    return float(rng.uniform(0, 2 * np.pi))


def _paint(
    painter: Painter, thing: Shape | Cluster, matrix: np.ndarray, finish: Finish, *, grounded: bool = False
) -> None:
    if isinstance(thing, Cluster):
        painter.paint_cluster(thing, matrix, finish, grounded=grounded)
    else:
        painter.paint(Placed(thing, matrix, finish, grounded=grounded))


def _strew(painter: Painter, thing: Shape | Cluster, low: float, high: float, *, soft: bool = False) -> None:
    """Paint a thing anywhere with an area from `low` to `high`, fractions of the image. soft: put it out of focus."""
    rng, size = painter.rng, painter.size
    x, y = rng.uniform(0, size, 2)
    matrix = _matrix(rng, thing, size, _log_uniform(rng, low, high), float(x), float(y), turn=_turn(rng, thing))
    _paint(painter, thing, matrix, random_finish(rng, size, depth=float(rng.uniform(0, 1)) if soft else 0.0))


def scatter(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Scatter objects over any backdrop, larger ones mostly behind; sometimes with a shallow depth of field."""
    pick = rng.random()
    if pick < 0.45:
        image = backdrops.flat(rng, pool, size)
    elif pick < 0.75:
        image = backdrops.clutter(rng, pool, size)
    else:
        image = backdrops.outdoor(rng, pool, size, size * float(rng.uniform(0.2, 0.8)))
    painter = Painter(image, pool, rng)
    order = sorted((_share(rng, count) for _ in range(count)), key=lambda area: -area * _log_uniform(rng, 0.3, 3.0))
    shallow = rng.random() < 0.25
    common: dict[int, Material] = {}
    for place, area in enumerate(order):
        # A composite is several objects, so a crowded scene gets few of them.
        shape = any_cluster(rng) if rng.random() < min(0.15, 1.5 / count) else any_shape(rng)
        x, y = rng.uniform(-0.05, 1.05, 2) * size
        depth = max(0.0, 0.7 - place / max(count, 1)) * float(rng.random()) if shallow else 0.0
        # Sometimes neighbours share materials, so that only shading and shadows tell them apart.
        materials = dict(common) if common and rng.random() < 0.15 else {}
        matrix = _matrix(rng, shape, size, area, x, y, turn=_turn(rng, shape), stretch=_log_uniform(rng, 0.75, 1.35))
        finish = random_finish(rng, size, depth=depth)
        if isinstance(shape, Cluster):
            painter.paint_cluster(shape, matrix, finish)
            continue
        painter.paint(
            Placed(shape, matrix, replace(finish, edge=max(finish.edge, 0.25)) if materials else finish, materials)
        )
        common = materials or common
    return painter


def floor(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Stand things on the ground, smaller and higher up the farther away; some hang on the wall or in the sky."""
    horizon = size * float(rng.uniform(0.15, 0.65))
    make = backdrops.outdoor if rng.random() < 0.5 else backdrops.indoor
    painter = Painter(make(rng, pool, size, horizon), pool, rng)
    # People also click on a floor or a sky, so sometimes it counts as an object.
    row = int(np.clip(horizon, 1, size - 1))
    if rng.random() < 0.3:
        painter.claim(np.s_[row:, :])
    if rng.random() < 0.2:
        painter.claim(np.s_[:row, :])
    for _ in range(int(rng.integers(0, 4))):
        shape = any_shape(rng)
        y = float(rng.uniform(0, horizon * 0.9))
        matrix = _matrix(
            rng, shape, size, _log_uniform(rng, 0.006, 0.08), float(rng.uniform(0, size)), y, turn=_turn(rng, shape)
        )
        painter.paint(Placed(shape, matrix, random_finish(rng, size)))
    nearest = _log_uniform(rng, 0.08, 0.5) * (1.0 if count < 10 else 0.6)
    shallow = rng.random() < 0.3
    focus = float(rng.random())
    composite = min(0.3, 2.5 / count)
    for depth in np.sort(rng.random(count) ** 0.7):
        base = horizon + (size * 1.08 - horizon) * float(depth)
        area = max(nearest * float(0.15 + 0.85 * depth) ** 2 * _log_uniform(rng, 0.3, 1.6), 0.004)
        pick = rng.random()
        thing: Shape | Cluster
        thing = (
            any_cluster(rng, upright=True)
            if pick < composite
            else upright_shape(rng)
            if pick < 0.88
            else any_shape(rng)
        )
        if isinstance(thing, Cluster):
            area = min(area * 1.5, 0.5)
        matrix = _matrix(
            rng,
            thing,
            size,
            area,
            float(rng.uniform(0, size)),
            0.0,
            turn=float(rng.normal(0, 0.03)) if thing.upright else 0.0,
        )
        matrix[1, 2] = base - abs(float(matrix[1, 1])) * thing.half[1]
        finish = random_finish(rng, size, depth=abs(float(depth) - focus) * 0.8 if shallow else 0.0)
        _paint(painter, thing, matrix, finish, grounded=True)
    return painter


def rows(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Repeat one or two things side by side: shelves, crowds, fences, trays of fruit."""
    painter = Painter(backdrops.flat(rng, pool, size), pool, rng)
    lines, count = int(rng.integers(1, 4)), max(count, 5)
    per_line = max(count // lines, 2)
    kinds = [upright_shape(rng) if rng.random() < 0.7 else any_shape(rng) for _ in range(int(rng.integers(1, 3)))]
    looks: list[dict[int, Material]] = [{} for _ in kinds]
    tilt, vary = float(rng.normal(0, 0.1)), float(rng.uniform(0, 0.25))
    finish = random_finish(rng, size)
    finish = replace(finish, edge=max(finish.edge, 0.25), roundness=max(finish.roundness, 0.25))
    shelf = rng.random() < 0.5
    for line in range(lines):
        base = size * (line + 0.9 + rng.normal(0, 0.05)) / lines
        pitch = size / per_line * float(rng.uniform(0.7, 1.15))
        if shelf:
            thick = size * float(rng.uniform(0.01, 0.03))
            plank = Shape((Piece.of((box(-0.1, 0, 1.1, thick / size),)),), (0.6, thick / size / 2), thick / size)
            matrix = np.array([[size, 0, 0], [size * tilt * 0.3, size, base]], np.float32)
            painter.paint(Placed(plank, matrix, Finish(roundness=0, edge=0.2), pliable=False))
        # A close row of equal things on a shelf is also a group: a row of books, a fence, a pack of bottles.
        whole = shelf and len(kinds) == 1 and per_line <= 12
        with painter.grouped() if whole else nullcontext():
            for place in range(per_line):
                which = int(rng.integers(len(kinds)))
                shape = kinds[which]
                tall = size / lines * 0.8 * (1 + vary * float(rng.normal()))
                scale = min(tall / 2 / shape.half[1], pitch * 0.75 / shape.half[0])
                x = pitch * (place + 0.5 + vary * float(rng.normal()))
                flip = -1.0 if rng.random() < 0.3 else 1.0
                y = base - scale * shape.half[1] + (x - size / 2) * tilt * 0.3
                matrix = np.array([[flip * scale, 0, x], [0, scale, y]], np.float32)
                painter.paint(Placed(shape, matrix, finish, looks[which], grounded=shelf))
                if rng.random() < 0.15:  # new materials from here on, like another brand
                    looks[which] = {}
    return painter


def pile(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Pile up things as on a table seen from above, or in a heap: similar sizes, strong overlap, few materials."""
    painter = Painter(backdrops.flat(rng, pool, size), pool, rng)
    area = min(0.12, 1.6 / count)
    kinds = [any_shape(rng) for _ in range(int(rng.integers(1, 5)))]
    mixed = rng.random() < 0.6
    looks: list[dict[int, Material]] = [{} for _ in range(int(rng.integers(1, 5)))]
    centre, spread = rng.uniform(0.35, 0.65, 2), rng.uniform(0.12, 0.4)
    # Things close together are a heap, which also counts as a group.
    together = painter.grouped() if spread < 0.24 else nullcontext()
    base = random_finish(rng, size)
    base = replace(base, edge=max(base.edge, 0.2), shadow=max(base.shadow, 0.25))
    with together:
        for _ in range(count):
            shape = any_shape(rng) if mixed and rng.random() < 0.5 else kinds[int(rng.integers(len(kinds)))]
            x, y = (centre + np.clip(rng.normal(0, spread, 2), -2.2 * spread, 2.2 * spread)) * size
            share, turn = area * _log_uniform(rng, 0.5, 2.0), float(rng.uniform(0, 2 * np.pi))
            matrix = _matrix(rng, shape, size, share, float(x), float(y), turn=turn)
            look = looks[int(rng.integers(len(looks)))] if rng.random() < 0.6 else {}
            # Other slots mean different things in different shapes, so only the main material is shared.
            materials = {0: look[0]} if 0 in look else {}
            painter.paint(Placed(shape, matrix, base, materials))
            if 0 in materials:
                look.setdefault(0, materials[0])
    return painter


def landscape(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Paint layers of hills, hedges or roofs, each an object of its own, with a few things in front."""
    horizon = size * float(rng.uniform(0.1, 0.45))
    painter = Painter(backdrops.outdoor(rng, pool, size, size * 0.99), pool, rng)
    layers = int(rng.integers(2, 6))
    step = np.linspace(-0.1, 1.1, 48, dtype=np.float32)
    for level in range(layers):
        top = horizon / size + (0.95 - horizon / size) * level / layers
        waves = sum(
            rng.normal(0, 0.04 / k) * np.sin(2 * np.pi * k * step * rng.uniform(0.5, 1.2) + rng.uniform(0, 6))
            for k in (1, 2, 3)
        )
        crest = top + waves + (rng.normal(0, 0.012, len(step)) if rng.random() < 0.5 else 0.0)
        outline = np.concatenate([np.stack([step, crest], axis=1), [[1.1, 1.2], [-0.1, 1.2]]]).astype(np.float32)
        ridge = Shape((Piece.of((outline,)),), (0.6, 0.5), 0.5)
        matrix = np.array([[size, 0, 0], [0, size, 0]], np.float32)
        finish = replace(random_finish(rng, size), roundness=0.0, edge=float(rng.uniform(0, 0.3)), opacity=1.0)
        painter.paint(Placed(ridge, matrix, finish, pliable=False))
        for _ in range(int(rng.integers(0, max(count // layers, 1) + 1))):
            shape = upright_shape(rng) if rng.random() < 0.85 else any_cluster(rng, upright=True)
            area = 0.004 + 0.15 * ((level + 1) / layers) ** 2 * float(rng.random())
            x = float(rng.uniform(0, size))
            base = float(np.interp(x / size, step, crest)) * size + float(rng.uniform(0.02, 0.12)) * size
            thing = _matrix(rng, shape, size, area, x, 0.0)
            thing[1, 2] = base - abs(float(thing[1, 1])) * shape.half[1]
            _paint(painter, shape, thing, random_finish(rng, size), grounded=True)
    return painter


def portrait(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Paint one or two large subjects in front of a soft background, and small things around them."""
    pick = rng.random()
    image = backdrops.clutter(rng, pool, size) if pick < 0.6 else backdrops.flat(rng, pool, size)
    painter = Painter(image, pool, rng)
    for _ in range(count // 3):
        _strew(painter, any_shape(rng), 0.008, 0.08, soft=True)
    for _ in range(1 if rng.random() < 0.6 else 2):
        pick = rng.random()
        subject: Shape | Cluster
        subject = any_cluster(rng) if pick < 0.4 else upright_shape(rng) if pick < 0.85 else any_shape(rng)
        x, y = rng.uniform(0.3, 0.7, 2) * size
        matrix = _matrix(
            rng, subject, size, _log_uniform(rng, 0.15, 0.6), float(x), float(y), turn=_turn(rng, subject) * 0.5
        )
        _paint(painter, subject, matrix, random_finish(rng, size))
    for _ in range(int(rng.integers(1, max(count // 2, 1) + 1))):
        _strew(painter, any_shape(rng), 0.008, 0.06)
    return painter


def closeup(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Paint one thing or composite so close that the image's border may cut it off, in front of a few others."""
    pick = rng.random()
    if pick < 0.35:
        image = backdrops.clutter(rng, pool, size)
    elif pick < 0.7:
        image = backdrops.flat(rng, pool, size)
    else:
        image = backdrops.indoor(rng, pool, size, size * float(rng.uniform(0.3, 0.8)))
    painter = Painter(image, pool, rng)
    for _ in range(count // 4):
        back = any_shape(rng) if rng.random() < 0.7 else any_cluster(rng)
        _strew(painter, back, 0.01, 0.15, soft=True)
    shape = any_cluster(rng) if rng.random() < 0.55 else upright_shape(rng)
    x, y = rng.uniform(0.2, 0.8, 2) * size
    area = _log_uniform(rng, 0.4, 1.5)
    matrix = _matrix(rng, shape, size, area, float(x), float(y), turn=_turn(rng, shape) * 0.5, limit=1.6)
    _paint(painter, shape, matrix, random_finish(rng, size))
    for _ in range(int(rng.integers(0, 3))):
        _strew(painter, any_shape(rng), 0.01, 0.12)
    return painter


def _split(
    rng: np.random.Generator, left: float, top: float, right: float, bottom: float, count: int
) -> list[tuple[float, float, float, float]]:
    if count <= 1:
        return [(left, top, right, bottom)]
    share, first = float(rng.uniform(0.3, 0.7)), count // 2
    if (right - left) * rng.uniform(0.6, 1.6) > bottom - top:
        cut = left + share * (right - left)
        return _split(rng, left, top, cut, bottom, first) + _split(rng, cut, top, right, bottom, count - first)
    cut = top + share * (bottom - top)
    return _split(rng, left, top, right, cut, first) + _split(rng, left, cut, right, bottom, count - first)


def mosaic(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Divide the whole image into adjacent panels (fields from above, tiles, posters), with a few things on top."""
    painter = Painter(backdrops.flat(rng, pool, size), pool, rng)
    turn, gap = float(rng.normal(0, 0.4)), float(rng.choice([0.0, 0.004, 0.015]))
    cos, sin = np.cos(turn) * size * 1.2, np.sin(turn) * size * 1.2
    matrix = np.array([[cos, -sin, size / 2], [sin, cos, size / 2]], np.float32)
    matrix[:, :2] += rng.normal(0, 0.08 * size, (2, 2)).astype(np.float32)
    panels = max(2, count * 2 // 3)
    corner, mottle = float(rng.choice([0.0, 0.02])), float(rng.choice([0.0, 0.3]))
    for left, top, right, bottom in _split(rng, -0.6, -0.6, 0.6, 0.6, panels):
        outline = box(left + gap, top + gap, right - gap, bottom - gap, corner=corner)
        panel = Shape(
            (Piece.of((outline,)),), ((right - left) / 2, (bottom - top) / 2), (right - left) * (bottom - top)
        )
        finish = Finish(roundness=0.1 if corner else 0.0, edge=float(rng.uniform(0, 0.3)), shadow=0.0, mottle=mottle)
        painter.paint(Placed(panel, matrix, finish, pliable=False))
    for _ in range(count - panels):
        _strew(painter, any_shape(rng), 0.008, 0.15)
    return painter


# Name -> (layout, relative frequency).
LAYOUTS: dict[str, tuple[Layout, float]] = {
    "scatter": (scatter, 0.22),
    "floor": (floor, 0.28),
    "rows": (rows, 0.09),
    "pile": (pile, 0.07),
    "landscape": (landscape, 0.06),
    "portrait": (portrait, 0.14),
    "closeup": (closeup, 0.11),
    "mosaic": (mosaic, 0.03),
}
