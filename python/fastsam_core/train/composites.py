"""Things made of several objects that a person might also call one: riders, laid tables, full bowls, stacks, bunches.

Each maker returns the pieces of every object, from back to front, in common units; their union is a group of the scene.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import figures, living, things
from .catalogue import finished
from .primitives import Outline, blob, box, ellipse, foliage, polygon, smooth, stroke
from .primitives import uniform as _u
from .prints import printed
from .shapes import Cluster, Piece, bounds, cluster
from .stuff import slot

Things = list[list[Piece]]


def _put(
    pieces: list[Piece], x: float, y: float, scale: float, *, flip: bool = False, turn: float = 0.0
) -> list[Piece]:
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    f = -1.0 if flip else 1.0
    matrix = np.array([[f * c, -s, x], [f * s, c, y]], np.float32)
    return [piece.mapped(matrix) for piece in pieces]


def _extent(pieces: list[Piece]) -> tuple[float, float, float, float]:
    return bounds(np.concatenate([piece.outline_points for piece in pieces if not piece.clip]))


def _stand(pieces: list[Piece], x: float, base: float, wide: float, tall: float) -> list[Piece]:
    """The pieces, scaled to fit `wide` by `tall`, standing with their middle at `x` on `base`."""
    left, top, right, bottom = _extent(pieces)
    scale = min(wide / max(right - left, 1e-6), tall / max(bottom - top, 1e-6))
    return _put(pieces, x - scale * (left + right) / 2, base - scale * bottom, scale)


def rider(rng: np.random.Generator) -> Things:
    """Somebody on an animal."""
    mount, seat = figures.quadruped(rng)
    size = _u(rng, 0.75, 1.2)
    figure = figures.person(rng, "straddle")
    place = (seat[0] + _u(rng, -0.15, 0.15), seat[1] - 0.04)
    saddle = Piece.of((ellipse(place[0], place[1] + 0.1, 0.3, 0.16),), (), slot("leather"), True, True)
    return [[*mount, saddle], _put(figure.pieces, *place, size)]


def cyclist(rng: np.random.Generator) -> Things:
    """Somebody on two wheels: a bicycle, motorbike or scooter."""
    machine = finished(rng, things.bicycle) if rng.random() < 0.45 else motorbike(rng)
    figure = figures.person(rng, "ride")
    return [machine, _put(figure.pieces, -0.3, -0.38, _u(rng, 0.8, 1.05))]


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
    """Somebody with a bag, umbrella, box, board, racket or dog."""
    figure = figures.person(rng, str(rng.choice(["stand", "walk", "reach"])))
    (x, y), body = figure.hands[1], figure.pieces
    pick = int(rng.integers(7))
    if pick == 0:
        goods = _put(bag(rng), x, y + 0.3, _u(rng, 0.18, 0.34))
    elif pick == 1:
        goods = umbrella(rng, x, y)
    elif pick == 2:
        goods = _put(finished(rng, things.carton), x, y, _u(rng, 0.15, 0.35))
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
        goods = _put(figures.coated(rng), x + _u(rng, 0.5, 0.8), 0.72, _u(rng, 0.2, 0.4))
        lead = Piece.of(stroke([(x, y), (x + 0.2, 0.5), (x + 0.5, 0.6)], 0.012), (), slot("leather"))
        return [body, [lead, *goods]]
    else:
        goods = _put(finished(rng, things.screen), x, y, _u(rng, 0.08, 0.2))
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


def morsel(rng: np.random.Generator) -> list[Piece]:
    """A piece of food about the origin: lump, slice, roll, floret, strip, with crust or topping."""
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


def dish(rng: np.random.Generator) -> Things:
    """A plate, board or bowl seen from above at a slant, with food on it and perhaps cutlery beside it."""
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
            bit = _put(morsel(rng), 0, 0, size, turn=_u(rng, 0, 2 * np.pi))
            squeeze = np.array(
                [[1, 0, far * np.cos(angle)], [0, 0.5 + 0.5 * flat, far * np.sin(angle) * flat]], np.float32
            )
            result.append([piece.mapped(squeeze) for piece in bit])
    if rng.random() < 0.3:
        x, turn = _u(rng, -0.4, 0.9), _u(rng, -0.5, 0.5)
        result.append(_put(finished(rng, things.tool), x, 0, _u(rng, 0.4, 0.7), turn=turn))
    return result


def full_bowl(rng: np.random.Generator) -> Things:
    """A bowl, basket, box or pan with things lying in it, and its near wall before them."""
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
        bit = _put(sample if alike else make(), 0, 0, size, turn=_u(rng, -1, 1))
        half = _extent(bit)
        x, y = _u(rng, -0.85 - half[0], 0.85 - half[2]), _u(rng, -lip * 0.5, lip * 0.7) - half[3]
        result.append(_put(bit, x, y, 1.0))
    return result


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
    """A row of books or packets in a case."""
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
    result: Things = [_stand(finished(rng, things.furniture), 0.0, 1.0, 2.0, 1.2)]
    top = _extent(result[0][1:2])[1] + 0.05
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
        result.append(_stand(thing, _u(rng, -0.75, 0.75), top + _u(rng, 0.0, 0.1), size, size))
    return result


def sitter(rng: np.random.Generator) -> Things:
    """Somebody, or a pet, on a chair, bench or sofa."""
    seat = _stand(
        finished(rng, things.sofa) if rng.random() < 0.5 else finished(rng, things.furniture), 0.0, 0.5, 1.6, 1.2
    )
    left, top, right, bottom = _extent(seat)
    level = top + (bottom - top) * _u(rng, 0.45, 0.6)
    if rng.random() < 0.3:
        return [seat, _stand(figures.resting(rng), _u(rng, -0.3, 0.3), level, 0.9, 0.6)]
    result: Things = [seat]
    for x in (0.0,) if rng.random() < 0.7 else (left * 0.5, right * 0.5):
        figure = figures.person(rng, "sit")
        result.append(_put(figure.pieces, x, level - 0.06, _u(rng, 0.8, 1.0), flip=bool(rng.random() < 0.5)))
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
            bit = _put(sample if alike else kind(rng), 0, 0, _u(rng, 0.28, 0.36), turn=_u(rng, -0.8, 0.8))
            result.append(_put(bit, x, y, 1.0))
    return result


def party(rng: np.random.Generator) -> Things:
    """A few people or animals close together, shoulder to shoulder or one before the other."""
    animals = rng.random() < 0.35
    x, result = 0.0, []
    for _ in range(int(rng.integers(2, 5))):
        pieces = figures.coated(rng) if animals else figures.clothed(rng)
        tall = _u(rng, 0.7, 1.0) if animals else _u(rng, 0.85, 1.0)
        placed = _stand(pieces, x, _u(rng, 0.0, 0.06), 1.4 if animals else 1.0, tall)
        left, _, right, _ = _extent(placed)
        result.append(_put(placed, 0, 0, 1.0))
        x += (right - left) * _u(rng, 0.45, 0.8)
    return result


def driven(rng: np.random.Generator) -> Things:
    """A vehicle with its load or with somebody before it."""
    car = finished(rng, things.vehicle)
    if rng.random() < 0.5:
        figure = _stand(figures.clothed(rng), _u(rng, -0.8, 0.8), 0.55, 1.0, _u(rng, 0.9, 1.3))
        return [car, figure]
    left, top, right, _ = _extent(car)
    load = _stand(
        finished(rng, things.carton) if rng.random() < 0.5 else bag(rng), (left + right) / 2, top + 0.04, 0.6, 0.4
    )
    return [load, car]


Maker = Callable[[np.random.Generator], Things]
MAKERS: tuple[tuple[Maker, float, bool], ...] = (
    (rider, 1.2, True),
    (cyclist, 1.2, True),
    (carrier, 1.6, True),
    (dish, 1.8, False),
    (full_bowl, 1.2, True),
    (vase, 1.0, True),
    (stack, 1.0, True),
    (shelf, 0.7, True),
    (laid_table, 1.0, True),
    (sitter, 1.2, True),
    (heap, 0.8, True),
    (party, 1.2, True),
    (driven, 0.6, True),
)


def any_cluster(rng: np.random.Generator, *, upright: bool | None = None) -> Cluster:
    """A random composite; `upright` True leaves out those that are seen from above."""
    table = [row for row in MAKERS if not upright or row[2]]
    shares = np.cumsum([weight for _, weight, _ in table])
    maker, _, stands = table[int(np.searchsorted(shares, float(rng.random()) * float(shares[-1]), side="right"))]
    members = maker(rng)
    # People and animals side by side each stand on the ground; the rest hangs on the first.
    standing = tuple(range(len(members))) if maker is party else (0, 1) if maker in (vase, driven) else (0,)
    return cluster(members, upright=stands, standing=standing)
