"""Artefacts for generated scenes: vessels, vehicles, houses, furniture, tools and the like.

They need not be recognisable: they give the model silhouettes with handles, wheels and parts of other materials. Each
maker takes the generator and returns pieces in painting order, y pointing down.
"""

from __future__ import annotations

import numpy as np

from .primitives import Outline, blob, box, ellipse, polygon, smooth, stroke
from .primitives import uniform as _u
from .shapes import Piece, make_piece


def bottle(rng: np.random.Generator) -> list[Piece]:
    """A body, neck and cap, often with a label."""
    half_width, neck, shoulder = _u(rng, 0.2, 0.45), _u(rng, 0.06, 0.16), _u(rng, -0.6, -0.1)
    body = [
        (-neck, -1.0),
        (neck, -1.0),
        (neck, shoulder - 0.15),
        (half_width, shoulder + 0.15),
        (half_width, 1.0),
        (-half_width, 1.0),
        (-half_width, shoulder + 0.15),
        (-neck, shoulder - 0.15),
    ]
    pieces = [make_piece(smooth(polygon(*body), 2), box(-half_width, shoulder + 0.3, half_width, 1.0, corner=0.06))]
    if rng.random() < 0.7:
        top = _u(rng, shoulder + 0.2, 0.4)
        pieces.append(make_piece(box(-2, top, 2, top + _u(rng, 0.2, 0.5)), slot=1, part=True, clip=True))
    if rng.random() < 0.8:
        pieces.append(
            make_piece(
                box(-neck * 1.15, -1.08, neck * 1.15, -1.0 + _u(rng, 0.05, 0.25), corner=0.03), slot=2, part=True
            )
        )
    return pieces


def cup(rng: np.random.Generator) -> list[Piece]:
    """A cup, pot or jug with a visible inside, often with a handle that encloses a hole."""
    half_height, taper, lip = _u(rng, 0.5, 1.1), _u(rng, 0.6, 1.0), _u(rng, 0.08, 0.28)
    side = float(rng.choice([-1.0, 1.0]))
    handle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 9)
    loop = [(side * (0.6 + 0.35 * np.cos(a)), 0.45 * half_height * np.sin(a)) for a in handle]
    lines = [
        polygon((-0.7, -half_height), (0.7, -half_height), (0.7 * taper, half_height), (-0.7 * taper, half_height)),
        ellipse(0, half_height, 0.7 * taper, lip),
        ellipse(0, -half_height, 0.7, lip),
    ]
    pieces = [make_piece(*lines, *(stroke(loop, _u(rng, 0.06, 0.12)) if rng.random() < 0.7 else ()))]
    pieces.append(make_piece(ellipse(0, -half_height, 0.62, lip * 0.8), slot=1, part=True, clip=True))
    if rng.random() < 0.3:
        pieces.append(make_piece(box(-2, -0.1 * half_height, 2, 0.3 * half_height), slot=2, part=True, clip=True))
    return pieces


def plate(rng: np.random.Generator) -> list[Piece]:
    """A dish with a rim, often with food on it."""
    aspect = _u(rng, 0.35, 1.0)
    pieces = [
        make_piece(ellipse(ry=aspect)),
        make_piece(ellipse(rx=0.72, ry=0.72 * aspect), slot=-1, part=True, clip=True),
    ]
    for k in range(int(rng.integers(0, 4))):
        shift = np.array([_u(rng, -0.4, 0.4), _u(rng, -0.35, 0.35) * aspect], np.float32)
        lump = blob(rng) * _u(rng, 0.15, 0.35) * [1.0, 0.5 + 0.5 * aspect] + shift
        pieces.append(make_piece(lump.astype(np.float32), slot=1 + k, part=True, clip=True))
    return pieces


