"""Composites of inanimate things: full dishes and bowls, bunches, stacks, shelves, heaps, a table with things on it.

Each maker returns the pieces of every object, from back to front, in common units.
"""

from __future__ import annotations

import numpy as np

from . import living, things
from .catalogue import finished
from .placing import Things, extent, put, stand
from .primitives import Outline, blob, box, ellipse, foliage, polygon, smooth, stroke
from .primitives import uniform as _u
from .prints import printed
from .shapes import Piece
from .stuff import slot


def dish(rng: np.random.Generator) -> Things:
    """A plate, board or bowl seen obliquely from above, with food on it and sometimes a tool such as cutlery."""
    flat, rim = _u(rng, 0.4, 1.0), _u(rng, 0.72, 0.9)
    round_ = rng.random() < 0.8
    power = 2.0 if round_ else 5.0
    material = slot(str(rng.choice(["ceramic", "ceramic", "wood", "metal", "paint", "pattern"])))
    plate = [Piece.of((ellipse(ry=flat, power=power),), (), material)]
    if rng.random() < 0.7:
        plate.append(Piece.of((ellipse(rx=rim, ry=rim * flat, power=power),), (), slot("ceramic", 1), True, True))
    result: Things = [plate]
    if rng.random() < 0.25:  # a pizza, pie or omelette that fills it
        pie = [Piece.of(((blob(rng, rough=0.06, waves=6) * [0.8, 0.8 * flat]).astype(np.float32),), (), slot("bread"))]
        pie.append(Piece.of((ellipse(rx=0.66, ry=0.66 * flat),), (), slot("food"), True, True))
        for k in range(int(rng.integers(1, 4))):
            spots = [
                (
                    blob(rng, n=18, waves=3) * _u(rng, 0.04, 0.13) * [1, flat] + rng.uniform(-0.5, 0.5, 2) * [1, flat]
                ).astype(np.float32)
                for _ in range(int(rng.integers(3, 14)))
            ]
            pie.append(Piece.of(spots, (), slot("food", 2 + k), False, True))
        result.append(pie)
    else:
        count = int(rng.integers(1, 7))
        for _ in range(count):
            size = _u(rng, 0.16, 0.42) if count > 2 else _u(rng, 0.3, 0.55)
            angle, far = _u(rng, 0, 2 * np.pi), (rim - size) * np.sqrt(rng.random())
            bit = put(morsel(rng), 0, 0, size, turn=_u(rng, 0, 2 * np.pi))
            squeeze = np.array(
                [[1, 0, far * np.cos(angle)], [0, 0.5 + 0.5 * flat, far * np.sin(angle) * flat]], np.float32
            )
            result.append([piece.mapped(squeeze) for piece in bit])
    if rng.random() < 0.3:
        x, turn = _u(rng, -0.4, 0.9), _u(rng, -0.5, 0.5)
        result.append(put(finished(rng, things.tool), x, 0, _u(rng, 0.4, 0.7), turn=turn))
    return result


def full_bowl(rng: np.random.Generator) -> Things:
    """A bowl, basket, box or pan with things lying in it."""
    deep, lip, taper = _u(rng, 0.3, 0.9), _u(rng, 0.12, 0.4), _u(rng, 0.5, 1.0)
    boxy = rng.random() < 0.4
    material = slot(str(rng.choice(["ceramic", "wood", "metal", "paint", "paper", "glass"])))
    rim = box(-1, -lip, 1, lip) if boxy else ellipse(rx=1, ry=lip)
    wall = polygon((-1, 0), (1, 0), (taper, deep), (-taper, deep))
    lines = [rim, wall if boxy else smooth(wall, 1)]
    vessel = [
        Piece.of(lines, (), material),
        Piece.of((ellipse(rx=0.9, ry=lip * 0.85, power=6 if boxy else 2),), (), slot("ceramic", 1), True, True),
    ]
    if rng.random() < 0.4:
        vessel += printed(rng, (-0.5, lip + 0.05, 0.5, max(deep * 0.9, lip + 0.15)))
    alike = rng.random() < 0.6
    make = (lambda: finished(rng, living.fruit)) if rng.random() < 0.5 else (lambda: morsel(rng))
    sample = make()
    result: Things = [vessel]
    for _ in range(int(rng.integers(2, 9))):
        size = _u(rng, 0.18, 0.4)
        bit = put(sample if alike else make(), 0, 0, size, turn=_u(rng, -1, 1))
        half = extent(bit)
        x, y = _u(rng, -0.85 - half[0], 0.85 - half[2]), _u(rng, -lip * 0.5, lip * 0.7) - half[3]
        result.append(put(bit, x, y, 1.0))
    return result


