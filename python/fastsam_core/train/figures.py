"""Jointed figures for generated scenes: people in clothes and four-legged animals, in many poses.

Both combine materials of several colours (skin, hair, cloth, coat), so that the model learns that one object may have
several. y points down; a person's hip is at the origin, and a length of 1 is about half a person's height.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import numpy as np

from .material_kinds import material_slot
from .primitives import Outline, blob, box, ellipse, polygon, smooth, stroke
from .primitives import uniform as _u
from .prints import random_print
from .shapes import Piece

Point = tuple[float, float]


def _point_from(start: Point, angle: float, length: float) -> Point:
    """Return the point at distance `length` from `start`. angle: in radians, from straight down towards +x."""
    return start[0] + length * sin(angle), start[1] + length * cos(angle)


@dataclass(frozen=True)
class Figure:
    """A person's pieces in painting order, and the positions of the hands."""

    pieces: list[Piece]
    hands: tuple[Point, Point]


POSES = ("stand", "walk", "sit", "ride", "straddle", "reach", "crouch")


def _pose(rng: np.random.Generator, pose: str) -> tuple[float, list[tuple[float, float]], list[tuple[float, float]]]:
    """Return random angles in radians for a pose: the lean of the trunk, a pair per leg and a pair per arm.

    The pairs are (thigh's angle, knee's bend) and (upper arm's angle, elbow's bend).
    """
    hang = [(_u(rng, -0.35, 0.35), _u(rng, 0.0, 0.6)) for _ in range(2)]
    if rng.random() < 0.35:  # a hand raised, on the hip, or before the chest
        hang[1] = (_u(rng, 0.2, 2.6), _u(rng, 0.2, 1.8))
    if pose == "walk":
        swing = _u(rng, 0.2, 0.75)
        return (
            _u(rng, 0.0, 0.25),
            [(-swing, _u(rng, 0.2, 0.9)), (swing, _u(rng, 0.0, 0.4))],
            [
                (swing * 0.8, _u(rng, 0.1, 1.4)),
                (-swing * 0.8, _u(rng, 0.1, 1.2)),
            ],
        )
    if pose == "sit":
        knee = _u(rng, 1.2, 1.7)
        legs = [(_u(rng, 1.3, 1.6), knee), (_u(rng, 1.3, 1.6), knee + _u(rng, -0.3, 0.2))]
        return _u(rng, -0.25, 0.3), legs, [(_u(rng, 0.2, 1.0), _u(rng, 0.2, 1.4)) for _ in range(2)]
    if pose == "ride":
        lean, arm = _u(rng, 0.15, 0.7), _u(rng, 0.7, 1.1)
        return (
            lean,
            [(_u(rng, 0.5, 0.9), _u(rng, 0.6, 1.0)), (_u(rng, 0.9, 1.3), _u(rng, 1.0, 1.5))],
            [(arm, _u(rng, 0.1, 0.5))] * 2,
        )
    if pose == "straddle":
        return (
            _u(rng, -0.1, 0.3),
            [(_u(rng, 0.5, 0.9), _u(rng, 0.7, 1.1))] * 2,
            [(_u(rng, 0.4, 0.8), _u(rng, 0.5, 1.0))] * 2,
        )
    if pose == "reach":
        up = _u(rng, 1.2, 2.9)
        return (
            _u(rng, -0.3, 0.4),
            [(_u(rng, -0.5, 0.0), _u(rng, 0.0, 0.5)), (_u(rng, 0.0, 0.5), _u(rng, 0.0, 0.5))],
            [(_u(rng, -0.8, 0.8), _u(rng, 0.0, 1.0)), (up, _u(rng, 0.0, 0.6))],
        )
    if pose == "crouch":
        return (
            _u(rng, 0.2, 0.9),
            [(_u(rng, 1.5, 2.1), _u(rng, 2.0, 2.6))] * 2,
            [(_u(rng, 0.3, 1.4), _u(rng, 0.0, 1.0)) for _ in range(2)],
        )
    spread = _u(rng, 0.0, 0.25)
    return (
        _u(rng, -0.06, 0.06),
        [(-spread, _u(rng, -0.05, 0.15)), (spread, _u(rng, -0.05, 0.15))],
        [(-abs(hang[0][0]), -hang[0][1] * 0.5), hang[1]],
    )