def carton(rng: np.random.Generator) -> list[Piece]:
    """A box in oblique view: front, side and top as parts of slightly different tone."""
    half_width, half_height, dx, dy = _u(rng, 0.4, 1.0), _u(rng, 0.3, 1.0), _u(rng, 0.15, 0.6), _u(rng, 0.1, 0.4)
    front = box(-half_width, -half_height, half_width, half_height)
    top = polygon(
        (-half_width, -half_height),
        (half_width, -half_height),
        (half_width + dx, -half_height - dy),
        (-half_width + dx, -half_height - dy),
    )
    side = polygon(
        (half_width, -half_height),
        (half_width, half_height),
        (half_width + dx, half_height - dy),
        (half_width + dx, -half_height - dy),
    )
    pieces = [make_piece(front, part=True), make_piece(top, slot=-1, part=True), make_piece(side, slot=-2, part=True)]
    if rng.random() < 0.4:
        pieces.append(
            make_piece(
                box(
                    -half_width * 0.6,
                    -half_height * 0.6,
                    half_width * _u(rng, 0.1, 0.7),
                    half_height * _u(rng, 0.0, 0.6),
                ),
                slot=1,
                part=True,
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
    pieces = [make_piece(box(-aspect, -1, aspect, 1, corner=corner))]
    pieces.append(
        make_piece(
            box(-aspect + edge, -1 + edge, aspect - edge, 1 - edge * _u(rng, 1, 2), corner=corner / 2),
            slot=1,
            part=True,
            clip=True,
        )
    )
    if rng.random() < 0.4:
        pieces.append(
            make_piece(
                (blob(rng) * 0.4 + [_u(rng, -0.3, 0.3), _u(rng, -0.3, 0.3)]).astype(np.float32), slot=2, clip=True
            )
        )
    if rng.random() < 0.3:
        pieces.insert(0, make_piece(box(-0.1, 0.9, 0.1, 1.3), box(-0.45, 1.25, 0.45, 1.35, corner=0.05)))
    return pieces


def tool(rng: np.random.Generator) -> list[Piece]:
    """A handle with a head: spoon, brush, hammer, lamp post, sign."""
    thickness = _u(rng, 0.04, 0.1)
    handle = stroke([(0, 1.2), (_u(rng, -0.08, 0.08), 0.2), (0, -0.6)], thickness, thickness * _u(rng, 0.6, 1.2))
    head = ellipse(0, -0.8, rx=_u(rng, 0.15, 0.5), ry=_u(rng, 0.15, 0.45), power=_u(rng, 1.5, 8))
    if rng.random() < 0.3:
        return [make_piece(*handle, head)]
    return [make_piece(*handle, part=True), make_piece(head, slot=1, part=True)]


def glasses(rng: np.random.Generator) -> list[Piece]:
    """Two rings and a bridge: scissors, spectacles, handcuffs, keys."""
    radius, thickness = _u(rng, 0.3, 0.42), _u(rng, 0.05, 0.12)
    pieces = [
        Piece.from_outlines(
            (ellipse(x, 0, radius, radius * 0.85),), (ellipse(x, 0, radius - thickness, radius * 0.85 - thickness),)
        )
        for x in (-0.5, 0.5)
    ]
    return [*pieces, make_piece(*stroke([(-0.2, -0.08), (0.2, -0.08)], thickness * 0.5))]


def garment(rng: np.random.Generator) -> list[Piece]:
    """A shirt, dress or bag: a soft symmetrical outline with a band or pocket."""
    sleeve, hem = _u(rng, 0.1, 0.6), _u(rng, 0.4, 0.9)
    half_outline = [(0.18, -1.0), (0.5, -0.9), (0.5 + sleeve, -0.3), (0.35 + sleeve, -0.15), (0.42, -0.45), (hem, 1.0)]
    outline = polygon(*half_outline, *[(-x, y) for x, y in reversed(half_outline)])
    pieces = [make_piece(smooth(outline, 2))]
    if rng.random() < 0.6:
        top = _u(rng, -0.3, 0.5)
        pieces.append(make_piece(box(-2, top, 2, top + _u(rng, 0.1, 0.4)), slot=1, part=True, clip=True))
    return pieces


def furniture(rng: np.random.Generator) -> list[Piece]:
    """A table, stool or chair: a slab on thin legs, between which the background shows."""
    half_width, leg, thickness, slab = _u(rng, 0.5, 1.0), _u(rng, 0.5, 1.0), _u(rng, 0.03, 0.08), _u(rng, 0.05, 0.16)
    lines: list[Outline] = []
    for x in (-half_width * 0.9, -half_width * 0.55, half_width * 0.55, half_width * 0.9):
        lines += stroke(
            [(x, 0), (x * _u(rng, 0.95, 1.1), leg * (1.0 if abs(x) > half_width * 0.7 else 0.82))], thickness
        )
    if rng.random() < 0.5:
        lines += stroke([(-half_width * 0.9, leg * 0.6), (half_width * 0.9, leg * 0.6)], thickness * 0.7)
    top = polygon(
        (-half_width, slab), (half_width, slab), (half_width * 0.8, -slab * 1.5), (-half_width * 0.8, -slab * 1.5)
    )
    pieces = [
        make_piece(*lines, slot=int(rng.choice([0, 1]))),
        make_piece(top, box(-half_width, slab, half_width, slab * 2), part=True),
    ]
    if rng.random() < 0.5:
        back = box(-half_width * 0.8, -leg * 1.2, half_width * 0.8, -slab, corner=0.1)
        holes = (
            tuple(
                box(x, -leg, x + half_width * 0.25, -slab * 2)
                for x in (-half_width * 0.6, -half_width * 0.12, half_width * 0.36)
            )
            if rng.random() < 0.5
            else ()
        )
        pieces.insert(1, make_piece(back, part=True, holes=holes))
    return pieces


def sofa(rng: np.random.Generator) -> list[Piece]:
    """A sofa whose back, arms and cushions are shades of one cloth, sometimes with a pillow of another material."""
    half_width, cushion_bottom = _u(rng, 0.8, 1.0), _u(rng, 0.2, 0.35)
    pieces = [
        make_piece(
            box(-half_width, -0.5, half_width, 0.3, corner=0.12), box(-half_width, 0, half_width, 0.5, corner=0.06)
        )
    ]
    count = int(rng.integers(1, 4))
    for k in range(count):
        left = -half_width * 0.8 + 1.6 * half_width * k / count
        pieces.append(
            make_piece(
                box(left, 0.0, left + 1.6 * half_width / count, cushion_bottom, corner=0.08),
                slot=-1,
                part=True,
                clip=True,
            )
        )
    for side in (-1.0, 1.0):
        pieces.append(
            make_piece(
                box(side * half_width * 0.9 - 0.16, -0.2, side * half_width * 0.9 + 0.16, 0.5, corner=0.14),
                slot=-2,
                part=True,
            )
        )
    if rng.random() < 0.6:
        pieces.append(
            make_piece((ellipse(power=4) * 0.22 + [_u(rng, -0.5, 0.5), -0.12]).astype(np.float32), slot=1, part=True)
        )
    return pieces


def house(rng: np.random.Generator) -> list[Piece]:
    """A building front with a roof, a door and rows of windows."""
    half_width, half_height = _u(rng, 0.5, 1.0), _u(rng, 0.5, 1.0)
    pieces = [make_piece(box(-half_width, -half_height, half_width, half_height))]
    if rng.random() < 0.7:
        pieces.append(
            make_piece(
                polygon(
                    (-half_width * 1.1, -half_height),
                    (_u(rng, -half_width, half_width), -half_height - _u(rng, 0.2, 0.7)),
                    (half_width * 1.1, -half_height),
                ),
                slot=1,
                part=True,
            )
        )
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 5))
    fill_x, fill_y, corner = _u(rng, 0.25, 0.4), _u(rng, 0.25, 0.38), float(rng.choice([0.0, 0.1]))
    for row in range(rows):
        for column in range(columns):
            x, y = half_width * (2 * (column + 0.5) / columns - 1), half_height * (1.7 * (row + 0.5) / rows - 1)
            dx, dy = half_width * 2 / columns * fill_x, half_height * 1.7 / rows * fill_y
            pieces.append(make_piece(box(x - dx, y - dy, x + dx, y + dy, corner=corner), slot=2, part=True, clip=True))
    if rng.random() < 0.6:
        x = _u(rng, -0.6, 0.6) * half_width
        pieces.append(make_piece(box(x - 0.12, half_height - 0.4, x + 0.12, half_height), slot=3, part=True, clip=True))
    return pieces


