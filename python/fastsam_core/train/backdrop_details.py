"""Unlabelled detail in a backdrop: streets, trees, rooms, wires, writing. None of it is an object of the scene.

Photographs are full of such detail, and a model trained on plain backdrops takes every sharp edge for an object's.
Everything is drawn in place into the (S, S, 3) float32 RGB image, above or around the row `horizon`.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from . import material_kinds
from .prints import lettering
from .textures import TexturePool, random_colour

Colour = tuple[float, float, float]


def _as_tuple(colour: np.ndarray) -> Colour:
    return float(colour[0]), float(colour[1]), float(colour[2])


def _varied_brightness(rng: np.random.Generator, colour: np.ndarray, spread: float) -> Colour:
    return _as_tuple(np.clip(colour * (1.0 + rng.uniform(-spread, spread)), 0.0, 1.0))


def _box(
    image: np.ndarray, left: float, top: float, right: float, bottom: float, colour: Colour, width: int = -1
) -> None:
    cv2.rectangle(image, (int(left), int(top)), (int(right), int(bottom)), colour, width)


def street(rng: np.random.Generator, pool: TexturePool, image: np.ndarray, horizon: float) -> None:
    """Draw house fronts with windows and signs along the horizon."""
    size = image.shape[0]
    x, base = -float(rng.uniform(0, 0.1)) * size, horizon + 0.01 * size
    while x < size:
        house_width, house_height = (
            float(rng.uniform(0.08, 0.35)) * size,
            float(rng.uniform(0.3, 1.1)) * max(horizon, 0.1 * size),
        )
        colour = random_colour(rng)
        _box(image, x, base - house_height, x + house_width, base, _as_tuple(colour))
        columns, rows = int(rng.integers(2, 6)), int(rng.integers(2, 7))
        glass, fill_fraction = _varied_brightness(rng, colour, 0.7), float(rng.uniform(0.2, 0.4))
        for row in range(rows):
            for column in range(columns):
                u, v = x + house_width * (column + 0.5) / columns, base - house_height * (row + 0.6) / rows
                dx, dy = fill_fraction * house_width / columns, fill_fraction * house_height / rows
                _box(image, u - dx, v - dy, u + dx, v + dy, glass)
        if rng.random() < 0.5:
            sign = (x + 0.1 * house_width, base - 0.3 * house_height, x + 0.9 * house_width, base - 0.2 * house_height)
            _box(image, *sign, _as_tuple(random_colour(rng)))
            _write(rng, image, sign)
        x += house_width * float(rng.uniform(0.95, 1.3))


def trees(rng: np.random.Generator, pool: TexturePool, image: np.ndarray, horizon: float) -> None:
    """Draw a mass of leaves with a ragged crest, and trunks in front of it."""
    size = image.shape[0]
    leaf_kind = material_kinds.kind_of_slot(material_kinds.material_slot("leaf"))
    colour = leaf_kind.colours[int(rng.integers(len(leaf_kind.colours)))] * np.float32(rng.uniform(0.4, 1.1))
    zoom = size / 384.0 * float(rng.uniform(0.15, 0.8))
    material = pool.material(
        rng, zoom=zoom, contrast=float(rng.uniform(0.2, 0.7)), colour=colour, kinds=leaf_kind.textures
    )
    steps = np.linspace(0, size, 40)
    crest = horizon - size * float(rng.uniform(0.05, 0.6)) + rng.normal(0, 0.02 * size, 40)
    crest += size * 0.08 * np.sin(steps / size * rng.uniform(3, 12) + rng.uniform(0, 6))
    base = int(np.clip(horizon + 0.02 * size, 1, size))
    line = np.concatenate([np.stack([steps, crest], axis=1), [[size, base], [0, base]]])
    top = int(np.clip(crest.min(), 0, base - 1))
    mask = np.zeros((base - top, size), np.uint8)
    cv2.fillPoly(mask, [np.rint(line - [0, top]).astype(np.int32)], 255)
    cv2.copyTo(pool.paint(material, rng, base - top, size), mask, image[top:base])
    for _ in range(int(rng.integers(0, 9))):
        x, lean, trunk_width = (
            rng.uniform(0, size),
            rng.normal(0, 0.05 * size),
            int(max(rng.uniform(0.004, 0.03) * size, 1)),
        )
        dark = _varied_brightness(rng, np.array([0.3, 0.23, 0.16]), 0.5)
        cv2.line(image, (int(x), base), (int(x + lean), int(top)), dark, trunk_width)


def room(rng: np.random.Generator, pool: TexturePool, image: np.ndarray, horizon: float) -> None:
    """Draw details of a room on the wall: tiles, windows, frames, shelves with things, curtains, doors."""
    size = image.shape[0]
    wall_height = max(horizon, 0.2 * size)
    if rng.random() < 0.3:  # tiles or panels
        step, joint, joint_width = (
            float(rng.uniform(0.03, 0.15)) * size,
            _as_tuple(random_colour(rng)),
            max(size // 250, 1),
        )
        for position in np.arange(0, size, step):
            cv2.line(image, (int(position), 0), (int(position), int(horizon)), joint, joint_width)
            if position < horizon:
                cv2.line(image, (0, int(position)), (size, int(position)), joint, joint_width)
    for _ in range(int(rng.integers(1, 6))):
        item_width, item_height = float(rng.uniform(0.06, 0.4)) * size, float(rng.uniform(0.1, 0.7)) * wall_height
        x, y = float(rng.uniform(-0.1, 0.95)) * size, float(rng.uniform(-0.1, 0.8)) * wall_height
        right, bottom, edge = x + item_width, min(y + item_height, horizon), max(int(0.008 * size), 1)
        colour = random_colour(rng)
        pick = int(rng.integers(5))
        if pick == 0:  # a window, bright, with bars
            light = np.clip(np.array([0.8, 0.88, 0.95]) * rng.uniform(0.6, 1.2), 0, 1)
            _box(image, x, y, right, bottom, _as_tuple(light))
            _box(image, x, y, right, bottom, _as_tuple(colour), 2 * edge)
            cv2.line(
                image, (int((x + right) / 2), int(y)), (int((x + right) / 2), int(bottom)), _as_tuple(colour), edge
            )
        elif pick == 1:  # a framed picture or notice
            _box(image, x, y, right, bottom, _as_tuple(random_colour(rng)))
            for _ in range(3):
                u, v = rng.uniform(x, right), rng.uniform(y, max(bottom, y + 1))
                cv2.circle(
                    image,
                    (int(u), int(v)),
                    int(0.15 * min(item_width, item_height)) + 1,
                    _as_tuple(random_colour(rng)),
                    -1,
                )
            _box(image, x, y, right, bottom, _as_tuple(colour), edge)
        elif pick == 2:  # a shelf with a row of things
            shelf_x = x
            while shelf_x < right:
                step = float(rng.uniform(0.01, 0.04)) * size
                _box(
                    image,
                    shelf_x,
                    bottom - item_height * rng.uniform(0.3, 0.9),
                    shelf_x + step,
                    bottom,
                    _as_tuple(random_colour(rng)),
                )
                shelf_x += step * float(rng.uniform(1.0, 1.3))
            _box(image, x, bottom, right, bottom + 2 * edge, _as_tuple(colour))
        elif pick == 3:  # a curtain or blind
            folds = int(rng.integers(4, 14))
            for k in range(folds):
                left = x + item_width * k / folds
                _box(image, left, y, left + item_width / folds, bottom, _varied_brightness(rng, colour, 0.25))
        else:  # a cupboard or door
            _box(image, x, y, right, horizon, _as_tuple(colour))
            _box(image, x, y, right, horizon, _varied_brightness(rng, colour, 0.5), edge)
            cv2.circle(
                image, (int(x + 0.85 * item_width), int((y + horizon) / 2)), edge + 1, _as_tuple(random_colour(rng)), -1
            )


def wires(rng: np.random.Generator, pool: TexturePool, image: np.ndarray, horizon: float) -> None:
    """Draw thin lines: poles, cables, a railing, twigs."""
    size = image.shape[0]
    colour, line_width = _as_tuple(random_colour(rng) * np.float32(0.6)), max(int(rng.uniform(0.002, 0.008) * size), 1)
    if rng.random() < 0.35:  # a railing or fence
        base, railing_height = horizon + float(rng.uniform(0.0, 0.2)) * size, float(rng.uniform(0.05, 0.2)) * size
        for x in np.arange(0, size, max(float(rng.uniform(0.015, 0.08)) * size, 3.0)):
            cv2.line(image, (int(x), int(base)), (int(x), int(base - railing_height)), colour, line_width)
        cv2.line(image, (0, int(base - railing_height)), (size, int(base - railing_height)), colour, 2 * line_width)
        return
    for _ in range(int(rng.integers(1, 9))):
        x, y = rng.uniform(0, size, 2)
        path = [(int(x), int(y))]
        heading = float(rng.uniform(0, 2 * np.pi))
        for _ in range(int(rng.integers(1, 6))):
            heading += float(rng.normal(0, 0.4))
            x, y = x + 0.2 * size * np.cos(heading), y + 0.2 * size * np.sin(heading)
            path.append((int(x), int(y)))
        cv2.polylines(image, [np.array(path, np.int32)], False, colour, line_width, cv2.LINE_AA)


def _write(rng: np.random.Generator, image: np.ndarray, area: tuple[float, float, float, float]) -> None:
    marks = [np.rint(mark).astype(np.int32) for mark in lettering(rng, area, lines=1)]
    ink = _as_tuple(random_colour(rng))
    for mark in marks:
        cv2.fillPoly(image, [mark], ink)


def writing(rng: np.random.Generator, pool: TexturePool, image: np.ndarray, horizon: float) -> None:
    """Draw lettering, some of it on signs, on a wall or on the ground."""
    size = image.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.1, 0.8, 2) * size
        width, height = float(rng.uniform(0.15, 0.7)) * size, float(rng.uniform(0.02, 0.1)) * size
        if rng.random() < 0.4:
            _box(image, x - 0.02 * size, y - 0.02 * size, x + width, y + 1.4 * height, _as_tuple(random_colour(rng)))
        _write(rng, image, (float(x), float(y), float(x + width), float(y + height)))


Detail = Callable[[np.random.Generator, TexturePool, np.ndarray, float], None]
OUTDOOR_DETAILS: tuple[Detail, ...] = (street, trees, trees, wires, writing)
INDOOR_DETAILS: tuple[Detail, ...] = (room, room, wires, writing)


def draw_details(
    rng: np.random.Generator, pool: TexturePool, image: np.ndarray, horizon: float, details: tuple[Detail, ...]
) -> None:
    """Draw one or two of `details` into `image` in place; usually put it slightly out of focus."""
    for _ in range(int(rng.integers(1, 3))):
        details[int(rng.integers(len(details)))](rng, pool, image, horizon)
    if rng.random() < 0.6:
        size = image.shape[0]
        small = cv2.resize(image, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), max(float(rng.uniform(0.1, 2.0)) * size / 512.0, 0.3))
        cv2.resize(small, (size, size), image, interpolation=cv2.INTER_LINEAR)