def person(rng: np.random.Generator, pose: str | None = None) -> Figure:
    """Return a person in clothes. pose: one of `POSES`; None draws one."""
    pose = pose or str(rng.choice(POSES, p=[0.36, 0.2, 0.14, 0.02, 0.02, 0.16, 0.1]))
    lean, legs, arms = _pose(rng, pose)
    front = pose in ("stand", "reach") and rng.random() < 0.75
    build = _u(rng, 0.85, 1.3)
    shoulder = (0.2 if front else 0.1) * build
    hip = (0.12 if front else 0.05) * build
    thigh, shin, trunk = _u(rng, 0.42, 0.5), _u(rng, 0.42, 0.5), _u(rng, 0.52, 0.62)
    leg, arm = 0.085 * build * _u(rng, 0.9, 1.3), 0.055 * build * _u(rng, 0.9, 1.2)
    skin, shoe = material_slot("skin"), material_slot("shoe")
    top = material_slot("pattern" if rng.random() < 0.35 else "cloth")
    trousers = top if rng.random() < 0.12 else material_slot("denim" if rng.random() < 0.7 else "cloth", 1)
    shorts, short_sleeves, skirt = rng.random() < 0.25, rng.random() < 0.45, rng.random() < 0.15
    neck = _point_from((0.0, 0.0), np.pi - lean, trunk)

    below: list[Outline] = []
    bare: list[Outline] = []
    shoes: list[Outline] = []
    for side, (angle, bend) in zip((-1.0, 1.0), legs, strict=True):
        start = (side * hip, 0.0)
        knee = _point_from(start, angle, thigh)
        ankle = _point_from(knee, angle - bend, shin)
        toe = (ankle[0] + (side * _u(rng, 0.02, 0.1) if front else 0.15), ankle[1] + 0.04)
        below += stroke([start, knee], leg * 1.3, leg)
        (bare if shorts or skirt else below).extend(stroke([knee, ankle], leg * 0.95, leg * 0.62))
        shoes += stroke([(ankle[0], ankle[1] + 0.03), toe], leg * 0.75, leg * 0.6)
    below.append(ellipse(0, 0, hip + leg * 1.2, leg * 1.5))
    limbs: list[tuple[list[Outline], list[Outline], Point]] = []
    for side, (angle, bend) in zip((-1.0, 1.0), arms, strict=True):
        start = (neck[0] + side * shoulder * 0.95, neck[1] + 0.06)
        elbow = _point_from(start, angle, 0.3)
        hand = _point_from(elbow, angle + bend, 0.28)
        sleeve, flesh = list(stroke([start, elbow], arm * 1.25, arm)), [ellipse(*hand, arm * 1.05, arm * 1.2)]
        (flesh if short_sleeves else sleeve).extend(stroke([elbow, hand], arm * 0.95, arm * 0.75))
        limbs.append((sleeve, flesh, hand))

    pieces: list[Piece] = []
    if rng.random() < 0.12:  # a rucksack
        pieces.append(
            Piece.from_outlines((ellipse(neck[0] - shoulder - 0.05, neck[1] + 0.25, 0.14, 0.24, power=3),), (), 3, True)
        )

    def arm_pieces(which: int) -> list[Piece]:
        sleeve, flesh, _ = limbs[which]
        return [Piece.from_outlines(flesh, (), skin, True), Piece.from_outlines(sleeve, (), top, True)]

    pieces += arm_pieces(0)
    if bare:
        pieces.append(Piece.from_outlines(bare, (), skin, True))
    pieces.append(Piece.from_outlines(shoes, (), shoe, True))
    pieces.append(Piece.from_outlines(below, (), trousers, True))
    if skirt:
        hem_width, hem = hip + leg + _u(rng, 0.08, 0.3), _u(rng, 0.3, 0.8)
        pieces.append(
            Piece.from_outlines(
                (polygon((-hip - leg, -0.08), (hip + leg, -0.08), (hem_width, hem), (-hem_width, hem)),),
                (),
                trousers,
                True,
            )
        )
    waist = hip + leg * 1.15
    across = (cos(lean), sin(lean))
    torso = polygon(
        (neck[0] - shoulder * across[0], neck[1] - shoulder * across[1] + 0.03),
        (neck[0] + shoulder * across[0], neck[1] + shoulder * across[1] + 0.03),
        (waist * 1.05, _u(rng, 0.0, 0.1)),
        (-waist * 1.05, _u(rng, 0.0, 0.1)),
    )
    chest = (neck[0], neck[1] + 0.1)
    trunk_lines = [smooth(torso, 1), *stroke([chest, (0.0, -0.06)], shoulder * 0.95, waist * 0.95)]
    pieces.append(Piece.from_outlines(trunk_lines, (), top, True))
    middle = (neck[0] * 0.5, neck[1] * 0.55)
    if rng.random() < 0.3:  # an open jacket, sometimes with a tie
        hem_width = shoulder * _u(rng, 0.2, 0.5)
        pieces.append(
            Piece.from_outlines(
                (
                    polygon(
                        (neck[0] - hem_width, neck[1]),
                        (neck[0] + hem_width, neck[1]),
                        (hem_width, 0.0),
                        (-hem_width, 0.0),
                    ),
                ),
                (),
                material_slot("cloth", 2),
                True,
                True,
            )
        )
        if rng.random() < 0.4:
            pieces.append(
                Piece.from_outlines(stroke([neck, middle], 0.02, 0.035), (), material_slot("paint", 2), False, True)
            )
    elif rng.random() < 0.4:
        half_width = max(shoulder, 0.12) * 0.7
        pieces += random_print(
            rng, (middle[0] - half_width, middle[1] - half_width, middle[0] + half_width, middle[1] + half_width * 0.8)
        )
    if rng.random() < 0.25:
        pieces.append(Piece.from_outlines((box(-0.5, -0.04, 0.5, 0.02),), (), material_slot("leather"), False, True))
    pieces += head(rng, (neck[0] + 0.05 * sin(lean), neck[1]), front)
    return Figure([*pieces, *arm_pieces(1)], (limbs[0][2], limbs[1][2]))


