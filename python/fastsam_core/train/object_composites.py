"""Composites of inanimate things: full dishes and bowls, bunches, stacks, shelves, heaps, a table with things on it.

Each maker returns the pieces of every object, from back to front, in common units.
"""

from __future__ import annotations

import numpy as np

from . import artefacts, organisms
from .catalogue import build_object
from .material_kinds import material_slot
from .placement import ObjectPieces, bounding_box, place_on_ground, transform_pieces
from .primitives import Outline, blob, box, ellipse, foliage, polygon, smooth, stroke
from .primitives import uniform as _u
from .prints import random_print
from .shapes import Piece


def dish(rng: np.random.Generator) -> ObjectPieces:
    """A plate, board or bowl seen obliquely from above, with food on it and sometimes a tool such as cutlery."""
    flatness, rim = _u(rng, 0.4, 1.0), _u(rng, 0.72, 0.9)
    round_ = rng.random() < 0.8
    power = 2.0 if round_ else 5.0
    material = material_slot(str(rng.choice(["ceramic", "ceramic", "wood", "metal", "paint", "pattern"])))
    plate = [Piece.from_outlines((ellipse(ry=flatness, power=power),), (), material)]
    if rng.random() < 0.7:
        plate.append(
            Piece.from_outlines(
                (ellipse(rx=rim, ry=rim * flatness, power=power),), (), material_slot("ceramic", 1), True, True
            )
        )
    result: ObjectPieces = [plate]
    if rng.random() < 0.25:  # a pizza, pie or omelette that fills it
        pie = [
            Piece.from_outlines(
                ((blob(rng, rough=0.06, waves=6) * [0.8, 0.8 * flatness]).astype(np.float32),),
                (),
                material_slot("bread"),
            )
        ]
        pie.append(Piece.from_outlines((ellipse(rx=0.66, ry=0.66 * flatness),), (), material_slot("food"), True, True))
        for k in range(int(rng.integers(1, 4))):
            spots = [
                (
                    blob(rng, n=18, waves=3) * _u(rng, 0.04, 0.13) * [1, flatness]
                    + rng.uniform(-0.5, 0.5, 2) * [1, flatness]
                ).astype(np.float32)
                for _ in range(int(rng.integers(3, 14)))
            ]
            pie.append(Piece.from_outlines(spots, (), material_slot("food", 2 + k), False, True))
        result.append(pie)
    else:
        count = int(rng.integers(1, 7))
        for _ in range(count):
            size = _u(rng, 0.16, 0.42) if count > 2 else _u(rng, 0.3, 0.55)
            angle, distance = _u(rng, 0, 2 * np.pi), (rim - size) * np.sqrt(rng.random())
            food = transform_pieces(food_piece(rng), 0, 0, size, rotation=_u(rng, 0, 2 * np.pi))
            squeeze = np.array(
                [[1, 0, distance * np.cos(angle)], [0, 0.5 + 0.5 * flatness, distance * np.sin(angle) * flatness]],
                np.float32,
            )
            result.append([piece.transformed(squeeze) for piece in food])
    if rng.random() < 0.3:
        x, rotation = _u(rng, -0.4, 0.9), _u(rng, -0.5, 0.5)
        result.append(transform_pieces(build_object(rng, artefacts.tool), x, 0, _u(rng, 0.4, 0.7), rotation=rotation))
    return result


def full_bowl(rng: np.random.Generator) -> ObjectPieces:
    """A bowl, basket, box or pan with things lying in it."""
    depth, lip, taper = _u(rng, 0.3, 0.9), _u(rng, 0.12, 0.4), _u(rng, 0.5, 1.0)
    boxy = rng.random() < 0.4
    material = material_slot(str(rng.choice(["ceramic", "wood", "metal", "paint", "paper", "glass"])))
    rim = box(-1, -lip, 1, lip) if boxy else ellipse(rx=1, ry=lip)
    wall = polygon((-1, 0), (1, 0), (taper, depth), (-taper, depth))
    lines = [rim, wall if boxy else smooth(wall, 1)]
    vessel = [
        Piece.from_outlines(lines, (), material),
        Piece.from_outlines(
            (ellipse(rx=0.9, ry=lip * 0.85, power=6 if boxy else 2),), (), material_slot("ceramic", 1), True, True
        ),
    ]
    if rng.random() < 0.4:
        vessel += random_print(rng, (-0.5, lip + 0.05, 0.5, max(depth * 0.9, lip + 0.15)))
    identical = rng.random() < 0.6
    make_item = (lambda: build_object(rng, organisms.fruit)) if rng.random() < 0.5 else (lambda: food_piece(rng))
    sample = make_item()
    result: ObjectPieces = [vessel]
    for _ in range(int(rng.integers(2, 9))):
        size = _u(rng, 0.18, 0.4)
        item = transform_pieces(sample if identical else make_item(), 0, 0, size, rotation=_u(rng, -1, 1))
        bounds = bounding_box(item)
        x, y = _u(rng, -0.85 - bounds[0], 0.85 - bounds[2]), _u(rng, -lip * 0.5, lip * 0.7) - bounds[3]
        result.append(transform_pieces(item, x, y, 1.0))
    return result


