"""Composites with people and animals: with what they ride, carry, sit on or drive, and with each other.

Each maker returns the pieces of every object, from back to front, in common units.
"""

from __future__ import annotations

import numpy as np

from . import artefacts, figures
from .catalogue import build_object
from .material_kinds import material_slot
from .placement import ObjectPieces, bounding_box, place_on_ground, transform_pieces
from .primitives import Outline, box, ellipse, polygon, smooth, stroke
from .primitives import uniform as _u
from .prints import random_print
from .shapes import Piece


def rider(rng: np.random.Generator) -> ObjectPieces:
    """A person riding an animal."""
    mount, seat = figures.quadruped(rng)
    size = _u(rng, 0.75, 1.2)
    figure = figures.person(rng, "straddle")
    seat_position = (seat[0] + _u(rng, -0.15, 0.15), seat[1] - 0.04)
    saddle = Piece.from_outlines(
        (ellipse(seat_position[0], seat_position[1] + 0.1, 0.3, 0.16),), (), material_slot("leather"), True, True
    )
    return [[*mount, saddle], transform_pieces(figure.pieces, *seat_position, size)]


def cyclist(rng: np.random.Generator) -> ObjectPieces:
    """A person on two wheels: a bicycle, motorbike or scooter."""
    machine = build_object(rng, artefacts.bicycle) if rng.random() < 0.45 else motorbike(rng)
    figure = figures.person(rng, "ride")
    return [machine, transform_pieces(figure.pieces, -0.3, -0.38, _u(rng, 0.8, 1.05))]


def motorbike(rng: np.random.Generator) -> list[Piece]:
    """A motorbike or scooter from the side."""
    radius = _u(rng, 0.32, 0.44)
    wheels = [
        Piece.from_outlines((ellipse(x, 0.42, radius, radius),), (), material_slot("tyre"), True) for x in (-0.62, 0.64)
    ]
    rims = [
        Piece.from_outlines((ellipse(x, 0.42, radius * 0.62, radius * 0.62),), (), material_slot("metal"), False)
        for x in (-0.62, 0.64)
    ]
    frame = [*stroke([(0.64, 0.42), (0.45, -0.35), (0.3, -0.55)], 0.045), *stroke([(-0.62, 0.42), (0.1, 0.3)], 0.06)]
    body: list[Outline] = [
        smooth(
            polygon((-0.85, -0.12), (-0.3, -0.2), (0.1, -0.42), (0.48, -0.25), (0.3, 0.2), (-0.25, 0.3), (-0.5, 0.1)), 2
        )
    ]
    if rng.random() < 0.5:
        body.append(ellipse(0.55, -0.3, 0.16, 0.2))
    pieces = [
        *wheels,
        *rims,
        Piece.from_outlines(frame, (), material_slot("metal", 1)),
        Piece.from_outlines(body, (), material_slot("paint"), True),
    ]
    pieces.append(Piece.from_outlines((ellipse(0.0, 0.28, 0.24, 0.2),), (), material_slot("metal"), True))
    pieces.append(
        Piece.from_outlines((box(-0.75, -0.3, -0.05, -0.16, corner=0.06),), (), material_slot("leather"), True)
    )
    if rng.random() < 0.4:
        pieces += random_print(rng, (-0.1, -0.25, 0.35, -0.05))
    return pieces


def carrier(rng: np.random.Generator) -> ObjectPieces:
    """A person with a bag, umbrella, box, board, stick or racket, dog, or something like a phone."""
    figure = figures.person(rng, str(rng.choice(["stand", "walk", "reach"])))
    (x, y), body = figure.hands[1], figure.pieces
    pick = int(rng.integers(7))
    if pick == 0:
        carried = transform_pieces(bag(rng), x, y + 0.3, _u(rng, 0.18, 0.34))
    elif pick == 1:
        carried = umbrella(rng, x, y)
    elif pick == 2:
        carried = transform_pieces(build_object(rng, artefacts.carton), x, y, _u(rng, 0.15, 0.35))
    elif pick == 3:  # surfboard, skis, plank
        carried = [
            Piece.from_outlines(
                (ellipse(x, y, 0.16, _u(rng, 0.7, 1.1), rotation=_u(rng, -0.6, 0.6), power=2.6),),
                (),
                material_slot("paint"),
            )
        ]
        carried += random_print(rng, (x - 0.12, y - 0.4, x + 0.12, y + 0.4))
    elif pick == 4:
        angle = _u(rng, 0.0, 2 * np.pi)
        tip = (x + 0.55 * np.cos(angle), y + 0.55 * np.sin(angle))
        carried = [Piece.from_outlines(stroke([(x, y), tip], 0.025, _u(rng, 0.02, 0.06)), (), material_slot("wood"))]
        if rng.random() < 0.5:
            head = ellipse(*tip, 0.2, 0.14, rotation=angle)
            carried.insert(
                0,
                Piece.from_outlines(
                    (head,),
                    (ellipse(*tip, 0.17, 0.11, rotation=angle),) if rng.random() < 0.5 else (),
                    material_slot("paint"),
                ),
            )
    elif pick == 5:
        carried = transform_pieces(figures.random_quadruped(rng), x + _u(rng, 0.5, 0.8), 0.72, _u(rng, 0.2, 0.4))
        lead = Piece.from_outlines(
            stroke([(x, y), (x + 0.2, 0.5), (x + 0.5, 0.6)], 0.012), (), material_slot("leather")
        )
        return [body, [lead, *carried]]
    else:
        carried = transform_pieces(build_object(rng, artefacts.screen), x, y, _u(rng, 0.08, 0.2))
    return [body, carried]


