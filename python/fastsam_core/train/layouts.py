"""Layouts of generated scenes: objects scattered, standing on a floor, in rows, in piles, close up.

Each layout paints a scene of `size` pixels with about `count` objects and returns its painter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from . import backdrops
from .appearance import Appearance, PlacedShape, random_appearance
from .catalogue import random_shape, random_upright_shape
from .composites import random_cluster
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
    rotation: float = 0.0,
    stretch: float = 1.0,
    limit: float = 0.8,
) -> np.ndarray:
    """Return the (2, 3) matrix that places `shape` at (x, y) in pixels, mirrored half of the time.

    area: fraction of the image that the shape covers, reduced so that its longer half-extent is at most `limit` times
    the image's side. rotation: rotation in radians. stretch: ratio of horizontal to vertical scale.
    """
    scale = min(np.sqrt(area * size * size / shape.area), limit * size)
    scale_x, scale_y = scale * stretch**0.5, scale / stretch**0.5
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(rotation), np.sin(rotation)
    return np.array([[flip * scale_x * cos, -scale_y * sin, x], [flip * scale_x * sin, scale_y * cos, y]], np.float32)


def _random_area(rng: np.random.Generator, count: int) -> float:
    """Return a log-uniform object area, a fraction of the image. Its maximum is smaller for more objects."""
    return _log_uniform(rng, 0.008, min(0.5, max(0.06, 3.0 / count)))


def _random_rotation(rng: np.random.Generator, shape: Shape | Cluster) -> float:
    if shape.upright:
        return float(rng.normal(0, 0.12))
    return float(rng.uniform(0, 2 * np.pi))


def _paint(
    painter: Painter, shape: Shape | Cluster, matrix: np.ndarray, appearance: Appearance, *, grounded: bool = False
) -> None:
    if isinstance(shape, Cluster):
        painter.paint_cluster(shape, matrix, appearance, grounded=grounded)
    else:
        painter.paint(PlacedShape(shape, matrix, appearance, grounded=grounded))


def _scatter_one(
    painter: Painter, shape: Shape | Cluster, low: float, high: float, *, out_of_focus: bool = False
) -> None:
    """Paint a thing anywhere with an area from `low` to `high`, fractions of the image, in focus or out of focus."""
    rng, size = painter.rng, painter.size
    x, y = rng.uniform(0, size, 2)
    matrix = _matrix(
        rng, shape, size, _log_uniform(rng, low, high), float(x), float(y), rotation=_random_rotation(rng, shape)
    )
    _paint(
        painter, shape, matrix, random_appearance(rng, size, depth=float(rng.uniform(0, 1)) if out_of_focus else 0.0)
    )


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
    areas = sorted(
        (_random_area(rng, count) for _ in range(count)), key=lambda area: -area * _log_uniform(rng, 0.3, 3.0)
    )
    shallow = rng.random() < 0.25
    shared_materials: dict[int, Material] = {}
    for index, area in enumerate(areas):
        # A composite is several objects, so a crowded scene gets few of them.
        shape = random_cluster(rng) if rng.random() < min(0.15, 1.5 / count) else random_shape(rng)
        x, y = rng.uniform(-0.05, 1.05, 2) * size
        depth = max(0.0, 0.7 - index / max(count, 1)) * float(rng.random()) if shallow else 0.0
        # Sometimes neighbours share materials, so that only shading and shadows tell them apart.
        materials = dict(shared_materials) if shared_materials and rng.random() < 0.15 else {}
        matrix = _matrix(
            rng, shape, size, area, x, y, rotation=_random_rotation(rng, shape), stretch=_log_uniform(rng, 0.75, 1.35)
        )
        appearance = random_appearance(rng, size, depth=depth)
        if isinstance(shape, Cluster):
            painter.paint_cluster(shape, matrix, appearance)
            continue
        painter.paint(
            PlacedShape(
                shape,
                matrix,
                replace(appearance, edge=max(appearance.edge, 0.25)) if materials else appearance,
                materials,
            )
        )
        shared_materials = materials or shared_materials
    return painter


def floor(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Stand things on the ground, smaller and higher up the farther away; some hang on the wall or in the sky."""
    horizon = size * float(rng.uniform(0.15, 0.65))
    make_backdrop = backdrops.outdoor if rng.random() < 0.5 else backdrops.indoor
    painter = Painter(make_backdrop(rng, pool, size, horizon), pool, rng)
    # People also click on a floor or a sky, so sometimes it counts as an object.
    row = int(np.clip(horizon, 1, size - 1))
    if rng.random() < 0.3:
        painter.label_window(np.s_[row:, :])
    if rng.random() < 0.2:
        painter.label_window(np.s_[:row, :])
    for _ in range(int(rng.integers(0, 4))):
        shape = random_shape(rng)
        y = float(rng.uniform(0, horizon * 0.9))
        matrix = _matrix(
            rng,
            shape,
            size,
            _log_uniform(rng, 0.006, 0.08),
            float(rng.uniform(0, size)),
            y,
            rotation=_random_rotation(rng, shape),
        )
        painter.paint(PlacedShape(shape, matrix, random_appearance(rng, size)))
    nearest = _log_uniform(rng, 0.08, 0.5) * (1.0 if count < 10 else 0.6)
    shallow = rng.random() < 0.3
    focus = float(rng.random())
    cluster_probability = min(0.3, 2.5 / count)
    for depth in np.sort(rng.random(count) ** 0.7):
        base = horizon + (size * 1.08 - horizon) * float(depth)
        area = max(nearest * float(0.15 + 0.85 * depth) ** 2 * _log_uniform(rng, 0.3, 1.6), 0.004)
        pick = rng.random()
        thing: Shape | Cluster
        thing = (
            random_cluster(rng, upright=True)
            if pick < cluster_probability
            else random_upright_shape(rng)
            if pick < 0.88
            else random_shape(rng)
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
            rotation=float(rng.normal(0, 0.03)) if thing.upright else 0.0,
        )
        matrix[1, 2] = base - abs(float(matrix[1, 1])) * thing.half_extents[1]
        appearance = random_appearance(rng, size, depth=abs(float(depth) - focus) * 0.8 if shallow else 0.0)
        _paint(painter, thing, matrix, appearance, grounded=True)
    return painter


