"""Animals, people and plants for generated scenes, in a simple pose and materials; `figures` has jointed ones.

They need not be recognisable: they give the model silhouettes with limbs, leaves and parts of other materials. Each
maker takes the generator and returns pieces in painting order, y pointing down.
"""

from __future__ import annotations

import numpy as np

from .primitives import Outline, blob, box, ellipse, foliage, polygon, smooth, stroke
from .primitives import uniform as _u
from .shapes import Piece, make_piece


def animal(rng: np.random.Generator) -> list[Piece]:
    """A four-legged animal in one material, with head, ears, legs and tail; sometimes with a patch."""
    half_length, half_height, leg = _u(rng, 0.6, 1.0), _u(rng, 0.25, 0.5), _u(rng, 0.3, 0.9)
    limb_radius = _u(rng, 0.06, 0.14)
    lines: list[Outline] = [
        ellipse(0, 0, half_length, half_height, rotation=_u(rng, -0.15, 0.15), power=_u(rng, 1.9, 3.0))
    ]
    for x in (-0.75 * half_length, -0.5 * half_length, 0.5 * half_length, 0.75 * half_length):
        knee = x + _u(rng, -0.15, 0.15)
        lines += stroke(
            [(x, 0.1), (knee, half_height * 0.6 + leg / 2), (x + _u(rng, -0.2, 0.2), half_height * 0.6 + leg)],
            limb_radius * 1.5,
            limb_radius,
        )
    head = (half_length + _u(rng, 0.0, 0.35), -half_height - _u(rng, -0.1, 0.7))
    lines += stroke([(0.7 * half_length, -0.1), head], half_height * 0.7, _u(rng, 0.1, 0.25))
    size = _u(rng, 0.18, 0.34)
    lines.append(ellipse(*head, size, size * _u(rng, 0.7, 1.0)))
    lines += stroke([head, (head[0] + size * 1.3, head[1] + size * 0.4)], size * 0.6, size * 0.4)
    for shift in (-0.6, 0.1):
        lines += stroke([head, (head[0] + shift * size, head[1] - size * _u(rng, 1.1, 2.0))], size * 0.35, size * 0.1)
    tail = [
        (-0.9 * half_length, -0.1),
        (-half_length - 0.25, _u(rng, -0.5, 0.4)),
        (-half_length - _u(rng, 0.1, 0.6), _u(rng, -0.8, 0.8)),
    ]
    lines += stroke(tail, limb_radius, limb_radius * 0.6)
    pieces = [make_piece(*lines)]
    if rng.random() < 0.4:
        patch = blob(rng) * _u(rng, 0.25, 0.5) + np.array([_u(rng, -0.5, 0.5), _u(rng, -0.2, 0.2)], np.float32)
        pieces.append(make_piece(patch.astype(np.float32), slot=1, part=True, clip=True))
    return pieces


def person(rng: np.random.Generator) -> list[Piece]:
    """A person with legs, torso, arms, head and usually hair, mostly in different materials."""
    hip, chest, limb_radius = _u(rng, 0.16, 0.26), _u(rng, 0.2, 0.34), _u(rng, 0.06, 0.11)
    pieces: list[Piece] = []
    legs: list[Outline] = [ellipse(0, 0.1, hip, 0.18)]
    for side in (-1.0, 1.0):
        foot = side * _u(rng, 0.05, 0.45)
        legs += stroke(
            [(side * hip * 0.55, 0.1), ((foot + side * hip) / 2, 0.6), (foot, 1.1)], limb_radius * 1.5, limb_radius
        )
        legs += stroke([(foot, 1.12), (foot + _u(rng, -0.15, 0.15), 1.14)], limb_radius * 0.9)
    pieces.append(make_piece(*legs, slot=2, part=True))
    for side in (-1.0, 1.0):
        elbow = (side * (chest + _u(rng, 0.05, 0.35)), _u(rng, -0.6, 0.0))
        hand = (elbow[0] + _u(rng, -0.3, 0.3), elbow[1] + _u(rng, -0.4, 0.4))
        pieces.append(
            make_piece(
                *stroke([(side * chest * 0.85, -0.5), elbow, hand], limb_radius * 1.1, limb_radius * 0.8),
                slot=int(rng.choice([0, 1])),
                part=True,
            )
        )
    torso = polygon((-chest, -0.6), (chest, -0.6), (hip * 1.05, 0.15), (-hip * 1.05, 0.15))
    pieces.append(make_piece(smooth(torso, 2), ellipse(0, -0.45, chest, 0.18), box(-hip, -0.4, hip, 0.14), part=True))
    x, size = _u(rng, -0.06, 0.06), _u(rng, 0.14, 0.2)
    head = ellipse(x, -0.88, size * 0.85, size * 1.1)
    pieces.append(make_piece(head, *stroke([(0, -0.6), (x, -0.8)], 0.07), slot=1, part=True))
    if rng.random() < 0.8:
        pieces.append(make_piece(ellipse(x, -0.88 - size * 0.5, size * 0.95, size * 0.75), slot=3, part=True))
    return pieces


