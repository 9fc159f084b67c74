"""Artefacts for generated scenes: vessels, vehicles, houses, furniture, tools and the like.

They need not be recognisable: they give the model silhouettes with handles, wheels and parts of other materials. Each
maker takes the generator and returns pieces in painting order, y pointing down.
"""

from __future__ import annotations

import numpy as np

from .primitives import Outline, blob, box, ellipse, polygon, smooth, stroke
from .primitives import uniform as _u
from .shapes import Piece, piece_of


def bottle(rng: np.random.Generator) -> list[Piece]:
    """A body, neck and cap, often with a label."""
    wide, neck, shoulder = _u(rng, 0.2, 0.45), _u(rng, 0.06, 0.16), _u(rng, -0.6, -0.1)
    body = [
        (-neck, -1.0),
        (neck, -1.0),
        (neck, shoulder - 0.15),
        (wide, shoulder + 0.15),
        (wide, 1.0),
        (-wide, 1.0),
        (-wide, shoulder + 0.15),
        (-neck, shoulder - 0.15),
    ]
    pieces = [piece_of(smooth(polygon(*body), 2), box(-wide, shoulder + 0.3, wide, 1.0, corner=0.06))]
    if rng.random() < 0.7:
        top = _u(rng, shoulder + 0.2, 0.4)
        pieces.append(piece_of(box(-2, top, 2, top + _u(rng, 0.2, 0.5)), slot=1, part=True, clip=True))
    if rng.random() < 0.8:
        pieces.append(
            piece_of(box(-neck * 1.15, -1.08, neck * 1.15, -1.0 + _u(rng, 0.05, 0.25), corner=0.03), slot=2, part=True)
        )
    return pieces


def cup(rng: np.random.Generator) -> list[Piece]:
    """A cup, pot or jug with a visible inside, often with a handle that encloses a hole."""
    tall, taper, lip = _u(rng, 0.5, 1.1), _u(rng, 0.6, 1.0), _u(rng, 0.08, 0.28)
    side = float(rng.choice([-1.0, 1.0]))
    handle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 9)
    loop = [(side * (0.6 + 0.35 * np.cos(a)), 0.45 * tall * np.sin(a)) for a in handle]
    lines = [
        polygon((-0.7, -tall), (0.7, -tall), (0.7 * taper, tall), (-0.7 * taper, tall)),
        ellipse(0, tall, 0.7 * taper, lip),
        ellipse(0, -tall, 0.7, lip),
    ]
    pieces = [piece_of(*lines, *(stroke(loop, _u(rng, 0.06, 0.12)) if rng.random() < 0.7 else ()))]
    pieces.append(piece_of(ellipse(0, -tall, 0.62, lip * 0.8), slot=1, part=True, clip=True))
    if rng.random() < 0.3:
        pieces.append(piece_of(box(-2, -0.1 * tall, 2, 0.3 * tall), slot=2, part=True, clip=True))
    return pieces


def plate(rng: np.random.Generator) -> list[Piece]:
    """A dish with a rim, often with food on it."""
    flat = _u(rng, 0.35, 1.0)
    pieces = [piece_of(ellipse(ry=flat)), piece_of(ellipse(rx=0.72, ry=0.72 * flat), slot=-1, part=True, clip=True)]
    for k in range(int(rng.integers(0, 4))):
        shift = np.array([_u(rng, -0.4, 0.4), _u(rng, -0.35, 0.35) * flat], np.float32)
        lump = blob(rng) * _u(rng, 0.15, 0.35) * [1.0, 0.5 + 0.5 * flat] + shift
        pieces.append(piece_of(lump.astype(np.float32), slot=1 + k, part=True, clip=True))
    return pieces


def carton(rng: np.random.Generator) -> list[Piece]:
    """A box in oblique view: front, side and top as parts of slightly different tone."""
    wide, tall, dx, dy = _u(rng, 0.4, 1.0), _u(rng, 0.3, 1.0), _u(rng, 0.15, 0.6), _u(rng, 0.1, 0.4)
    front = box(-wide, -tall, wide, tall)
    top = polygon((-wide, -tall), (wide, -tall), (wide + dx, -tall - dy), (-wide + dx, -tall - dy))
    side = polygon((wide, -tall), (wide, tall), (wide + dx, tall - dy), (wide + dx, -tall - dy))
    pieces = [piece_of(front, part=True), piece_of(top, slot=-1, part=True), piece_of(side, slot=-2, part=True)]
    if rng.random() < 0.4:
        pieces.append(
            piece_of(
                box(-wide * 0.6, -tall * 0.6, wide * _u(rng, 0.1, 0.7), tall * _u(rng, 0.0, 0.6)), slot=1, part=True
            )
        )
    return pieces