def head(rng: np.random.Generator, neck: Point, front: bool) -> list[Piece]:
    """Return neck, face, hair and sometimes a hat above the point `neck`. front: seen from the front, not the side."""
    skin, hair = material_slot("skin"), material_slot("hair")
    x, y, size = neck[0] + _u(rng, -0.03, 0.05), neck[1] - 0.18, 0.125
    pieces = []
    long_hair = rng.random() < 0.35
    if long_hair:
        pieces.append(
            Piece.from_outlines(
                (ellipse(x - (0 if front else 0.05), y + 0.06, size * 1.1, size * _u(rng, 1.2, 2.0)),),
                (),
                hair,
                True,
            )
        )
    face = [ellipse(x, y, size * 0.85, size * 1.12), *stroke([neck, (x, y)], size * 0.5)]
    if not front:
        face.append(ellipse(x + size * 0.85, y + size * 0.1, size * 0.2, size * 0.2))
    pieces.append(Piece.from_outlines(face, (), skin, True))
    rotation = 0.0 if front else size * 0.4
    pieces.append(
        Piece.from_outlines(
            (ellipse(x - rotation * 0.8, y - size * _u(rng, 0.45, 0.75), size * 0.95, size * 0.72),), (), hair, True
        )
    )
    if rng.random() < 0.85:  # eyes, mouth
        eyes = [
            ellipse(x + rotation + side * size * 0.35, y - 0.05 * 0.4, size * 0.13, size * 0.09, n=10)
            for side in ((-1.0, 1.0) if front else (0.7,))
        ]
        pieces.append(Piece.from_outlines(eyes, (), material_slot("ink"), False, True))
        pieces.append(
            Piece.from_outlines(
                (ellipse(x + rotation * 1.3, y + size * 0.55, size * 0.26, size * 0.07, n=12),),
                (),
                material_slot("fruit"),
                False,
                True,
            )
        )
    if rng.random() < 0.15:  # a beard
        pieces.append(
            Piece.from_outlines(
                (ellipse(x + rotation, y + size * 0.85, size * 0.6, size * 0.45),), (), hair, False, True
            )
        )
    if rng.random() < 0.25:
        hat = [ellipse(x - rotation * 0.4, y - size * 0.7, size * 1.02, size * _u(rng, 0.6, 0.9))]
        brim = _u(rng, 1.0, 1.9)
        hat.append(ellipse(x + rotation * 1.5, y - size * 0.62, size * brim, size * 0.14))
        pieces.append(Piece.from_outlines(hat, (), material_slot("cloth", 3), True))
    if rng.random() < 0.15:
        glasses = [ellipse(x + rotation + side * size * 0.4, y, size * 0.3, size * 0.22, n=14) for side in (-1.0, 1.0)]
        pieces.append(Piece.from_outlines(glasses, (), material_slot("tyre"), False, True))
    return pieces


def random_person(rng: np.random.Generator) -> list[Piece]:
    """Return the pieces of a whole person."""
    return person(rng).pieces


def close_person(rng: np.random.Generator) -> list[Piece]:
    """Return a person's head and upper body, without the pieces that lie entirely below the hip."""
    figure = person(rng, "reach" if rng.random() < 0.4 else "stand")
    return [piece for piece in figure.pieces if piece.outline_points[:, 1].min() < 0.0]