def food_piece(rng: np.random.Generator) -> list[Piece]:
    """A piece of food around the origin: lump, slice, roll, floret, disc or strips, some with crust or topping."""
    pick = int(rng.integers(6))
    if pick == 0:
        lump = (blob(rng, rough=0.3) * 0.8).astype(np.float32)
        return [Piece.from_outlines((lump,), (), material_slot("food")), *_toppings(rng, material_slot("food", 1))]
    if pick == 1:  # a slice of bread or cake
        wedge = polygon((-1, 0.4), (0.9, -0.3), (1.0, 0.1), (-0.9, 0.8))
        side = polygon((-1, 0.4), (-0.1, -0.6), (0.9, -0.3))
        return [
            Piece.from_outlines((wedge,), (), material_slot("bread"), True),
            Piece.from_outlines((side,), (), material_slot("food"), True),
        ]
    if pick == 2:
        return [
            Piece.from_outlines((box(-1, -0.45, 1, 0.45, corner=0.4),), (), material_slot("bread")),
            Piece.from_outlines((box(-0.9, -0.12, 0.9, 0.12, corner=0.1),), (), material_slot("food"), True, True),
        ]
    if pick == 3:
        return [Piece.from_outlines(foliage(rng, ry=0.9), (), material_slot("leaf"))]
    if pick == 4:
        return [
            Piece.from_outlines((ellipse(rx=1, ry=_u(rng, 0.7, 1.0)),), (), material_slot("fruit")),
            Piece.from_outlines((ellipse(rx=0.75, ry=0.6),), (), material_slot("fruit", 1), True, True),
        ]
    strips: list[Outline] = []
    for _ in range(int(rng.integers(3, 9))):
        x, y, rotation = _u(rng, -0.6, 0.6), _u(rng, -0.5, 0.5), _u(rng, 0, np.pi)
        strips += stroke(
            [
                (x - 0.4 * np.cos(rotation), y - 0.4 * np.sin(rotation)),
                (x + 0.4 * np.cos(rotation), y + 0.4 * np.sin(rotation)),
            ],
            0.1,
        )
    return [Piece.from_outlines(strips, (), material_slot("food"))]


def _toppings(rng: np.random.Generator, slot: int) -> list[Piece]:
    dabs = [
        (blob(rng, n=16, waves=3) * _u(rng, 0.06, 0.2) + rng.uniform(-0.6, 0.6, 2)).astype(np.float32)
        for _ in range(int(rng.integers(0, 12)))
    ]
    return [Piece.from_outlines(dabs, (), slot, False, True)] if dabs else []


def vase(rng: np.random.Generator) -> ObjectPieces:
    """Flowers or twigs in a vase, jar or pot."""
    stems: list[Outline] = []
    blooms: list[list[Piece]] = []
    leaves: list[Outline] = []
    for _ in range(int(rng.integers(3, 9))):
        tip = (_u(rng, -0.9, 0.9), _u(rng, -1.4, -0.3))
        stems += stroke([(tip[0] * 0.15, 0.3), (tip[0] * 0.5, tip[1] * 0.4), tip], 0.03, 0.02)
        size = _u(rng, 0.16, 0.36)
        petals = [
            ellipse(
                tip[0] + size * 0.5 * np.cos(a),
                tip[1] + size * 0.5 * np.sin(a),
                size * 0.55,
                size * 0.4,
                rotation=float(a),
                n=16,
            )
            for a in np.arange(6) * np.pi / 3 + _u(rng, 0, 1)
        ]
        bloom = [Piece.from_outlines(petals, (), material_slot("petal", int(rng.integers(3))), True)]
        bloom.append(
            Piece.from_outlines((ellipse(*tip, size * 0.25, size * 0.22),), (), material_slot("petal", 4), False, True)
        )
        blooms.append(bloom)
        if rng.random() < 0.6:
            leaves.append(ellipse(tip[0] * 0.6, tip[1] * 0.3, 0.32, 0.1, rotation=_u(rng, -1.2, 1.2)))
    bunch = [Piece.from_outlines([*stems, *leaves], (), material_slot("leaf"))]
    bunch += [piece for bloom in blooms for piece in bloom]
    half_width, neck_width, height = _u(rng, 0.25, 0.5), _u(rng, 0.16, 0.4), _u(rng, 0.6, 1.2)
    outline = smooth(
        polygon(
            (-neck_width, 0.1),
            (neck_width, 0.1),
            (neck_width * 0.9, 0.25),
            (half_width, 0.15 + height * 0.5),
            (half_width * _u(rng, 0.5, 1.0), height + 0.1),
            (-half_width * 0.7, height + 0.1),
            (-half_width, 0.15 + height * 0.5),
            (-neck_width * 0.9, 0.25),
        ),
        2,
    )
    pot = [
        Piece.from_outlines((outline,), (), material_slot(str(rng.choice(["ceramic", "glass", "paint", "pattern"]))))
    ]
    if rng.random() < 0.4:
        pot += random_print(rng, (-half_width * 0.6, 0.35, half_width * 0.6, height))
    return [bunch, pot]