def vehicle(rng: np.random.Generator) -> list[Piece]:
    """A car, van or cart from the side: body, cabin, windows and wheels."""
    half_height, cabin, wheel = _u(rng, 0.16, 0.32), _u(rng, 0.3, 0.6), _u(rng, 0.16, 0.27)
    left, right = _u(rng, -0.9, -0.3), _u(rng, 0.2, 0.9)
    roof = smooth(
        polygon(
            (left, -half_height),
            (left + _u(rng, 0.02, 0.3), -half_height - cabin),
            (right - _u(rng, 0.02, 0.3), -half_height - cabin),
            (right, -half_height),
        ),
        1,
    )
    pieces = [make_piece(box(-1, -half_height - 0.06, 1, half_height, corner=_u(rng, 0.05, 0.2)), roof)]
    inner = ((roof - roof.mean(axis=0)) * 0.8 + roof.mean(axis=0)).astype(np.float32)
    post = (left + right) / 2 + _u(rng, -0.1, 0.1)
    for pane in (box(left - 1, -3, post - 0.03, -half_height), box(post + 0.03, -3, right + 1, -half_height)):
        lines = np.stack([np.clip(inner[:, 0], pane[0, 0], pane[1, 0]), inner[:, 1]], axis=1).astype(np.float32)
        pieces.append(make_piece(lines, slot=1, part=True, clip=True))
    for x in (-0.6 + _u(rng, -0.08, 0.08), 0.6 + _u(rng, -0.08, 0.08)):
        pieces.append(make_piece(ellipse(x, half_height, wheel, wheel), slot=2, part=True))
        pieces.append(make_piece(ellipse(x, half_height, wheel * 0.55, wheel * 0.55), slot=3, part=True))
    if rng.random() < 0.4:
        pieces.insert(1, make_piece(box(-2, 0.0, 2, _u(rng, 0.05, 0.2)), slot=4, part=True, clip=True))
    return pieces


def bicycle(rng: np.random.Generator) -> list[Piece]:
    """Two thin rings joined by bars."""
    radius, thickness = _u(rng, 0.4, 0.52), _u(rng, 0.025, 0.06)
    pieces = []
    for x in (-0.62, 0.62):
        pieces.append(
            make_piece(
                ellipse(x, 0.4, radius, radius),
                slot=1,
                part=True,
                holes=(ellipse(x, 0.4, radius - 2 * thickness, radius - 2 * thickness),),
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
        lines += stroke([a, b], thickness)
    return [*pieces, make_piece(*lines)]
