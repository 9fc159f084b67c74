"""Composites with people and animals: with what they ride, carry, sit on or drive, and with each other.

Each maker returns the pieces of every object, from back to front, in common units.
"""

from __future__ import annotations

import numpy as np

from . import figures, things
from .catalogue import finished
from .placing import Things, extent, put, stand
from .primitives import Outline, box, ellipse, polygon, smooth, stroke
from .primitives import uniform as _u
from .prints import printed
from .shapes import Piece
from .stuff import slot


def rider(rng: np.random.Generator) -> Things:
    """A person riding an animal."""
    mount, seat = figures.quadruped(rng)
    size = _u(rng, 0.75, 1.2)
    figure = figures.person(rng, "straddle")
    place = (seat[0] + _u(rng, -0.15, 0.15), seat[1] - 0.04)
    saddle = Piece.of((ellipse(place[0], place[1] + 0.1, 0.3, 0.16),), (), slot("leather"), True, True)
    return [[*mount, saddle], put(figure.pieces, *place, size)]


def cyclist(rng: np.random.Generator) -> Things:
    """A person on two wheels: a bicycle, motorbike or scooter."""
    machine = finished(rng, things.bicycle) if rng.random() < 0.45 else motorbike(rng)
    figure = figures.person(rng, "ride")
    return [machine, put(figure.pieces, -0.3, -0.38, _u(rng, 0.8, 1.05))]


def motorbike(rng: np.random.Generator) -> list[Piece]:
    """A motorbike or scooter from the side."""
    radius = _u(rng, 0.32, 0.44)
    wheels = [Piece.of((ellipse(x, 0.42, radius, radius),), (), slot("tyre"), True) for x in (-0.62, 0.64)]
    rims = [
        Piece.of((ellipse(x, 0.42, radius * 0.62, radius * 0.62),), (), slot("metal"), False) for x in (-0.62, 0.64)
    ]
    frame = [*stroke([(0.64, 0.42), (0.45, -0.35), (0.3, -0.55)], 0.045), *stroke([(-0.62, 0.42), (0.1, 0.3)], 0.06)]
    body: list[Outline] = [
        smooth(
            polygon((-0.85, -0.12), (-0.3, -0.2), (0.1, -0.42), (0.48, -0.25), (0.3, 0.2), (-0.25, 0.3), (-0.5, 0.1)), 2
        )
    ]
    if rng.random() < 0.5:
        body.append(ellipse(0.55, -0.3, 0.16, 0.2))
    pieces = [*wheels, *rims, Piece.of(frame, (), slot("metal", 1)), Piece.of(body, (), slot("paint"), True)]
    pieces.append(Piece.of((ellipse(0.0, 0.28, 0.24, 0.2),), (), slot("metal"), True))
    pieces.append(Piece.of((box(-0.75, -0.3, -0.05, -0.16, corner=0.06),), (), slot("leather"), True))
    if rng.random() < 0.4:
        pieces += printed(rng, (-0.1, -0.25, 0.35, -0.05))
    return pieces


def carrier(rng: np.random.Generator) -> Things:
    """A person with a bag, umbrella, box, board, stick or racket, dog, or something like a phone."""
    figure = figures.person(rng, str(rng.choice(["stand", "walk", "reach"])))
    (x, y), body = figure.hands[1], figure.pieces
    pick = int(rng.integers(7))
    if pick == 0:
        goods = put(bag(rng), x, y + 0.3, _u(rng, 0.18, 0.34))
    elif pick == 1:
        goods = umbrella(rng, x, y)
    elif pick == 2:
        goods = put(finished(rng, things.carton), x, y, _u(rng, 0.15, 0.35))
    elif pick == 3:  # surfboard, skis, plank
        goods = [
            Piece.of((ellipse(x, y, 0.16, _u(rng, 0.7, 1.1), turn=_u(rng, -0.6, 0.6), power=2.6),), (), slot("paint"))
        ]
        goods += printed(rng, (x - 0.12, y - 0.4, x + 0.12, y + 0.4))
    elif pick == 4:
        angle = _u(rng, 0.0, 2 * np.pi)
        tip = (x + 0.55 * np.cos(angle), y + 0.55 * np.sin(angle))
        goods = [Piece.of(stroke([(x, y), tip], 0.025, _u(rng, 0.02, 0.06)), (), slot("wood"))]
        if rng.random() < 0.5:
            head = ellipse(*tip, 0.2, 0.14, turn=angle)
            goods.insert(
                0,
                Piece.of(
                    (head,), (ellipse(*tip, 0.17, 0.11, turn=angle),) if rng.random() < 0.5 else (), slot("paint")
                ),
            )
    elif pick == 5:
        goods = put(figures.coated(rng), x + _u(rng, 0.5, 0.8), 0.72, _u(rng, 0.2, 0.4))
        lead = Piece.of(stroke([(x, y), (x + 0.2, 0.5), (x + 0.5, 0.6)], 0.012), (), slot("leather"))
        return [body, [lead, *goods]]
    else:
        goods = put(finished(rng, things.screen), x, y, _u(rng, 0.08, 0.2))
    return [body, goods]