def stack(rng: np.random.Generator) -> ObjectPieces:
    """Books, boxes, plates or cases on top of each other."""
    result: ObjectPieces = []
    base = 0.0
    identical = rng.random() < 0.4
    half_width, thickness = _u(rng, 0.5, 1.0), _u(rng, 0.08, 0.3)
    for k in range(int(rng.integers(2, 7))):
        item_half_width, item_thickness = (
            (half_width, thickness) if identical else (_u(rng, 0.5, 1.0), _u(rng, 0.08, 0.35))
        )
        x, slot = _u(rng, -0.1, 0.1), material_slot(str(rng.choice(["paint", "paper", "cloth", "leather", "wood"])), k)
        item = [
            Piece.from_outlines(
                (
                    box(
                        x - item_half_width,
                        base - item_thickness,
                        x + item_half_width,
                        base,
                        corner=_u(rng, 0.0, 0.4) * item_thickness,
                    ),
                ),
                (),
                slot,
            )
        ]
        if rng.random() < 0.6:
            item += random_print(
                rng,
                (
                    x - item_half_width * 0.7,
                    base - item_thickness * 0.8,
                    x + item_half_width * 0.5,
                    base - item_thickness * 0.2,
                ),
            )
        result.append(item)
        base -= item_thickness
    return result


def shelf(rng: np.random.Generator) -> ObjectPieces:
    """A case with a row of books or packets."""
    half_width, half_height = _u(rng, 0.6, 1.2), _u(rng, 0.35, 0.6)
    frame = Piece.from_outlines(
        (box(-half_width - 0.08, -half_height - 0.14, half_width + 0.08, half_height + 0.08),),
        (),
        material_slot("wood"),
    )
    inside = Piece.from_outlines(
        (box(-half_width, -half_height - 0.06, half_width, half_height),), (), material_slot("wood", 1), True, True
    )
    result: ObjectPieces = [[frame, inside]]
    x = -half_width
    while x < half_width - 0.05 and len(result) < 12:
        book_width, book_height = min(_u(rng, 0.06, 0.2), half_width - x), 2 * half_height * _u(rng, 0.6, 0.98)
        book = [
            Piece.from_outlines(
                (box(x, half_height - book_height, x + book_width, half_height),),
                (),
                material_slot(str(rng.choice(["paint", "paper", "leather", "cloth"])), len(result)),
            )
        ]
        if rng.random() < 0.6:
            book += random_print(
                rng,
                (
                    x + 0.15 * book_width,
                    half_height - 0.85 * book_height,
                    x + 0.85 * book_width,
                    half_height - 0.2 * book_height,
                ),
            )
        result.append(book)
        x += book_width if rng.random() < 0.9 else _u(rng, 0.1, 0.3)
    return result


def laid_table(rng: np.random.Generator) -> ObjectPieces:
    """A table, bench, stove or desk with things on it."""
    result: ObjectPieces = [place_on_ground(build_object(rng, artefacts.furniture), 0.0, 1.0, 2.0, 1.2)]
    top = bounding_box(result[0][1:2])[1] + 0.05
    for _ in range(int(rng.integers(2, 7))):
        makers = (
            artefacts.bottle,
            artefacts.cup,
            organisms.fruit,
            artefacts.screen,
            organisms.potted_plant,
            artefacts.carton,
            artefacts.plate,
        )
        thing = build_object(rng, makers[int(rng.integers(len(makers)))])
        size = _u(rng, 0.2, 0.6)
        result.append(place_on_ground(thing, _u(rng, -0.75, 0.75), top + _u(rng, 0.0, 0.1), size, size))
    return result


def heap(rng: np.random.Generator) -> ObjectPieces:
    """A heap or bunch of equal things: fruit, balls, bread, pebbles, balloons."""
    makers = (
        lambda r: build_object(r, organisms.fruit),
        food_piece,
        lambda r: build_object(r, organisms.flower),
        lambda r: [Piece.from_outlines(((blob(r) * 0.8).astype(np.float32),), (), 0)],
    )
    make_item = makers[int(rng.integers(len(makers)))]
    sample, identical = make_item(rng), rng.random() < 0.6
    rows = int(rng.integers(2, 5))
    result: ObjectPieces = []
    for row in range(rows):
        count = row + int(rng.integers(1, 3))
        for k in range(count):
            x, y = (k - (count - 1) / 2) * 0.5 + _u(rng, -0.08, 0.08), row * 0.38 + _u(rng, -0.06, 0.06)
            item = transform_pieces(
                sample if identical else make_item(rng), 0, 0, _u(rng, 0.28, 0.36), rotation=_u(rng, -0.8, 0.8)
            )
            result.append(transform_pieces(item, x, y, 1.0))
    return result