def rows(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Repeat one or two things side by side: shelves, crowds, fences, trays of fruit."""
    painter = Painter(backdrops.flat(rng, pool, size), pool, rng)
    num_lines, count = int(rng.integers(1, 4)), max(count, 5)
    per_line = max(count // num_lines, 2)
    kinds = [
        random_upright_shape(rng) if rng.random() < 0.7 else random_shape(rng) for _ in range(int(rng.integers(1, 3)))
    ]
    material_sets: list[dict[int, Material]] = [{} for _ in kinds]
    tilt, variation = float(rng.normal(0, 0.1)), float(rng.uniform(0, 0.25))
    appearance = random_appearance(rng, size)
    appearance = replace(appearance, edge=max(appearance.edge, 0.25), roundness=max(appearance.roundness, 0.25))
    shelf = rng.random() < 0.5
    for line in range(num_lines):
        base = size * (line + 0.9 + rng.normal(0, 0.05)) / num_lines
        pitch = size / per_line * float(rng.uniform(0.7, 1.15))
        if shelf:
            thickness = size * float(rng.uniform(0.01, 0.03))
            plank = Shape(
                (Piece.from_outlines((box(-0.1, 0, 1.1, thickness / size),)),),
                (0.6, thickness / size / 2),
                thickness / size,
            )
            matrix = np.array([[size, 0, 0], [size * tilt * 0.3, size, base]], np.float32)
            painter.paint(PlacedShape(plank, matrix, Appearance(roundness=0, edge=0.2), deformable=False))
        # A close row of equal things on a shelf is also a group: a row of books, a fence, a pack of bottles.
        is_group = shelf and len(kinds) == 1 and per_line <= 12
        with painter.grouped() if is_group else nullcontext():
            for position in range(per_line):
                kind_index = int(rng.integers(len(kinds)))
                shape = kinds[kind_index]
                height = size / num_lines * 0.8 * (1 + variation * float(rng.normal()))
                scale = min(height / 2 / shape.half_extents[1], pitch * 0.75 / shape.half_extents[0])
                x = pitch * (position + 0.5 + variation * float(rng.normal()))
                flip = -1.0 if rng.random() < 0.3 else 1.0
                y = base - scale * shape.half_extents[1] + (x - size / 2) * tilt * 0.3
                matrix = np.array([[flip * scale, 0, x], [0, scale, y]], np.float32)
                painter.paint(PlacedShape(shape, matrix, appearance, material_sets[kind_index], grounded=shelf))
                if rng.random() < 0.15:  # new materials from here on, like another brand
                    material_sets[kind_index] = {}
    return painter


def pile(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Pile up things as on a table seen from above, or in a heap: similar sizes, strong overlap, few materials."""
    painter = Painter(backdrops.flat(rng, pool, size), pool, rng)
    area = min(0.12, 1.6 / count)
    kinds = [random_shape(rng) for _ in range(int(rng.integers(1, 5)))]
    mixed = rng.random() < 0.6
    material_sets: list[dict[int, Material]] = [{} for _ in range(int(rng.integers(1, 5)))]
    centre, spread = rng.uniform(0.35, 0.65, 2), rng.uniform(0.12, 0.4)
    # Things close together are a heap, which also counts as a group.
    grouping = painter.grouped() if spread < 0.24 else nullcontext()
    base = random_appearance(rng, size)
    base = replace(base, edge=max(base.edge, 0.2), shadow=max(base.shadow, 0.25))
    with grouping:
        for _ in range(count):
            shape = random_shape(rng) if mixed and rng.random() < 0.5 else kinds[int(rng.integers(len(kinds)))]
            x, y = (centre + np.clip(rng.normal(0, spread, 2), -2.2 * spread, 2.2 * spread)) * size
            shape_area, rotation = area * _log_uniform(rng, 0.5, 2.0), float(rng.uniform(0, 2 * np.pi))
            matrix = _matrix(rng, shape, size, shape_area, float(x), float(y), rotation=rotation)
            material_set = material_sets[int(rng.integers(len(material_sets)))] if rng.random() < 0.6 else {}
            # Other slots mean different things in different shapes, so only the main material is shared.
            materials = {0: material_set[0]} if 0 in material_set else {}
            painter.paint(PlacedShape(shape, matrix, base, materials))
            if 0 in materials:
                material_set.setdefault(0, materials[0])
    return painter


def landscape(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Paint layers of hills, hedges or roofs, each an object of its own, with a few things in front."""
    horizon = size * float(rng.uniform(0.1, 0.45))
    painter = Painter(backdrops.outdoor(rng, pool, size, size * 0.99), pool, rng)
    num_layers = int(rng.integers(2, 6))
    x_positions = np.linspace(-0.1, 1.1, 48, dtype=np.float32)
    for layer in range(num_layers):
        top = horizon / size + (0.95 - horizon / size) * layer / num_layers
        waves = sum(
            rng.normal(0, 0.04 / k) * np.sin(2 * np.pi * k * x_positions * rng.uniform(0.5, 1.2) + rng.uniform(0, 6))
            for k in (1, 2, 3)
        )
        crest = top + waves + (rng.normal(0, 0.012, len(x_positions)) if rng.random() < 0.5 else 0.0)
        outline = np.concatenate([np.stack([x_positions, crest], axis=1), [[1.1, 1.2], [-0.1, 1.2]]]).astype(np.float32)
        ridge = Shape((Piece.from_outlines((outline,)),), (0.6, 0.5), 0.5)
        matrix = np.array([[size, 0, 0], [0, size, 0]], np.float32)
        appearance = replace(random_appearance(rng, size), roundness=0.0, edge=float(rng.uniform(0, 0.3)), opacity=1.0)
        painter.paint(PlacedShape(ridge, matrix, appearance, deformable=False))
        for _ in range(int(rng.integers(0, max(count // num_layers, 1) + 1))):
            shape = random_upright_shape(rng) if rng.random() < 0.85 else random_cluster(rng, upright=True)
            area = 0.004 + 0.15 * ((layer + 1) / num_layers) ** 2 * float(rng.random())
            x = float(rng.uniform(0, size))
            base = float(np.interp(x / size, x_positions, crest)) * size + float(rng.uniform(0.02, 0.12)) * size
            shape_matrix = _matrix(rng, shape, size, area, x, 0.0)
            shape_matrix[1, 2] = base - abs(float(shape_matrix[1, 1])) * shape.half_extents[1]
            _paint(painter, shape, shape_matrix, random_appearance(rng, size), grounded=True)
    return painter


def portrait(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Paint one or two large subjects in front of a soft background, and small things around them."""
    pick = rng.random()
    image = backdrops.clutter(rng, pool, size) if pick < 0.6 else backdrops.flat(rng, pool, size)
    painter = Painter(image, pool, rng)
    for _ in range(count // 3):
        _scatter_one(painter, random_shape(rng), 0.008, 0.08, out_of_focus=True)
    for _ in range(1 if rng.random() < 0.6 else 2):
        pick = rng.random()
        subject: Shape | Cluster
        subject = random_cluster(rng) if pick < 0.4 else random_upright_shape(rng) if pick < 0.85 else random_shape(rng)
        x, y = rng.uniform(0.3, 0.7, 2) * size
        matrix = _matrix(
            rng,
            subject,
            size,
            _log_uniform(rng, 0.15, 0.6),
            float(x),
            float(y),
            rotation=_random_rotation(rng, subject) * 0.5,
        )
        _paint(painter, subject, matrix, random_appearance(rng, size))
    for _ in range(int(rng.integers(1, max(count // 2, 1) + 1))):
        _scatter_one(painter, random_shape(rng), 0.008, 0.06)
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
        back = random_shape(rng) if rng.random() < 0.7 else random_cluster(rng)
        _scatter_one(painter, back, 0.01, 0.15, out_of_focus=True)
    shape = random_cluster(rng) if rng.random() < 0.55 else random_upright_shape(rng)
    x, y = rng.uniform(0.2, 0.8, 2) * size
    area = _log_uniform(rng, 0.4, 1.5)
    matrix = _matrix(rng, shape, size, area, float(x), float(y), rotation=_random_rotation(rng, shape) * 0.5, limit=1.6)
    _paint(painter, shape, matrix, random_appearance(rng, size))
    for _ in range(int(rng.integers(0, 3))):
        _scatter_one(painter, random_shape(rng), 0.01, 0.12)
    return painter


def _split_rectangle(
    rng: np.random.Generator, left: float, top: float, right: float, bottom: float, count: int
) -> list[tuple[float, float, float, float]]:
    if count <= 1:
        return [(left, top, right, bottom)]
    fraction, first = float(rng.uniform(0.3, 0.7)), count // 2
    if (right - left) * rng.uniform(0.6, 1.6) > bottom - top:
        cut = left + fraction * (right - left)
        return _split_rectangle(rng, left, top, cut, bottom, first) + _split_rectangle(
            rng, cut, top, right, bottom, count - first
        )
    cut = top + fraction * (bottom - top)
    return _split_rectangle(rng, left, top, right, cut, first) + _split_rectangle(
        rng, left, cut, right, bottom, count - first
    )


def mosaic(rng: np.random.Generator, pool: TexturePool, size: int, count: int) -> Painter:
    """Divide the whole image into adjacent panels (fields from above, tiles, posters), with a few things on top."""
    painter = Painter(backdrops.flat(rng, pool, size), pool, rng)
    rotation, gap = float(rng.normal(0, 0.4)), float(rng.choice([0.0, 0.004, 0.015]))
    cos, sin = np.cos(rotation) * size * 1.2, np.sin(rotation) * size * 1.2
    matrix = np.array([[cos, -sin, size / 2], [sin, cos, size / 2]], np.float32)
    matrix[:, :2] += rng.normal(0, 0.08 * size, (2, 2)).astype(np.float32)
    panels = max(2, count * 2 // 3)
    corner, mottle = float(rng.choice([0.0, 0.02])), float(rng.choice([0.0, 0.3]))
    for left, top, right, bottom in _split_rectangle(rng, -0.6, -0.6, 0.6, 0.6, panels):
        outline = box(left + gap, top + gap, right - gap, bottom - gap, corner=corner)
        panel = Shape(
            (Piece.from_outlines((outline,)),),
            ((right - left) / 2, (bottom - top) / 2),
            (right - left) * (bottom - top),
        )
        appearance = Appearance(
            roundness=0.1 if corner else 0.0, edge=float(rng.uniform(0, 0.3)), shadow=0.0, mottle=mottle
        )
        painter.paint(PlacedShape(panel, matrix, appearance, deformable=False))
    for _ in range(count - panels):
        _scatter_one(painter, random_shape(rng), 0.008, 0.15)
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