def quadruped(rng: np.random.Generator) -> tuple[list[Piece], Point]:
    """Return a four-legged animal with a coat, and the point where a rider would sit.

    Its proportions range from cat to giraffe. It stands, walks or grazes.
    """
    coat = material_slot(str(rng.choice(["fur", "coat", "hide"], p=[0.5, 0.3, 0.2])))
    second_colour = material_slot("fur", 1)
    half_length, half_height = _u(rng, 0.55, 0.85), _u(rng, 0.24, 0.4)
    leg, leg_radius = _u(rng, 0.25, 0.95), _u(rng, 0.05, 0.11)
    reach, rise = _u(rng, 0.1, 0.7), _u(rng, -0.5, 1.4)
    if rng.random() < 0.12:  # a long neck
        reach, rise = _u(rng, 0.4, 0.8), _u(rng, 1.2, 1.9)
    swing = _u(rng, 0.0, 0.4) if rng.random() < 0.6 else 0.05

    def limb(x: float, angle: float, thickness: float) -> tuple[Outline, ...]:
        knee = _point_from((x, half_height * 0.3), angle, half_height * 0.7 + leg * 0.45)
        foot = _point_from(knee, angle - _u(rng, -0.1, 0.4), leg * 0.55)
        return (
            *stroke([(x, half_height * 0.2), knee, foot], leg_radius * thickness, leg_radius * 0.75),
            *stroke([foot, (foot[0] + leg_radius * 0.8, foot[1])], leg_radius * 0.85),
        )

    far_legs = [*limb(-half_length * 0.72, -swing, 1.8), *limb(half_length * 0.72, swing, 1.5)]
    near_legs = [*limb(-half_length * 0.62, swing * 0.8, 2.0), *limb(half_length * 0.6, -swing * 0.7, 1.7)]
    pieces = [Piece.from_outlines(far_legs, (), coat)]
    tail = [
        (-half_length, -half_height * 0.4),
        (-half_length - _u(rng, 0.1, 0.3), _u(rng, -0.5, 0.3)),
        (-half_length - _u(rng, 0.0, 0.5), _u(rng, -0.7, 0.7)),
    ]
    pieces.append(Piece.from_outlines(stroke(tail, leg_radius * 0.7, leg_radius * _u(rng, 0.3, 1.2)), (), coat))
    body = [
        ellipse(0, 0, half_length, half_height, rotation=_u(rng, -0.12, 0.12), power=2.4),
        ellipse(half_length * 0.6, -0.02, half_height * 1.05, half_height * 1.08),
        ellipse(-half_length * 0.6, -0.02, half_height, half_height * 1.05),
    ]
    pieces.append(Piece.from_outlines(body, (), coat))
    size = _u(rng, 0.14, 0.26)
    skull = (half_length + reach, -half_height * 0.6 - rise * 0.5)
    throat = (half_length * 0.72, -half_height * 0.35)
    pieces.append(Piece.from_outlines(stroke([throat, skull], half_height * 0.75, size * 0.75), (), coat))
    if rng.random() < 0.3:  # a mane
        mane = [(throat[0] - 0.1, throat[1] - half_height * 0.5), (skull[0] - size * 0.7, skull[1] - size * 0.6)]
        pieces.append(
            Piece.from_outlines(stroke(mane, half_height * 0.35, size * 0.4), (), material_slot("hair"), True)
        )
    pieces.append(Piece.from_outlines(near_legs, (), coat))
    if rng.random() < 0.45:  # patches of another colour, part of the same animal
        patches = [
            (
                blob(rng) * _u(rng, 0.08, 0.3)
                + [_u(rng, -half_length, half_length), _u(rng, -half_height, half_height)]
            ).astype(np.float32)
            for _ in range(int(rng.integers(1, 7)))
        ]
        pieces.append(Piece.from_outlines(patches, (), second_colour, False, True))
    if rng.random() < 0.35:
        pieces.append(
            Piece.from_outlines(
                (ellipse(0, half_height * 0.95, half_length * 0.9, half_height * 0.5),), (), second_colour, False, True
            )
        )
    if rng.random() < 0.3:  # socks
        pieces.append(
            Piece.from_outlines((box(-3, half_height * 0.6 + leg * 0.6, 3, 9),), (), second_colour, False, True)
        )
    droop = _u(rng, 0.1, 0.9)
    muzzle = _point_from(skull, np.pi / 2 - droop, size * _u(rng, 0.9, 1.7))
    ear = _u(rng, 0.5, 1.6)
    ears: list[Outline] = []
    for shift in (-0.55, -0.15):
        base = (skull[0] + shift * size, skull[1] - size * 0.5)
        ears += stroke([base, (base[0] - 0.25 * size, base[1] - size * ear * 0.8)], size * 0.32, size * 0.1)
    if rng.random() < 0.15:
        ears += stroke([(skull[0], skull[1]), (skull[0] + 0.2 * size, skull[1] - 2.2 * size)], size * 0.12, size * 0.05)
    face = [ellipse(*skull, size, size * 0.9), *stroke([skull, muzzle], size * 0.75, size * 0.42)]
    pieces.append(Piece.from_outlines([*ears, *face], (), coat, True))
    pieces.append(
        Piece.from_outlines(
            (ellipse(*muzzle, size * 0.5, size * 0.4),),
            (),
            second_colour if rng.random() < 0.5 else material_slot("horn"),
            False,
            True,
        )
    )
    pieces.append(
        Piece.from_outlines(
            (ellipse(skull[0] + size * 0.3, skull[1] - size * 0.2, size * 0.14, size * 0.12, n=12),),
            (),
            material_slot("tyre"),
            False,
            True,
        )
    )
    if rng.random() < 0.15:
        pieces.append(
            Piece.from_outlines(
                stroke([throat, (throat[0] + 0.3 * (skull[0] - throat[0]), throat[1] + half_height * 0.5)], 0.03),
                (),
                material_slot("paint"),
                False,
                True,
            )
        )
    return pieces, (0.0, -half_height * 0.9)