def screen(rng: np.random.Generator) -> list[Piece]:
    """A phone, monitor, framed picture or window: a frame and its inside."""
    aspect, edge, corner = (
        float(np.exp(rng.uniform(-0.7, 0.7))),
        _u(rng, 0.04, 0.22),
        float(rng.choice([0.0, 0.05, 0.2])),
    )
    pieces = [piece_of(box(-aspect, -1, aspect, 1, corner=corner))]
    pieces.append(
        piece_of(
            box(-aspect + edge, -1 + edge, aspect - edge, 1 - edge * _u(rng, 1, 2), corner=corner / 2),
            slot=1,
            part=True,
            clip=True,
        )
    )
    if rng.random() < 0.4:
        pieces.append(
            piece_of((blob(rng) * 0.4 + [_u(rng, -0.3, 0.3), _u(rng, -0.3, 0.3)]).astype(np.float32), slot=2, clip=True)
        )
    if rng.random() < 0.3:
        pieces.insert(0, piece_of(box(-0.1, 0.9, 0.1, 1.3), box(-0.45, 1.25, 0.45, 1.35, corner=0.05)))
    return pieces


def tool(rng: np.random.Generator) -> list[Piece]:
    """A handle with a head: spoon, brush, hammer, lamp post, sign."""
    thick = _u(rng, 0.04, 0.1)
    handle = stroke([(0, 1.2), (_u(rng, -0.08, 0.08), 0.2), (0, -0.6)], thick, thick * _u(rng, 0.6, 1.2))
    head = ellipse(0, -0.8, rx=_u(rng, 0.15, 0.5), ry=_u(rng, 0.15, 0.45), power=_u(rng, 1.5, 8))
    if rng.random() < 0.3:
        return [piece_of(*handle, head)]
    return [piece_of(*handle, part=True), piece_of(head, slot=1, part=True)]


def glasses(rng: np.random.Generator) -> list[Piece]:
    """Two rings and a bridge: scissors, spectacles, handcuffs, keys."""
    radius, thin = _u(rng, 0.3, 0.42), _u(rng, 0.05, 0.12)
    pieces = [
        Piece.of((ellipse(x, 0, radius, radius * 0.85),), (ellipse(x, 0, radius - thin, radius * 0.85 - thin),))
        for x in (-0.5, 0.5)
    ]
    return [*pieces, piece_of(*stroke([(-0.2, -0.08), (0.2, -0.08)], thin * 0.5))]


def garment(rng: np.random.Generator) -> list[Piece]:
    """A shirt, dress or bag: a soft symmetrical outline with a band or pocket."""
    sleeve, hem = _u(rng, 0.1, 0.6), _u(rng, 0.4, 0.9)
    half = [(0.18, -1.0), (0.5, -0.9), (0.5 + sleeve, -0.3), (0.35 + sleeve, -0.15), (0.42, -0.45), (hem, 1.0)]
    outline = polygon(*half, *[(-x, y) for x, y in reversed(half)])
    pieces = [piece_of(smooth(outline, 2))]
    if rng.random() < 0.6:
        top = _u(rng, -0.3, 0.5)
        pieces.append(piece_of(box(-2, top, 2, top + _u(rng, 0.1, 0.4)), slot=1, part=True, clip=True))
    return pieces


def furniture(rng: np.random.Generator) -> list[Piece]:
    """A table, stool or chair: a slab on thin legs, between which the background shows."""
    wide, leg, thin, slab = _u(rng, 0.5, 1.0), _u(rng, 0.5, 1.0), _u(rng, 0.03, 0.08), _u(rng, 0.05, 0.16)
    lines: list[Outline] = []
    for x in (-wide * 0.9, -wide * 0.55, wide * 0.55, wide * 0.9):
        lines += stroke([(x, 0), (x * _u(rng, 0.95, 1.1), leg * (1.0 if abs(x) > wide * 0.7 else 0.82))], thin)
    if rng.random() < 0.5:
        lines += stroke([(-wide * 0.9, leg * 0.6), (wide * 0.9, leg * 0.6)], thin * 0.7)
    top = polygon((-wide, slab), (wide, slab), (wide * 0.8, -slab * 1.5), (-wide * 0.8, -slab * 1.5))
    pieces = [
        piece_of(*lines, slot=int(rng.choice([0, 1]))),
        piece_of(top, box(-wide, slab, wide, slab * 2), part=True),
    ]
    if rng.random() < 0.5:
        back = box(-wide * 0.8, -leg * 1.2, wide * 0.8, -slab, corner=0.1)
        holes = (
            tuple(box(x, -leg, x + wide * 0.25, -slab * 2) for x in (-wide * 0.6, -wide * 0.12, wide * 0.36))
            if rng.random() < 0.5
            else ()
        )
        pieces.insert(1, piece_of(back, part=True, holes=holes))
    return pieces