def bust(rng: np.random.Generator) -> list[Piece]:
    """Head and shoulders of a person seen close."""
    half_width, half_height = _u(rng, 0.38, 0.5), _u(rng, 0.5, 0.62)
    pieces = []
    if rng.random() < 0.7:
        pieces.append(
            make_piece(ellipse(0, -0.4, half_width * 1.25, half_height * _u(rng, 1.1, 1.7)), slot=2, part=True)
        )
    pieces.append(
        make_piece(ellipse(0, 1.15, _u(rng, 0.85, 1.15), 0.6, power=2.6), box(-0.8, 1.2, 0.8, 1.7), part=True)
    )
    pieces.append(
        make_piece(
            *stroke([(0, 0.0), (0, 0.55)], half_width * 0.55),
            ellipse(0, -0.3, half_width, half_height, power=2.2),
            slot=1,
            part=True,
        )
    )
    fringe = [
        (-1.0, -2.0),
        (1.0, -2.0),
        (1.0, -0.3 - half_height * 0.6),
        (0.0, -0.3 - half_height * _u(rng, 0.3, 0.7)),
        (-1.0, -0.3 - half_height * 0.6),
    ]
    pieces.append(make_piece(polygon(*fringe), slot=2, part=True, clip=True))
    for side in (-1.0, 1.0):
        pieces.append(make_piece(ellipse(side * half_width * 0.42, -0.33, 0.09, 0.05), slot=3, clip=True))
    pieces.append(make_piece(ellipse(0, -0.02, 0.16, 0.05), slot=4, clip=True))
    return pieces


def bird(rng: np.random.Generator) -> list[Piece]:
    """A slender body with wings, tail and beak: bird, fish or plane."""
    half_height = _u(rng, 0.16, 0.4)
    lines = [
        ellipse(0, 0, 0.8, half_height),
        polygon((-0.6, 0), (-1.25, -_u(rng, 0.15, 0.5)), (-1.05, 0), (-1.25, _u(rng, 0.0, 0.5))),
    ]
    head = (0.72, -_u(rng, 0.0, 0.35))
    lines += [
        ellipse(*head, 0.24, 0.22),
        polygon((head[0] + 0.1, head[1] - 0.1), (head[0] + 0.5, head[1]), (head[0] + 0.1, head[1] + 0.1)),
    ]
    if rng.random() < 0.5:
        lines += [smooth(polygon((0.3, 0), (_u(rng, -0.5, 0.2), -_u(rng, 0.6, 1.3)), (-0.4, 0)), 1)]
    wing = ellipse(-0.15, 0.02, 0.45, half_height * 0.55, rotation=_u(rng, -0.2, 0.3))
    return [make_piece(*lines), make_piece(wing, slot=1, part=True, clip=True)]


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
        return [make_piece(*lines, slot=1), make_piece(*tiers, part=True)]
    return [make_piece(*lines, slot=1), make_piece(*foliage(rng, y=-0.5, rx=crown, ry=_u(rng, 0.5, 0.8)), part=True)]


def flower(rng: np.random.Generator) -> list[Piece]:
    """Petals around a centre, sometimes on a stem with leaves."""
    count, petal_length = int(rng.integers(5, 13)), _u(rng, 0.5, 0.7)
    pieces = []
    if rng.random() < 0.6:
        stem = list(stroke([(0, 0), (_u(rng, -0.2, 0.2), 1.0), (0, 2.0)], 0.06))
        stem.append(ellipse(0.3, 1.3, 0.35, 0.12, rotation=_u(rng, -0.9, -0.2)))
        pieces.append(make_piece(*stem, slot=1, part=True))
    petals = [
        ellipse(
            petal_length * np.cos(a),
            petal_length * np.sin(a),
            petal_length * 0.6,
            petal_length * _u(rng, 1.2, 2.6) / count + 0.05,
            rotation=float(a),
            n=24,
        )
        for a in np.arange(count) * 2 * np.pi / count
    ]
    pieces.append(make_piece(*petals, ellipse(rx=0.35, ry=0.35), part=True))
    size = _u(rng, 0.15, 0.4)
    return [*pieces, make_piece(ellipse(rx=size, ry=size), slot=2, part=True)]


def potted_plant(rng: np.random.Generator) -> list[Piece]:
    """A pot with a bundle of blades or a bush."""
    if rng.random() < 0.5:
        top: list[Outline] = list(foliage(rng, y=-0.5, rx=_u(rng, 0.4, 0.8), ry=_u(rng, 0.4, 0.7)))
    else:
        top = []
        for x in rng.uniform(-0.9, 0.9, int(rng.integers(5, 12))):
            top += stroke([(x * 0.2, 0.2), (x * 0.6, -0.4), (float(x), _u(rng, -1.2, -0.4))], 0.08, 0.02)
    pot = polygon((-0.42, 0.1), (0.42, 0.1), (0.3, 0.85), (-0.3, 0.85))
    return [make_piece(*top, part=True), make_piece(pot, box(-0.46, 0.05, 0.46, 0.2), slot=1, part=True)]


def fruit(rng: np.random.Generator) -> list[Piece]:
    """A round fruit with a stem, sometimes with a leaf."""
    body = (blob(rng, rough=0.12, waves=4) * 0.8).astype(np.float32)
    pieces = [make_piece(*stroke([(0, -0.6), (_u(rng, -0.15, 0.15), -1.05)], 0.05), slot=1), make_piece(body)]
    if rng.random() < 0.4:
        pieces.append(make_piece(ellipse(0.3, -0.85, 0.3, 0.12, rotation=-0.4), slot=2, part=True))
    return pieces
