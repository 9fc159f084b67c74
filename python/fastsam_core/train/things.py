"""Object-like composites for generated scenes: bottles, animals, people, vehicles, trees, furniture and the like.

None of them is meant to be recognised; they give the model silhouettes with limbs, handles, wheels and parts of other
materials. Each maker takes the generator and returns pieces in painting order, y pointing down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .primitives import Outline, blob, box, ellipse, foliage, polygon, smooth, stroke
from .shapes import Piece

Maker = Callable[[np.random.Generator], list[Piece]]


def _u(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _piece(
    *lines: Outline, slot: int = 0, part: bool = False, clip: bool = False, holes: tuple[Outline, ...] = ()
) -> Piece:
    return Piece.of(lines, holes, slot, part, clip)


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
    pieces = [_piece(smooth(polygon(*body), 2), box(-wide, shoulder + 0.3, wide, 1.0, corner=0.06))]
    if rng.random() < 0.7:
        top = _u(rng, shoulder + 0.2, 0.4)
        pieces.append(_piece(box(-2, top, 2, top + _u(rng, 0.2, 0.5)), slot=1, part=True, clip=True))
    if rng.random() < 0.8:
        pieces.append(
            _piece(box(-neck * 1.15, -1.08, neck * 1.15, -1.0 + _u(rng, 0.05, 0.25), corner=0.03), slot=2, part=True)
        )
    return pieces


def cup(rng: np.random.Generator) -> list[Piece]:
    """A cup, pot or jug with a handle that leaves a hole, and a visible inside."""
    tall, taper, lip = _u(rng, 0.5, 1.1), _u(rng, 0.6, 1.0), _u(rng, 0.08, 0.28)
    side = float(rng.choice([-1.0, 1.0]))
    handle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 9)
    loop = [(side * (0.6 + 0.35 * np.cos(a)), 0.45 * tall * np.sin(a)) for a in handle]
    lines = [
        polygon((-0.7, -tall), (0.7, -tall), (0.7 * taper, tall), (-0.7 * taper, tall)),
        ellipse(0, tall, 0.7 * taper, lip),
        ellipse(0, -tall, 0.7, lip),
    ]
    pieces = [_piece(*lines, *(stroke(loop, _u(rng, 0.06, 0.12)) if rng.random() < 0.7 else ()))]
    pieces.append(_piece(ellipse(0, -tall, 0.62, lip * 0.8), slot=1, part=True, clip=True))
    if rng.random() < 0.3:
        pieces.append(_piece(box(-2, -0.1 * tall, 2, 0.3 * tall), slot=2, part=True, clip=True))
    return pieces


def animal(rng: np.random.Generator) -> list[Piece]:
    """A four-legged body of one coat, with head, ears, legs and tail; sometimes a patch."""
    long, deep, leg = _u(rng, 0.6, 1.0), _u(rng, 0.25, 0.5), _u(rng, 0.3, 0.9)
    thick = _u(rng, 0.06, 0.14)
    lines: list[Outline] = [ellipse(0, 0, long, deep, turn=_u(rng, -0.15, 0.15), power=_u(rng, 1.9, 3.0))]
    for x in (-0.75 * long, -0.5 * long, 0.5 * long, 0.75 * long):
        knee = x + _u(rng, -0.15, 0.15)
        lines += stroke(
            [(x, 0.1), (knee, deep * 0.6 + leg / 2), (x + _u(rng, -0.2, 0.2), deep * 0.6 + leg)], thick * 1.5, thick
        )
    head = (long + _u(rng, 0.0, 0.35), -deep - _u(rng, -0.1, 0.7))
    lines += stroke([(0.7 * long, -0.1), head], deep * 0.7, _u(rng, 0.1, 0.25))
    size = _u(rng, 0.18, 0.34)
    lines.append(ellipse(*head, size, size * _u(rng, 0.7, 1.0)))
    lines += stroke([head, (head[0] + size * 1.3, head[1] + size * 0.4)], size * 0.6, size * 0.4)
    for shift in (-0.6, 0.1):
        lines += stroke([head, (head[0] + shift * size, head[1] - size * _u(rng, 1.1, 2.0))], size * 0.35, size * 0.1)
    tail = [(-0.9 * long, -0.1), (-long - 0.25, _u(rng, -0.5, 0.4)), (-long - _u(rng, 0.1, 0.6), _u(rng, -0.8, 0.8))]
    lines += stroke(tail, thick, thick * 0.6)
    pieces = [_piece(*lines)]
    if rng.random() < 0.4:
        patch = blob(rng) * _u(rng, 0.25, 0.5) + np.array([_u(rng, -0.5, 0.5), _u(rng, -0.2, 0.2)], np.float32)
        pieces.append(_piece(patch.astype(np.float32), slot=1, part=True, clip=True))
    return pieces


def person(rng: np.random.Generator) -> list[Piece]:
    """Legs, torso, arms and head in separate materials, the hair too."""
    hip, chest, thick = _u(rng, 0.16, 0.26), _u(rng, 0.2, 0.34), _u(rng, 0.06, 0.11)
    pieces: list[Piece] = []
    legs: list[Outline] = [ellipse(0, 0.1, hip, 0.18)]
    for side in (-1.0, 1.0):
        foot = side * _u(rng, 0.05, 0.45)
        legs += stroke([(side * hip * 0.55, 0.1), ((foot + side * hip) / 2, 0.6), (foot, 1.1)], thick * 1.5, thick)
        legs += stroke([(foot, 1.12), (foot + _u(rng, -0.15, 0.15), 1.14)], thick * 0.9)
    pieces.append(_piece(*legs, slot=2, part=True))
    for side in (-1.0, 1.0):
        elbow = (side * (chest + _u(rng, 0.05, 0.35)), _u(rng, -0.6, 0.0))
        hand = (elbow[0] + _u(rng, -0.3, 0.3), elbow[1] + _u(rng, -0.4, 0.4))
        pieces.append(
            _piece(
                *stroke([(side * chest * 0.85, -0.5), elbow, hand], thick * 1.1, thick * 0.8),
                slot=int(rng.choice([0, 1])),
                part=True,
            )
        )
    torso = polygon((-chest, -0.6), (chest, -0.6), (hip * 1.05, 0.15), (-hip * 1.05, 0.15))
    pieces.append(_piece(smooth(torso, 2), ellipse(0, -0.45, chest, 0.18), box(-hip, -0.4, hip, 0.14), part=True))
    x, size = _u(rng, -0.06, 0.06), _u(rng, 0.14, 0.2)
    head = ellipse(x, -0.88, size * 0.85, size * 1.1)
    pieces.append(_piece(head, *stroke([(0, -0.6), (x, -0.8)], 0.07), slot=1, part=True))
    if rng.random() < 0.8:
        pieces.append(_piece(ellipse(x, -0.88 - size * 0.5, size * 0.95, size * 0.75), slot=3, part=True))
    return pieces


def bust(rng: np.random.Generator) -> list[Piece]:
    """Head and shoulders seen close."""
    wide, long = _u(rng, 0.38, 0.5), _u(rng, 0.5, 0.62)
    pieces = []
    if rng.random() < 0.7:
        pieces.append(_piece(ellipse(0, -0.4, wide * 1.25, long * _u(rng, 1.1, 1.7)), slot=2, part=True))
    pieces.append(_piece(ellipse(0, 1.15, _u(rng, 0.85, 1.15), 0.6, power=2.6), box(-0.8, 1.2, 0.8, 1.7), part=True))
    pieces.append(
        _piece(*stroke([(0, 0.0), (0, 0.55)], wide * 0.55), ellipse(0, -0.3, wide, long, power=2.2), slot=1, part=True)
    )
    fringe = [
        (-1.0, -2.0),
        (1.0, -2.0),
        (1.0, -0.3 - long * 0.6),
        (0.0, -0.3 - long * _u(rng, 0.3, 0.7)),
        (-1.0, -0.3 - long * 0.6),
    ]
    pieces.append(_piece(polygon(*fringe), slot=2, part=True, clip=True))
    for side in (-1.0, 1.0):
        pieces.append(_piece(ellipse(side * wide * 0.42, -0.33, 0.09, 0.05), slot=3, clip=True))
    pieces.append(_piece(ellipse(0, -0.02, 0.16, 0.05), slot=4, clip=True))
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
    pieces = [_piece(box(-1, -high - 0.06, 1, high, corner=_u(rng, 0.05, 0.2)), roof)]
    inner = ((roof - roof.mean(axis=0)) * 0.8 + roof.mean(axis=0)).astype(np.float32)
    post = (left + right) / 2 + _u(rng, -0.1, 0.1)
    for pane in (box(left - 1, -3, post - 0.03, -high), box(post + 0.03, -3, right + 1, -high)):
        lines = np.stack([np.clip(inner[:, 0], pane[0, 0], pane[1, 0]), inner[:, 1]], axis=1).astype(np.float32)
        pieces.append(_piece(lines, slot=1, part=True, clip=True))
    for x in (-0.6 + _u(rng, -0.08, 0.08), 0.6 + _u(rng, -0.08, 0.08)):
        pieces.append(_piece(ellipse(x, high, wheel, wheel), slot=2, part=True))
        pieces.append(_piece(ellipse(x, high, wheel * 0.55, wheel * 0.55), slot=3, part=True))
    if rng.random() < 0.4:
        pieces.insert(1, _piece(box(-2, 0.0, 2, _u(rng, 0.05, 0.2)), slot=4, part=True, clip=True))
    return pieces


def bicycle(rng: np.random.Generator) -> list[Piece]:
    """Two thin rings joined by bars."""
    radius, thin = _u(rng, 0.4, 0.52), _u(rng, 0.025, 0.06)
    pieces = []
    for x in (-0.62, 0.62):
        pieces.append(
            _piece(
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
    return [*pieces, _piece(*lines)]


def tree(rng: np.random.Generator) -> list[Piece]:
    """A trunk with branches and a crown; the crown is a part."""
    trunk, crown = _u(rng, 0.05, 0.14), _u(rng, 0.5, 0.9)
    lines = list(stroke([(0, 1.0), (_u(rng, -0.1, 0.1), 0.3), (0, -0.4)], trunk, trunk * 0.6))
    for side in (-1.0, 1.0):
        lines += stroke([(0, 0.2), (side * _u(rng, 0.3, 0.6), -0.4)], trunk * 0.6, trunk * 0.3)
    if rng.random() < 0.3:  # a conifer
        tiers = [
            polygon((0, -1.2 + 0.4 * k), (0.35 + 0.15 * k, -0.3 + 0.45 * k), (-0.35 - 0.15 * k, -0.3 + 0.45 * k))
            for k in range(3)
        ]
        return [_piece(*lines, slot=1), _piece(*tiers, part=True)]
    return [_piece(*lines, slot=1), _piece(*foliage(rng, y=-0.5, rx=crown, ry=_u(rng, 0.5, 0.8)), part=True)]


def house(rng: np.random.Generator) -> list[Piece]:
    """A building front with a roof, a door and rows of windows."""
    wide, tall = _u(rng, 0.5, 1.0), _u(rng, 0.5, 1.0)
    pieces = [_piece(box(-wide, -tall, wide, tall))]
    if rng.random() < 0.7:
        pieces.append(
            _piece(
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
            pieces.append(_piece(box(x - dx, y - dy, x + dx, y + dy, corner=corner), slot=2, part=True, clip=True))
    if rng.random() < 0.6:
        x = _u(rng, -0.6, 0.6) * wide
        pieces.append(_piece(box(x - 0.12, tall - 0.4, x + 0.12, tall), slot=3, part=True, clip=True))
    return pieces


def carton(rng: np.random.Generator) -> list[Piece]:
    """A box in oblique view: front, side and top as parts of slightly different tone."""
    wide, tall, dx, dy = _u(rng, 0.4, 1.0), _u(rng, 0.3, 1.0), _u(rng, 0.15, 0.6), _u(rng, 0.1, 0.4)
    front = box(-wide, -tall, wide, tall)
    top = polygon((-wide, -tall), (wide, -tall), (wide + dx, -tall - dy), (-wide + dx, -tall - dy))
    side = polygon((wide, -tall), (wide, tall), (wide + dx, tall - dy), (wide + dx, -tall - dy))
    pieces = [_piece(front, part=True), _piece(top, slot=-1, part=True), _piece(side, slot=-2, part=True)]
    if rng.random() < 0.4:
        pieces.append(
            _piece(box(-wide * 0.6, -tall * 0.6, wide * _u(rng, 0.1, 0.7), tall * _u(rng, 0.0, 0.6)), slot=1, part=True)
        )
    return pieces


def furniture(rng: np.random.Generator) -> list[Piece]:
    """A table, stool or chair: a slab on thin legs with the background showing between them."""
    wide, leg, thin, slab = _u(rng, 0.5, 1.0), _u(rng, 0.5, 1.0), _u(rng, 0.03, 0.08), _u(rng, 0.05, 0.16)
    lines: list[Outline] = []
    for x in (-wide * 0.9, -wide * 0.55, wide * 0.55, wide * 0.9):
        lines += stroke([(x, 0), (x * _u(rng, 0.95, 1.1), leg * (1.0 if abs(x) > wide * 0.7 else 0.82))], thin)
    if rng.random() < 0.5:
        lines += stroke([(-wide * 0.9, leg * 0.6), (wide * 0.9, leg * 0.6)], thin * 0.7)
    top = polygon((-wide, slab), (wide, slab), (wide * 0.8, -slab * 1.5), (-wide * 0.8, -slab * 1.5))
    pieces = [_piece(*lines, slot=int(rng.choice([0, 1]))), _piece(top, box(-wide, slab, wide, slab * 2), part=True)]
    if rng.random() < 0.5:
        back = box(-wide * 0.8, -leg * 1.2, wide * 0.8, -slab, corner=0.1)
        holes = (
            tuple(box(x, -leg, x + wide * 0.25, -slab * 2) for x in (-wide * 0.6, -wide * 0.12, wide * 0.36))
            if rng.random() < 0.5
            else ()
        )
        pieces.insert(1, _piece(back, part=True, holes=holes))
    return pieces


def sofa(rng: np.random.Generator) -> list[Piece]:
    """Back, arms and cushions of one cloth: parts that only their seams tell apart."""
    wide, deep = _u(rng, 0.8, 1.0), _u(rng, 0.2, 0.35)
    pieces = [_piece(box(-wide, -0.5, wide, 0.3, corner=0.12), box(-wide, 0, wide, 0.5, corner=0.06))]
    count = int(rng.integers(1, 4))
    for k in range(count):
        left = -wide * 0.8 + 1.6 * wide * k / count
        pieces.append(
            _piece(box(left, 0.0, left + 1.6 * wide / count, deep, corner=0.08), slot=-1, part=True, clip=True)
        )
    for side in (-1.0, 1.0):
        pieces.append(
            _piece(box(side * wide * 0.9 - 0.16, -0.2, side * wide * 0.9 + 0.16, 0.5, corner=0.14), slot=-2, part=True)
        )
    if rng.random() < 0.6:
        pieces.append(
            _piece((ellipse(power=4) * 0.22 + [_u(rng, -0.5, 0.5), -0.12]).astype(np.float32), slot=1, part=True)
        )
    return pieces


def flower(rng: np.random.Generator) -> list[Piece]:
    """Petals around a centre, sometimes on a stem with leaves."""
    count, long = int(rng.integers(5, 13)), _u(rng, 0.5, 0.7)
    pieces = []
    if rng.random() < 0.6:
        stem = list(stroke([(0, 0), (_u(rng, -0.2, 0.2), 1.0), (0, 2.0)], 0.06))
        stem.append(ellipse(0.3, 1.3, 0.35, 0.12, turn=_u(rng, -0.9, -0.2)))
        pieces.append(_piece(*stem, slot=1, part=True))
    petals = [
        ellipse(
            long * np.cos(a), long * np.sin(a), long * 0.6, long * _u(rng, 1.2, 2.6) / count + 0.05, turn=float(a), n=24
        )
        for a in np.arange(count) * 2 * np.pi / count
    ]
    pieces.append(_piece(*petals, ellipse(rx=0.35, ry=0.35), part=True))
    size = _u(rng, 0.15, 0.4)
    return [*pieces, _piece(ellipse(rx=size, ry=size), slot=2, part=True)]


def potted_plant(rng: np.random.Generator) -> list[Piece]:
    """A pot with a bundle of blades or a bush."""
    if rng.random() < 0.5:
        top: list[Outline] = list(foliage(rng, y=-0.5, rx=_u(rng, 0.4, 0.8), ry=_u(rng, 0.4, 0.7)))
    else:
        top = []
        for x in rng.uniform(-0.9, 0.9, int(rng.integers(5, 12))):
            top += stroke([(x * 0.2, 0.2), (x * 0.6, -0.4), (float(x), _u(rng, -1.2, -0.4))], 0.08, 0.02)
    pot = polygon((-0.42, 0.1), (0.42, 0.1), (0.3, 0.85), (-0.3, 0.85))
    return [_piece(*top, part=True), _piece(pot, box(-0.46, 0.05, 0.46, 0.2), slot=1, part=True)]


def fruit(rng: np.random.Generator) -> list[Piece]:
    """A round fruit with a stem and perhaps a leaf."""
    body = (blob(rng, rough=0.12, waves=4) * 0.8).astype(np.float32)
    pieces = [_piece(*stroke([(0, -0.6), (_u(rng, -0.15, 0.15), -1.05)], 0.05), slot=1), _piece(body)]
    if rng.random() < 0.4:
        pieces.append(_piece(ellipse(0.3, -0.85, 0.3, 0.12, turn=-0.4), slot=2, part=True))
    return pieces


def screen(rng: np.random.Generator) -> list[Piece]:
    """A phone, monitor, framed picture or window: a frame and its inside."""
    aspect, edge, corner = (
        float(np.exp(rng.uniform(-0.7, 0.7))),
        _u(rng, 0.04, 0.22),
        float(rng.choice([0.0, 0.05, 0.2])),
    )
    pieces = [_piece(box(-aspect, -1, aspect, 1, corner=corner))]
    pieces.append(
        _piece(
            box(-aspect + edge, -1 + edge, aspect - edge, 1 - edge * _u(rng, 1, 2), corner=corner / 2),
            slot=1,
            part=True,
            clip=True,
        )
    )
    if rng.random() < 0.4:
        pieces.append(
            _piece((blob(rng) * 0.4 + [_u(rng, -0.3, 0.3), _u(rng, -0.3, 0.3)]).astype(np.float32), slot=2, clip=True)
        )
    if rng.random() < 0.3:
        pieces.insert(0, _piece(box(-0.1, 0.9, 0.1, 1.3), box(-0.45, 1.25, 0.45, 1.35, corner=0.05)))
    return pieces


def plate(rng: np.random.Generator) -> list[Piece]:
    """A dish with rim and food on it."""
    flat = _u(rng, 0.35, 1.0)
    pieces = [_piece(ellipse(ry=flat)), _piece(ellipse(rx=0.72, ry=0.72 * flat), slot=-1, part=True, clip=True)]
    for k in range(int(rng.integers(0, 4))):
        shift = np.array([_u(rng, -0.4, 0.4), _u(rng, -0.35, 0.35) * flat], np.float32)
        lump = blob(rng) * _u(rng, 0.15, 0.35) * [1.0, 0.5 + 0.5 * flat] + shift
        pieces.append(_piece(lump.astype(np.float32), slot=1 + k, part=True, clip=True))
    return pieces


def tool(rng: np.random.Generator) -> list[Piece]:
    """A handle with a head: spoon, brush, hammer, lamp post, sign."""
    thick = _u(rng, 0.04, 0.1)
    handle = stroke([(0, 1.2), (_u(rng, -0.08, 0.08), 0.2), (0, -0.6)], thick, thick * _u(rng, 0.6, 1.2))
    head = ellipse(0, -0.8, rx=_u(rng, 0.15, 0.5), ry=_u(rng, 0.15, 0.45), power=_u(rng, 1.5, 8))
    if rng.random() < 0.3:
        return [_piece(*handle, head)]
    return [_piece(*handle, part=True), _piece(head, slot=1, part=True)]


def bird(rng: np.random.Generator) -> list[Piece]:
    """A drop-shaped body with wings, tail and beak: bird, fish or plane."""
    deep = _u(rng, 0.16, 0.4)
    lines = [
        ellipse(0, 0, 0.8, deep),
        polygon((-0.6, 0), (-1.25, -_u(rng, 0.15, 0.5)), (-1.05, 0), (-1.25, _u(rng, 0.0, 0.5))),
    ]
    head = (0.72, -_u(rng, 0.0, 0.35))
    lines += [
        ellipse(*head, 0.24, 0.22),
        polygon((head[0] + 0.1, head[1] - 0.1), (head[0] + 0.5, head[1]), (head[0] + 0.1, head[1] + 0.1)),
    ]
    if rng.random() < 0.5:
        lines += [smooth(polygon((0.3, 0), (_u(rng, -0.5, 0.2), -_u(rng, 0.6, 1.3)), (-0.4, 0)), 1)]
    wing = ellipse(-0.15, 0.02, 0.45, deep * 0.55, turn=_u(rng, -0.2, 0.3))
    return [_piece(*lines), _piece(wing, slot=1, part=True, clip=True)]


def garment(rng: np.random.Generator) -> list[Piece]:
    """A shirt, dress or bag: a soft symmetrical outline with a band or pocket."""
    sleeve, hem = _u(rng, 0.1, 0.6), _u(rng, 0.4, 0.9)
    half = [(0.18, -1.0), (0.5, -0.9), (0.5 + sleeve, -0.3), (0.35 + sleeve, -0.15), (0.42, -0.45), (hem, 1.0)]
    outline = polygon(*half, *[(-x, y) for x, y in reversed(half)])
    pieces = [_piece(smooth(outline, 2))]
    if rng.random() < 0.6:
        top = _u(rng, -0.3, 0.5)
        pieces.append(_piece(box(-2, top, 2, top + _u(rng, 0.1, 0.4)), slot=1, part=True, clip=True))
    return pieces


def glasses(rng: np.random.Generator) -> list[Piece]:
    """Two rings and a bridge: scissors, spectacles, handcuffs, keys."""
    radius, thin = _u(rng, 0.3, 0.42), _u(rng, 0.05, 0.12)
    pieces = [
        Piece.of((ellipse(x, 0, radius, radius * 0.85),), (ellipse(x, 0, radius - thin, radius * 0.85 - thin),))
        for x in (-0.5, 0.5)
    ]
    return [*pieces, _piece(*stroke([(-0.2, -0.08), (0.2, -0.08)], thin * 0.5))]
