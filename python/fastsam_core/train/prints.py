"""Print on things, which is not a part with a mask of its own: lettering, logos, bands, tables, pictures.

Each maker returns pieces that show only on top of what is below them. Real objects are full of such strong inner edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .material_kinds import material_slot
from .primitives import Outline, blob, box, ellipse, star
from .shapes import Piece

Area = tuple[float, float, float, float]  # left, top, right, bottom in the shape's units


def _bar(ax: float, ay: float, bx: float, by: float, half_width: float) -> Outline:
    """Return a straight pen stroke from (ax, ay) to (bx, by) with square ends and half-width `half_width`."""
    dx, dy = bx - ax, by - ay
    length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
    nx, ny = -dy / length * half_width, dx / length * half_width
    tx, ty = dx / length * half_width, dy / length * half_width
    return np.array(
        [
            (ax + nx - tx, ay + ny - ty),
            (bx + nx + tx, by + ny + ty),
            (bx - nx + tx, by - ny + ty),
            (ax - nx - tx, ay - ny - ty),
        ],
        np.float32,
    )


# End points of the strokes of letters, on a grid of 3 x 3 points numbered in row-major order.
_STROKES = ((0, 2), (0, 6), (2, 8), (6, 8), (3, 5), (0, 8), (2, 6), (1, 7), (0, 4), (4, 8), (2, 4), (0, 3), (5, 8))


def lettering(rng: np.random.Generator, area: Area, *, lines: int | None = None) -> list[Outline]:
    """Return lines of letter-like marks that fill `area`, about 40 letters at most."""
    left, top, right, bottom = area
    count = int(rng.integers(1, 5)) if lines is None else lines
    line_height = (bottom - top) / count
    marks: list[Outline] = []
    for line in range(count):
        letter_height = line_height * (float(rng.uniform(0.45, 0.8)) if count > 1 else 0.9)
        letter_width = letter_height * float(rng.uniform(0.45, 0.8))
        letters = int(np.clip((right - left) / (letter_width * 1.35), 1, 40 // count))
        stroke_half_width = letter_width * float(rng.uniform(0.07, 0.16))
        start = (left + right) / 2 - letters * letter_width * 1.35 / 2 if rng.random() < 0.6 else left
        y = top + line * line_height
        strokes = rng.integers(0, len(_STROKES), (letters, 3))
        is_gap = rng.random(letters) < (0.15 if letters > 4 else 0.0)
        for k in range(letters):
            if is_gap[k]:
                continue
            x = start + k * letter_width * 1.35
            for a, b in (_STROKES[stroke] for stroke in strokes[k].tolist()):
                marks.append(
                    _bar(
                        x + a % 3 * letter_width / 2,
                        y + a // 3 * letter_height / 2,
                        x + b % 3 * letter_width / 2,
                        y + b // 3 * letter_height / 2,
                        stroke_half_width,
                    )
                )
    return marks


def _clip(lines: Sequence[Outline], slot: int) -> Piece:
    return Piece.from_outlines(lines, slot=slot, clip=True)


def _ink(rng: np.random.Generator, variant: int = 0) -> int:
    return material_slot("ink", variant) if rng.random() < 0.7 else material_slot("paint", variant)


def logo(rng: np.random.Generator, area: Area) -> list[Piece]:
    """A badge with something in it, sometimes with a word below."""
    left, top, right, bottom = area
    x, y = (left + right) / 2, (top + bottom) / 2
    radius = 0.5 * min(right - left, bottom - top)
    pieces = []
    has_word = rng.random() < 0.5
    if has_word:
        y -= 0.25 * radius
        radius *= 0.72
    kind = int(rng.integers(4))
    if kind == 0:
        disc = ellipse(x, y, radius, radius * float(rng.uniform(0.6, 1.0)))
    elif kind == 1:
        disc = (star(rng) * radius + [x, y]).astype(np.float32)
    elif kind == 2:
        disc = box(x - radius, y - radius * 0.7, x + radius, y + radius * 0.7, corner=0.2 * radius)
    else:
        disc = (blob(rng) * 0.7 * radius + [x, y]).astype(np.float32)
    pieces.append(_clip([disc], _ink(rng)))
    if rng.random() < 0.7:
        inner = 0.55 * radius
        if rng.random() < 0.5:
            marks = lettering(rng, (x - inner, y - inner * 0.6, x + inner, y + inner * 0.6), lines=1)
        else:
            marks = [(blob(rng) * inner * 0.8 + [x, y]).astype(np.float32)]
        pieces.append(_clip(marks, _ink(rng, 1)))
    if has_word:
        pieces.append(_clip(lettering(rng, (left, y + radius * 1.1, right, y + radius * 1.6), lines=1), pieces[0].slot))
    return pieces


def photo(rng: np.random.Generator, area: Area) -> list[Piece]:
    """A picture like a photograph on a page or a screen: a ground, a horizon and a few shapes."""
    left, top, right, bottom = area
    width, height = right - left, bottom - top
    horizon = top + height * float(rng.uniform(0.3, 0.8))
    pieces = [_clip([box(left, top, right, bottom)], material_slot("paint", 3))]
    if rng.random() < 0.7:
        pieces.append(_clip([box(left, horizon, right, bottom)], material_slot("leaf", 3)))
    for index in range(int(rng.integers(1, 5))):
        size = float(rng.uniform(0.08, 0.3)) * min(width, height)
        x, y = rng.uniform(left + size, right - size), rng.uniform(top + size, bottom - size)
        pieces.append(_clip([(blob(rng) * size * 0.7 + [x, y]).astype(np.float32)], material_slot("food", 4 + index)))
    return pieces


def grid(rng: np.random.Generator, area: Area) -> list[Piece]:
    """A grid of small fields: keys, windows, buttons, a calendar."""
    left, top, right, bottom = area
    columns, rows = int(rng.integers(2, 9)), int(rng.integers(1, 6))
    dx, dy = (right - left) / columns, (bottom - top) / rows
    fill_fraction = float(rng.uniform(0.25, 0.46))
    fields = [
        box(
            left + dx * (c + 0.5 - fill_fraction),
            top + dy * (r + 0.5 - fill_fraction),
            left + dx * (c + 0.5 + fill_fraction),
            top + dy * (r + 0.5 + fill_fraction),
        )
        for r in range(rows)
        for c in range(columns)
    ]
    return [_clip(fields, material_slot("glass", 5) if rng.random() < 0.5 else _ink(rng))]


def bands(rng: np.random.Generator, area: Area) -> list[Piece]:
    """One or two stripes across the whole object, horizontal or vertical."""
    left, top, right, bottom = area
    horizontal = rng.random() < 0.7
    pieces = []
    for number in range(int(rng.integers(1, 3))):
        offset, thickness = float(rng.uniform(0.1, 0.8)), float(rng.uniform(0.03, 0.15))
        if horizontal:
            line = box(-9, top + (bottom - top) * offset, 9, top + (bottom - top) * (offset + thickness))
        else:
            line = box(left + (right - left) * offset, -9, left + (right - left) * (offset + thickness), 9)
        pieces.append(_clip([line], _ink(rng, number)))
    return pieces


def random_print(rng: np.random.Generator, area: Area) -> list[Piece]:
    """Return random print on `area`."""
    pick = rng.random()
    left, top, right, bottom = area
    if pick < 0.3:
        return logo(rng, area)
    if pick < 0.6:
        middle, half_height = (top + bottom) / 2, (bottom - top) / 2 * float(rng.uniform(0.4, 1.0))
        return [_clip(lettering(rng, (left, middle - half_height, right, middle + half_height)), _ink(rng))]
    if pick < 0.72:
        return bands(rng, area)
    if pick < 0.84:
        return grid(rng, area)
    if pick < 0.93:
        return photo(rng, area)
    small = lettering(rng, (left, (top + bottom) / 2, right, bottom), lines=int(rng.integers(2, 6)))
    return [*logo(rng, (left, top, right, (top + bottom) / 2)), _clip(small, material_slot("ink", 2))]