def bag(rng: np.random.Generator) -> list[Piece]:
    """A handbag, suitcase or shopping bag with handles."""
    half_width = _u(rng, 0.6, 1.1)
    handle = [(-half_width * 0.4, -0.7), (-half_width * 0.3, -1.2), (half_width * 0.3, -1.2), (half_width * 0.4, -0.7)]
    material = material_slot(str(rng.choice(["leather", "pattern", "cloth", "paper"])))
    pieces = [Piece.from_outlines(stroke(handle, 0.06), (), material_slot("leather", 1), True)]
    pieces.append(
        Piece.from_outlines(
            (
                smooth(
                    polygon((-half_width * 0.8, -0.7), (half_width * 0.8, -0.7), (half_width, 0.7), (-half_width, 0.7)),
                    1,
                ),
            ),
            (),
            material,
        )
    )
    if rng.random() < 0.5:
        pieces.append(
            Piece.from_outlines((box(-9, -0.9, 9, _u(rng, -0.5, 0.1)),), (), material_slot("leather", 1), True, True)
        )
    if rng.random() < 0.5:
        pieces += random_print(rng, (-half_width * 0.5, -0.3, half_width * 0.5, 0.5))
    return pieces


def umbrella(rng: np.random.Generator, x: float, y: float) -> list[Piece]:
    """An open umbrella whose grip is at (x, y)."""
    half_width, top = _u(rng, 0.5, 0.9), y - _u(rng, 0.8, 1.1)
    angle = np.linspace(np.pi, 2 * np.pi, 20)
    dome = np.stack([x + half_width * np.cos(angle), top + 0.6 * half_width * np.sin(angle)], axis=1).astype(np.float32)
    pieces = [
        Piece.from_outlines(stroke([(x, y), (x, top)], 0.018), (), material_slot("metal")),
        Piece.from_outlines((dome,), (), material_slot("cloth")),
    ]
    for k in range(-1, 2):
        if rng.random() < 0.7:
            rib = polygon(
                (x, top - 0.6 * half_width),
                (x + half_width * (0.33 * k - 0.14), top),
                (x + half_width * (0.33 * k + 0.14), top),
            )
            pieces.append(Piece.from_outlines((rib,), (), material_slot("cloth", 1), True, True))
    return pieces


def sitter(rng: np.random.Generator) -> ObjectPieces:
    """One or two people, or a pet, on a chair, bench or sofa."""
    seat = place_on_ground(
        build_object(rng, artefacts.sofa) if rng.random() < 0.5 else build_object(rng, artefacts.furniture),
        0.0,
        0.5,
        1.6,
        1.2,
    )
    left, top, right, bottom = bounding_box(seat)
    level = top + (bottom - top) * _u(rng, 0.45, 0.6)
    if rng.random() < 0.3:
        return [seat, place_on_ground(figures.resting_animal(rng), _u(rng, -0.3, 0.3), level, 0.9, 0.6)]
    result: ObjectPieces = [seat]
    for x in (0.0,) if rng.random() < 0.7 else (left * 0.5, right * 0.5):
        figure = figures.person(rng, "sit")
        result.append(
            transform_pieces(figure.pieces, x, level - 0.06, _u(rng, 0.8, 1.0), flip=bool(rng.random() < 0.5))
        )
    return result


def gathering(rng: np.random.Generator) -> ObjectPieces:
    """A few people or animals close together, side by side or partly in front of each other."""
    animals = rng.random() < 0.35
    x, result = 0.0, []
    for _ in range(int(rng.integers(2, 5))):
        pieces = figures.random_quadruped(rng) if animals else figures.random_person(rng)
        height = _u(rng, 0.7, 1.0) if animals else _u(rng, 0.85, 1.0)
        placed = place_on_ground(pieces, x, _u(rng, 0.0, 0.06), 1.4 if animals else 1.0, height)
        left, _, right, _ = bounding_box(placed)
        result.append(transform_pieces(placed, 0, 0, 1.0))
        x += (right - left) * _u(rng, 0.45, 0.8)
    return result


def loaded_vehicle(rng: np.random.Generator) -> ObjectPieces:
    """A vehicle with a load on it or a person in front of it."""
    car = build_object(rng, artefacts.vehicle)
    if rng.random() < 0.5:
        figure = place_on_ground(figures.random_person(rng), _u(rng, -0.8, 0.8), 0.55, 1.0, _u(rng, 0.9, 1.3))
        return [car, figure]
    left, top, right, _ = bounding_box(car)
    load = place_on_ground(
        build_object(rng, artefacts.carton) if rng.random() < 0.5 else bag(rng),
        (left + right) / 2,
        top + 0.04,
        0.6,
        0.4,
    )
    return [load, car]