def random_quadruped(rng: np.random.Generator) -> list[Piece]:
    """Return the pieces of a four-legged animal."""
    return quadruped(rng)[0]


def resting_animal(rng: np.random.Generator) -> list[Piece]:
    """Return a lying or sitting animal, like a cat or dog."""
    coat, second_colour = material_slot(str(rng.choice(["fur", "coat"], p=[0.8, 0.2]))), material_slot("fur", 1)
    size = _u(rng, 0.22, 0.34)
    upright = rng.random() < 0.5
    if upright:
        skull: Point = (_u(rng, -0.15, 0.25), -1.0)
        body = [ellipse(-0.05, 0.35, 0.5, 0.55), *stroke([(0.0, 0.2), (skull[0] * 0.6, -0.6)], 0.4, 0.26)]
        legs = [
            *stroke([(0.12, -0.2), (0.2, 0.85)], 0.13, 0.11),
            *stroke([(0.3, -0.1), (0.42, 0.85)], 0.12, 0.11),
            *stroke([(-0.1, 0.75), (0.25, 0.88)], 0.16, 0.09),
        ]
    else:
        skull = (0.95, -_u(rng, 0.1, 0.5))
        body = [ellipse(0, 0.1, 0.9, 0.38, power=2.3), *stroke([(0.6, 0.05), skull], 0.3, 0.2)]
        legs = [*stroke([(0.5, 0.35), (1.15, 0.45)], 0.12, 0.09), *stroke([(-0.6, 0.3), (-0.2, 0.46)], 0.2, 0.09)]
    tail = [(-0.5, 0.6 if upright else 0.2), (-1.0, _u(rng, 0.0, 0.8)), (-_u(rng, 0.7, 1.3), _u(rng, -0.3, 0.8))]
    pieces = [
        Piece.from_outlines(stroke(tail, 0.1, 0.06), (), coat),
        Piece.from_outlines(body, (), coat),
        Piece.from_outlines(legs, (), coat),
    ]
    if rng.random() < 0.5:
        patches = [(blob(rng) * _u(rng, 0.1, 0.4) + rng.uniform(-0.6, 0.6, 2)).astype(np.float32) for _ in range(3)]
        pieces.append(Piece.from_outlines(patches, (), second_colour, False, True))
    ears = [
        polygon(
            (skull[0] + s * size, skull[1] - 0.3 * size),
            (skull[0] + s * size * 0.8, skull[1] - size * _u(rng, 1.1, 1.6)),
            (skull[0] + s * size * 0.1, skull[1] - size * 0.7),
        )
        for s in (-0.9, 0.9)
    ]
    pieces.append(Piece.from_outlines([*ears, ellipse(*skull, size, size * 0.88)], (), coat, True))
    pieces.append(
        Piece.from_outlines(
            (ellipse(skull[0], skull[1] + size * 0.4, size * 0.5, size * 0.36),), (), second_colour, False, True
        )
    )
    eyes = [
        ellipse(skull[0] + s * size * 0.4, skull[1] - size * 0.1, size * 0.13, size * 0.12, n=12) for s in (-1.0, 1.0)
    ]
    pieces.append(
        Piece.from_outlines(
            [*eyes, ellipse(skull[0], skull[1] + size * 0.28, size * 0.15, size * 0.1, n=12)],
            (),
            material_slot("tyre"),
            False,
            True,
        )
    )
    return pieces
