"""Catalogue of things: how often each kind is drawn, what it is likely made of, and what may carry print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from . import figures
from .artefacts import (
    bicycle,
    bottle,
    carton,
    cup,
    furniture,
    garment,
    glasses,
    house,
    plate,
    screen,
    sofa,
    tool,
    vehicle,
)
from .material_kinds import material_slot
from .organisms import animal, bird, bust, flower, fruit, person, potted_plant, tree
from .primitives import uniform as _u
from .prints import random_print
from .shapes import Piece, Shape, bounds, fit
from .simple_shapes import simple_shape

Maker = Callable[[np.random.Generator], list[Piece]]

_UPRIGHT: tuple[tuple[Maker, float], ...] = (
    (bottle, 1.2),
    (cup, 1.2),
    (animal, 0.6),
    (figures.random_quadruped, 1.8),
    (figures.resting_animal, 0.7),
    (person, 0.5),
    (figures.random_person, 2.2),
    (figures.close_person, 0.9),
    (bust, 0.8),
    (vehicle, 1.4),
    (bicycle, 0.5),
    (tree, 1.1),
    (house, 1.1),
    (carton, 1.2),
    (furniture, 1.1),
    (sofa, 0.6),
    (flower, 0.6),
    (potted_plant, 0.8),
    (fruit, 0.8),
    (screen, 0.9),
    (tool, 0.6),
)
_HANDHELD: tuple[tuple[Maker, float], ...] = (
    (plate, 1.0),
    (bird, 1.0),
    (garment, 0.8),
    (glasses, 0.4),
    (flower, 0.5),
    (fruit, 0.8),
    (tool, 0.8),
    (screen, 0.8),
    (bottle, 0.4),
)


# Likely material kinds of each slot of a thing. Things with negative slots (shades of the main material) are left as
# they are.
_LIKELY_KINDS: dict[Maker, dict[int, tuple[str, ...]]] = {
    bottle: {0: ("glass", "paint", "ceramic"), 1: ("paper", "paint"), 2: ("paint", "metal")},
    cup: {0: ("ceramic", "paint", "metal", "glass"), 1: ("wood", "ceramic", "food"), 2: ("pattern", "paint")},
    vehicle: {0: ("paint", "paint", "metal"), 1: ("glass",), 2: ("tyre",), 3: ("metal", "tyre"), 4: ("paint", "metal")},
    bicycle: {0: ("paint", "metal"), 1: ("tyre",)},
    furniture: {0: ("wood", "wood", "metal", "paint"), 1: ("metal", "wood")},
    tree: {0: ("leaf",), 1: ("wood",)},
    house: {0: ("brick", "paint", "wood"), 1: ("tile", "wood"), 2: ("glass",), 3: ("wood", "paint")},
    flower: {0: ("petal",), 1: ("leaf",), 2: ("petal", "horn")},
    potted_plant: {0: ("leaf",), 1: ("ceramic", "paint")},
    fruit: {0: ("fruit",), 1: ("wood",), 2: ("leaf",)},
    tool: {0: ("wood", "metal", "paint"), 1: ("metal", "paint")},
    screen: {0: ("tyre", "wood", "metal", "ceramic"), 1: ("glass", "paper", "paint"), 2: ("food", "paint")},
    bird: {0: ("fur", "coat", "paint"), 1: ("fur", "metal")},
    garment: {0: ("cloth", "pattern", "leather"), 1: ("cloth", "pattern")},
    bust: {0: ("cloth", "pattern"), 1: ("skin",), 2: ("hair",), 3: ("ink",), 4: ("fruit",)},
}
_PRINTABLE = {bottle, cup, vehicle, carton, screen, garment, house, plate, sofa, tool}


def build_object(rng: np.random.Generator, maker: Maker) -> list[Piece]:
    """Return what `maker` makes, usually of likely materials, and sometimes with print on its largest piece."""
    pieces = maker(rng)
    kinds_of_slots = _LIKELY_KINDS.get(maker)
    if kinds_of_slots and rng.random() < 0.65 and min(piece.slot for piece in pieces) >= 0:
        slots = {
            slot_number: material_slot(names[int(rng.integers(len(names)))], slot_number)
            for slot_number, names in kinds_of_slots.items()
        }
        pieces = [replace(piece, slot=slots.get(piece.slot, piece.slot)) for piece in pieces]
    return with_print(rng, pieces) if maker in _PRINTABLE and rng.random() < 0.4 else pieces


def with_print(rng: np.random.Generator, pieces: list[Piece]) -> list[Piece]:
    """Return the pieces with print added inside the largest piece, by bounding box, of the silhouette."""
    bounding_boxes = [bounds(piece.outline_points) for piece in pieces if not piece.clip]
    left, top, right, bottom = max(
        bounding_boxes,
        key=lambda bounding_box: (bounding_box[2] - bounding_box[0]) * (bounding_box[3] - bounding_box[1]),
    )
    half_width, half_height = (right - left) * _u(rng, 0.15, 0.45), (bottom - top) * _u(rng, 0.1, 0.4)
    x, y = (
        (left + right) / 2 + (right - left) * _u(rng, -0.1, 0.1),
        (top + bottom) / 2 + (bottom - top) * _u(rng, -0.1, 0.15),
    )
    return [*pieces, *random_print(rng, (x - half_width, y - half_height, x + half_width, y + half_height))]


def _draw_maker(rng: np.random.Generator, table: tuple[tuple[Maker, float], ...]) -> Maker:
    remaining = float(rng.random()) * sum(weight for _, weight in table)
    for maker, weight in table:
        remaining -= weight
        if remaining < 0:
            return maker
    return table[-1][0]


def random_upright_shape(rng: np.random.Generator) -> Shape:
    """Return a random thing that stands on the ground."""
    return fit(build_object(rng, _draw_maker(rng, _UPRIGHT)), upright=True)


def random_shape(rng: np.random.Generator) -> Shape:
    """Return a random object of any kind: abstract, loose or standing on the ground."""
    pick = rng.random()
    if pick < 0.38:
        shape = simple_shape(rng)
        return fit(with_print(rng, list(shape.pieces))) if rng.random() < 0.2 else shape
    if pick < 0.62:
        return fit(build_object(rng, _draw_maker(rng, _HANDHELD)))
    return random_upright_shape(rng)