def morsel(rng: np.random.Generator) -> list[Piece]:
    """A piece of food around the origin: lump, slice, roll, floret, disc or strips, some with crust or topping."""
    pick = int(rng.integers(6))
    if pick == 0:
        lump = (blob(rng, rough=0.3) * 0.8).astype(np.float32)
        return [Piece.of((lump,), (), slot("food")), *_toppings(rng, slot("food", 1))]
    if pick == 1:  # a slice of bread or cake
        wedge = polygon((-1, 0.4), (0.9, -0.3), (1.0, 0.1), (-0.9, 0.8))
        side = polygon((-1, 0.4), (-0.1, -0.6), (0.9, -0.3))
        return [Piece.of((wedge,), (), slot("bread"), True), Piece.of((side,), (), slot("food"), True)]
    if pick == 2:
        return [
            Piece.of((box(-1, -0.45, 1, 0.45, corner=0.4),), (), slot("bread")),
            Piece.of((box(-0.9, -0.12, 0.9, 0.12, corner=0.1),), (), slot("food"), True, True),
        ]
    if pick == 3:
        return [Piece.of(foliage(rng, ry=0.9), (), slot("leaf"))]
    if pick == 4:
        return [
            Piece.of((ellipse(rx=1, ry=_u(rng, 0.7, 1.0)),), (), slot("fruit")),
            Piece.of((ellipse(rx=0.75, ry=0.6),), (), slot("fruit", 1), True, True),
        ]
    strips: list[Outline] = []
    for _ in range(int(rng.integers(3, 9))):
        x, y, turn = _u(rng, -0.6, 0.6), _u(rng, -0.5, 0.5), _u(rng, 0, np.pi)
        strips += stroke(
            [(x - 0.4 * np.cos(turn), y - 0.4 * np.sin(turn)), (x + 0.4 * np.cos(turn), y + 0.4 * np.sin(turn))], 0.1
        )
    return [Piece.of(strips, (), slot("food"))]


def _toppings(rng: np.random.Generator, number: int) -> list[Piece]:
    dabs = [
        (blob(rng, n=16, waves=3) * _u(rng, 0.06, 0.2) + rng.uniform(-0.6, 0.6, 2)).astype(np.float32)
        for _ in range(int(rng.integers(0, 12)))
    ]
    return [Piece.of(dabs, (), number, False, True)] if dabs else []


def vase(rng: np.random.Generator) -> Things:
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
                turn=float(a),
                n=16,
            )
            for a in np.arange(6) * np.pi / 3 + _u(rng, 0, 1)
        ]
        bloom = [Piece.of(petals, (), slot("petal", int(rng.integers(3))), True)]
        bloom.append(Piece.of((ellipse(*tip, size * 0.25, size * 0.22),), (), slot("petal", 4), False, True))
        blooms.append(bloom)
        if rng.random() < 0.6:
            leaves.append(ellipse(tip[0] * 0.6, tip[1] * 0.3, 0.32, 0.1, turn=_u(rng, -1.2, 1.2)))
    bunch = [Piece.of([*stems, *leaves], (), slot("leaf"))]
    bunch += [piece for bloom in blooms for piece in bloom]
    wide, neck, tall = _u(rng, 0.25, 0.5), _u(rng, 0.16, 0.4), _u(rng, 0.6, 1.2)
    outline = smooth(
        polygon(
            (-neck, 0.1),
            (neck, 0.1),
            (neck * 0.9, 0.25),
            (wide, 0.15 + tall * 0.5),
            (wide * _u(rng, 0.5, 1.0), tall + 0.1),
            (-wide * 0.7, tall + 0.1),
            (-wide, 0.15 + tall * 0.5),
            (-neck * 0.9, 0.25),
        ),
        2,
    )
    pot = [Piece.of((outline,), (), slot(str(rng.choice(["ceramic", "glass", "paint", "pattern"]))))]
    if rng.random() < 0.4:
        pot += printed(rng, (-wide * 0.6, 0.35, wide * 0.6, tall))
    return [bunch, pot]