def bag(rng: np.random.Generator) -> list[Piece]:
    """A handbag, suitcase or shopping bag with handles."""
    wide = _u(rng, 0.6, 1.1)
    handle = [(-wide * 0.4, -0.7), (-wide * 0.3, -1.2), (wide * 0.3, -1.2), (wide * 0.4, -0.7)]
    stuff = slot(str(rng.choice(["leather", "pattern", "cloth", "paper"])))
    pieces = [Piece.of(stroke(handle, 0.06), (), slot("leather", 1), True)]
    pieces.append(
        Piece.of((smooth(polygon((-wide * 0.8, -0.7), (wide * 0.8, -0.7), (wide, 0.7), (-wide, 0.7)), 1),), (), stuff)
    )
    if rng.random() < 0.5:
        pieces.append(Piece.of((box(-9, -0.9, 9, _u(rng, -0.5, 0.1)),), (), slot("leather", 1), True, True))
    if rng.random() < 0.5:
        pieces += printed(rng, (-wide * 0.5, -0.3, wide * 0.5, 0.5))
    return pieces


def umbrella(rng: np.random.Generator, x: float, y: float) -> list[Piece]:
    """An open umbrella whose grip is at (x, y)."""
    wide, top = _u(rng, 0.5, 0.9), y - _u(rng, 0.8, 1.1)
    angle = np.linspace(np.pi, 2 * np.pi, 20)
    dome = np.stack([x + wide * np.cos(angle), top + 0.6 * wide * np.sin(angle)], axis=1).astype(np.float32)
    pieces = [Piece.of(stroke([(x, y), (x, top)], 0.018), (), slot("metal")), Piece.of((dome,), (), slot("cloth"))]
    for k in range(-1, 2):
        if rng.random() < 0.7:
            rib = polygon(
                (x, top - 0.6 * wide), (x + wide * (0.33 * k - 0.14), top), (x + wide * (0.33 * k + 0.14), top)
            )
            pieces.append(Piece.of((rib,), (), slot("cloth", 1), True, True))
    return pieces


def sitter(rng: np.random.Generator) -> Things:
    """One or two people, or a pet, on a chair, bench or sofa."""
    seat = stand(
        finished(rng, things.sofa) if rng.random() < 0.5 else finished(rng, things.furniture), 0.0, 0.5, 1.6, 1.2
    )
    left, top, right, bottom = extent(seat)
    level = top + (bottom - top) * _u(rng, 0.45, 0.6)
    if rng.random() < 0.3:
        return [seat, stand(figures.resting(rng), _u(rng, -0.3, 0.3), level, 0.9, 0.6)]
    result: Things = [seat]
    for x in (0.0,) if rng.random() < 0.7 else (left * 0.5, right * 0.5):
        figure = figures.person(rng, "sit")
        result.append(put(figure.pieces, x, level - 0.06, _u(rng, 0.8, 1.0), flip=bool(rng.random() < 0.5)))
    return result


def party(rng: np.random.Generator) -> Things:
    """A few people or animals close together, side by side or partly in front of each other."""
    animals = rng.random() < 0.35
    x, result = 0.0, []
    for _ in range(int(rng.integers(2, 5))):
        pieces = figures.coated(rng) if animals else figures.clothed(rng)
        tall = _u(rng, 0.7, 1.0) if animals else _u(rng, 0.85, 1.0)
        placed = stand(pieces, x, _u(rng, 0.0, 0.06), 1.4 if animals else 1.0, tall)
        left, _, right, _ = extent(placed)
        result.append(put(placed, 0, 0, 1.0))
        x += (right - left) * _u(rng, 0.45, 0.8)
    return result


def driven(rng: np.random.Generator) -> Things:
    """A vehicle with a load on it or a person in front of it."""
    car = finished(rng, things.vehicle)
    if rng.random() < 0.5:
        figure = stand(figures.clothed(rng), _u(rng, -0.8, 0.8), 0.55, 1.0, _u(rng, 0.9, 1.3))
        return [car, figure]
    left, top, right, _ = extent(car)
    load = stand(
        finished(rng, things.carton) if rng.random() < 0.5 else bag(rng), (left + right) / 2, top + 0.04, 0.6, 0.4
    )
    return [load, car]