def sofa(rng: np.random.Generator) -> list[Piece]:
    """A sofa whose back, arms and cushions are shades of one cloth, sometimes with a pillow of another material."""
    wide, deep = _u(rng, 0.8, 1.0), _u(rng, 0.2, 0.35)
    pieces = [piece_of(box(-wide, -0.5, wide, 0.3, corner=0.12), box(-wide, 0, wide, 0.5, corner=0.06))]
    count = int(rng.integers(1, 4))
    for k in range(count):
        left = -wide * 0.8 + 1.6 * wide * k / count
        pieces.append(
            piece_of(box(left, 0.0, left + 1.6 * wide / count, deep, corner=0.08), slot=-1, part=True, clip=True)
        )
    for side in (-1.0, 1.0):
        pieces.append(
            piece_of(
                box(side * wide * 0.9 - 0.16, -0.2, side * wide * 0.9 + 0.16, 0.5, corner=0.14), slot=-2, part=True
            )
        )
    if rng.random() < 0.6:
        pieces.append(
            piece_of((ellipse(power=4) * 0.22 + [_u(rng, -0.5, 0.5), -0.12]).astype(np.float32), slot=1, part=True)
        )
    return pieces


def house(rng: np.random.Generator) -> list[Piece]:
    """A building front with a roof, a door and rows of windows."""
    wide, tall = _u(rng, 0.5, 1.0), _u(rng, 0.5, 1.0)
    pieces = [piece_of(box(-wide, -tall, wide, tall))]
    if rng.random() < 0.7:
        pieces.append(
            piece_of(
                polygon((-wide * 1.1, -tall), (_u(rng, -wide, wide), -tall - _u(rng, 0.2, 0.7)), (wide * 1.1, -tall)),
                slot=1,
                part=True,
            )
        )
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 5))
    fill_x, fill_y, corner = _u(rng, 0.25, 0.4), _u(rng, 0.25, 0.38), float(rng.choice([0.0, 0.1]))
    for row in range(rows):
        for column in range(columns):
            x, y = wide * (2 * (column + 0.5) / columns - 1), tall * (1.7 * (row + 0.5) / rows - 1)
            dx, dy = wide * 2 / columns * fill_x, tall * 1.7 / rows * fill_y
            pieces.append(piece_of(box(x - dx, y - dy, x + dx, y + dy, corner=corner), slot=2, part=True, clip=True))
    if rng.random() < 0.6:
        x = _u(rng, -0.6, 0.6) * wide
        pieces.append(piece_of(box(x - 0.12, tall - 0.4, x + 0.12, tall), slot=3, part=True, clip=True))
    return pieces


def vehicle(rng: np.random.Generator) -> list[Piece]:
    """A car, van or cart from the side: body, cabin, windows and wheels."""
    high, cabin, wheel = _u(rng, 0.16, 0.32), _u(rng, 0.3, 0.6), _u(rng, 0.16, 0.27)
    left, right = _u(rng, -0.9, -0.3), _u(rng, 0.2, 0.9)
    roof = smooth(
        polygon(
            (left, -high),
            (left + _u(rng, 0.02, 0.3), -high - cabin),
            (right - _u(rng, 0.02, 0.3), -high - cabin),
            (right, -high),
        ),
        1,
    )
    pieces = [piece_of(box(-1, -high - 0.06, 1, high, corner=_u(rng, 0.05, 0.2)), roof)]
    inner = ((roof - roof.mean(axis=0)) * 0.8 + roof.mean(axis=0)).astype(np.float32)
    post = (left + right) / 2 + _u(rng, -0.1, 0.1)
    for pane in (box(left - 1, -3, post - 0.03, -high), box(post + 0.03, -3, right + 1, -high)):
        lines = np.stack([np.clip(inner[:, 0], pane[0, 0], pane[1, 0]), inner[:, 1]], axis=1).astype(np.float32)
        pieces.append(piece_of(lines, slot=1, part=True, clip=True))
    for x in (-0.6 + _u(rng, -0.08, 0.08), 0.6 + _u(rng, -0.08, 0.08)):
        pieces.append(piece_of(ellipse(x, high, wheel, wheel), slot=2, part=True))
        pieces.append(piece_of(ellipse(x, high, wheel * 0.55, wheel * 0.55), slot=3, part=True))
    if rng.random() < 0.4:
        pieces.insert(1, piece_of(box(-2, 0.0, 2, _u(rng, 0.05, 0.2)), slot=4, part=True, clip=True))
    return pieces


def bicycle(rng: np.random.Generator) -> list[Piece]:
    """Two thin rings joined by bars."""
    radius, thin = _u(rng, 0.4, 0.52), _u(rng, 0.025, 0.06)
    pieces = []
    for x in (-0.62, 0.62):
        pieces.append(
            piece_of(
                ellipse(x, 0.4, radius, radius),
                slot=1,
                part=True,
                holes=(ellipse(x, 0.4, radius - 2 * thin, radius - 2 * thin),),
            )
        )
    lines: list[Outline] = []
    tubes = (
        ((-0.62, 0.4), (0.0, 0.4)),
        ((0.0, 0.4), (0.5, -0.2)),
        ((-0.3, -0.2), (0.5, -0.2)),
        ((-0.3, -0.3), (0.0, 0.4)),
        ((0.62, 0.4), (0.45, -0.45)),
        ((0.45, -0.45), (0.25, -0.5)),
        ((-0.45, -0.32), (-0.15, -0.32)),
        ((-0.62, 0.4), (-0.3, -0.2)),
    )
    for a, b in tubes:
        lines += stroke([a, b], thin)
    return [*pieces, piece_of(*lines)]