def stack(rng: np.random.Generator) -> Things:
    """Books, boxes, plates or cases on top of each other."""
    result: Things = []
    base = 0.0
    alike = rng.random() < 0.4
    wide, thick = _u(rng, 0.5, 1.0), _u(rng, 0.08, 0.3)
    for k in range(int(rng.integers(2, 7))):
        w, t = (wide, thick) if alike else (_u(rng, 0.5, 1.0), _u(rng, 0.08, 0.35))
        x, number = _u(rng, -0.1, 0.1), slot(str(rng.choice(["paint", "paper", "cloth", "leather", "wood"])), k)
        item = [Piece.of((box(x - w, base - t, x + w, base, corner=_u(rng, 0.0, 0.4) * t),), (), number)]
        if rng.random() < 0.6:
            item += printed(rng, (x - w * 0.7, base - t * 0.8, x + w * 0.5, base - t * 0.2))
        result.append(item)
        base -= t
    return result


def shelf(rng: np.random.Generator) -> Things:
    """A case with a row of books or packets."""
    wide, tall = _u(rng, 0.6, 1.2), _u(rng, 0.35, 0.6)
    frame = Piece.of((box(-wide - 0.08, -tall - 0.14, wide + 0.08, tall + 0.08),), (), slot("wood"))
    inside = Piece.of((box(-wide, -tall - 0.06, wide, tall),), (), slot("wood", 1), True, True)
    result: Things = [[frame, inside]]
    x = -wide
    while x < wide - 0.05 and len(result) < 12:
        w, t = min(_u(rng, 0.06, 0.2), wide - x), 2 * tall * _u(rng, 0.6, 0.98)
        book = [
            Piece.of(
                (box(x, tall - t, x + w, tall),),
                (),
                slot(str(rng.choice(["paint", "paper", "leather", "cloth"])), len(result)),
            )
        ]
        if rng.random() < 0.6:
            book += printed(rng, (x + 0.15 * w, tall - 0.85 * t, x + 0.85 * w, tall - 0.2 * t))
        result.append(book)
        x += w if rng.random() < 0.9 else _u(rng, 0.1, 0.3)
    return result


def laid_table(rng: np.random.Generator) -> Things:
    """A table, bench, stove or desk with things on it."""
    result: Things = [stand(finished(rng, things.furniture), 0.0, 1.0, 2.0, 1.2)]
    top = extent(result[0][1:2])[1] + 0.05
    for _ in range(int(rng.integers(2, 7))):
        make = (
            things.bottle,
            things.cup,
            living.fruit,
            things.screen,
            living.potted_plant,
            things.carton,
            things.plate,
        )
        thing = finished(rng, make[int(rng.integers(len(make)))])
        size = _u(rng, 0.2, 0.6)
        result.append(stand(thing, _u(rng, -0.75, 0.75), top + _u(rng, 0.0, 0.1), size, size))
    return result


def heap(rng: np.random.Generator) -> Things:
    """A heap or bunch of equal things: fruit, balls, bread, pebbles, balloons."""
    make = (
        lambda r: finished(r, living.fruit),
        morsel,
        lambda r: finished(r, living.flower),
        lambda r: [Piece.of(((blob(r) * 0.8).astype(np.float32),), (), 0)],
    )
    kind = make[int(rng.integers(len(make)))]
    sample, alike = kind(rng), rng.random() < 0.6
    rows = int(rng.integers(2, 5))
    result: Things = []
    for row in range(rows):
        count = row + int(rng.integers(1, 3))
        for k in range(count):
            x, y = (k - (count - 1) / 2) * 0.5 + _u(rng, -0.08, 0.08), row * 0.38 + _u(rng, -0.06, 0.06)
            bit = put(sample if alike else kind(rng), 0, 0, _u(rng, 0.28, 0.36), turn=_u(rng, -0.8, 0.8))
            result.append(put(bit, x, y, 1.0))
    return result
