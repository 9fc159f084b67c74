"""Abstract objects of a generated scene: solids, frames, bars, letter-like and lumpy shapes, and parts on them."""

from __future__ import annotations

import numpy as np

from .primitives import Outline, blob, box, corners, curve, ellipse, foliage, polygon, smooth, star, stroke
from .shapes import Piece, Shape, bounds, fit


def ring(inner: float, *, power: float = 2.0, aspect: float = 1.0) -> Piece:
    """Return a ring, or a frame for a high `power`, whose hole has the relative size `inner`."""
    hole = ellipse(rx=inner * aspect, ry=inner, power=power)
    return Piece.from_outlines((ellipse(rx=aspect, ry=1.0, power=power),), (hole,))


def _solid(rng: np.random.Generator) -> Outline:
    """Return a random outline without holes."""
    kind = int(rng.choice(9, p=[0.17, 0.07, 0.2, 0.07, 0.08, 0.26, 0.05, 0.05, 0.05]))
    aspect = float(np.exp(rng.uniform(-0.9, 0.9)))
    if kind == 0:
        return ellipse(rx=aspect, ry=1)
    if kind == 1:
        return ellipse(rx=aspect, ry=1, power=float(rng.uniform(0.8, 6)))
    if kind == 2:
        return box(-aspect, -1, aspect, 1, corner=float(rng.choice([0.0, rng.uniform(0.02, 0.8)])))
    if kind == 3:
        return corners(rng, int(rng.integers(3, 9)))
    if kind == 4:
        rough = corners(rng, int(rng.integers(4, 11)), jitter=float(rng.uniform(0.3, 1.0)))
        return smooth(rough, int(rng.integers(1, 4))) if rng.random() < 0.5 else rough
    if kind == 5:
        return blob(rng)
    if kind == 6:
        return star(rng)
    if kind == 7:  # a wedge or half-disc
        angle = np.linspace(0, rng.uniform(0.5, 1.6) * np.pi, 30)
        arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.concatenate([arc, [[0.0, 0.0]]]).astype(np.float32)
    top, lean = rng.uniform(0.3, 1.0), rng.uniform(-0.3, 0.3)  # a trapezium
    return polygon((-aspect * top + lean, -1), (aspect * top + lean, -1), (aspect, 1), (-aspect, 1))


def _with_holes(rng: np.random.Generator) -> list[Piece]:
    kind = int(rng.integers(4))
    if kind == 0:
        return [ring(float(rng.uniform(0.3, 0.85)), aspect=float(np.exp(rng.uniform(-0.4, 0.4))))]
    if kind == 1:
        return [
            ring(
                float(rng.uniform(0.5, 0.88)),
                power=float(rng.uniform(4, 12)),
                aspect=float(np.exp(rng.uniform(-0.5, 0.5))),
            )
        ]
    if kind == 2:  # a plate with several holes
        count = int(rng.integers(2, 6))
        angle = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 6)
        radius = min(0.75 * np.sin(np.pi / count) * 0.55, 0.3)
        return [
            Piece.from_outlines(
                (_solid_round(rng),), tuple(ellipse(0.5 * np.cos(a), 0.5 * np.sin(a), radius, radius) for a in angle)
            )
        ]
    bars: list[Outline] = []  # a fence, rack or grate
    count, thickness = int(rng.integers(3, 8)), rng.uniform(0.03, 0.09)
    for position in np.linspace(-0.95, 0.95, count):
        bars.append(box(position - thickness, -0.8, position + thickness, 0.8, corner=0.02))
    for position in rng.uniform(-0.7, 0.7, int(rng.integers(1, 4))):
        bars.append(box(-1, position - thickness, 1, position + thickness, corner=0.02))
    return [Piece.from_outlines(tuple(bars))]


def _solid_round(rng: np.random.Generator) -> Outline:
    return ellipse(power=float(rng.uniform(2, 8))) if rng.random() < 0.7 else blob(rng, rough=0.15)


def _bar(rng: np.random.Generator) -> list[Piece]:
    """Return a thin straight or bent band: stick, cable, pipe, strap, snake."""
    bend = float(rng.choice([0.0, 0.0, 0.5, 1.2]))
    path = curve(rng, bend=bend) if bend else np.array([(0.0, 0.0), (14.0, 0.0)], np.float32)
    width = float(np.exp(rng.uniform(np.log(0.25), np.log(1.8))))
    return [
        Piece.from_outlines(stroke(path, width, width * float(rng.uniform(0.3, 1.0)) if rng.random() < 0.4 else None))
    ]


def _glyph(rng: np.random.Generator) -> list[Piece]:
    """Return a letter-like shape: a few thick strokes between points of a 3 x 3 grid."""
    grid = [(x, y) for y in (-1.0, 0.0, 1.0) for x in (-0.65, 0.0, 0.65)]
    thickness = float(rng.uniform(0.1, 0.28))
    lines: list[Outline] = []
    current = int(rng.integers(9))
    for _ in range(int(rng.integers(2, 5))):
        following = int((current + rng.integers(1, 9)) % 9)
        lines += stroke([grid[current], grid[following]], thickness)
        current = following
    return [Piece.from_outlines(tuple(lines))]


def _union(rng: np.random.Generator) -> list[Piece]:
    """Return several touching solids of one material: a body with lumps or limbs."""
    lines: list[Outline] = [_solid(rng)]
    for _ in range(int(rng.integers(1, 6))):
        anchor = lines[0][int(rng.integers(len(lines[0])))] * 0.9
        if rng.random() < 0.5:
            size = float(rng.uniform(0.2, 0.7))
            lines.append((_solid(rng) * size + anchor).astype(np.float32))
        else:
            reach = anchor * float(rng.uniform(1.2, 2.2)) + rng.normal(0, 0.3, 2).astype(np.float32)
            lines += stroke(
                [tuple(anchor * 0.5), tuple(reach)], float(rng.uniform(0.08, 0.25)), float(rng.uniform(0.04, 0.2))
            )
    return [Piece.from_outlines(tuple(lines))]


def random_part(rng: np.random.Generator, outline: Outline, slot: int) -> list[Piece]:
    """Return parts of another material on a solid: stripes, a smaller copy, a border, a patch, one side, or a disc in
    a ring. The material is `slot`, and that of the disc `slot` + 1.
    """
    left, top, right, bottom = bounds(outline)
    middle = np.array([(left + right) / 2, (top + bottom) / 2], np.float32)
    kind = int(rng.integers(6))
    if kind == 0:  # stripes right across
        angle, pieces = rng.uniform(0, np.pi), []
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        for position in rng.uniform(-0.6, 0.6, int(rng.integers(1, 4))):
            band = rng.uniform(0.08, 0.25)
            quad = [
                middle + along * s * 3 + across * (position + t * band) for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            pieces.append(Piece.from_outlines((np.array(quad, np.float32),), slot=slot, part=True, clip=True))
        return pieces
    if kind == 1:  # a smaller copy of the outline
        inner = ((outline - middle) * float(rng.uniform(0.35, 0.85)) + middle).astype(np.float32)
        return [Piece.from_outlines((inner,), slot=slot, part=True, clip=True)]
    if kind == 2:  # a border: the outline with its inside cut out
        inner = ((outline - middle) * float(rng.uniform(0.6, 0.9)) + middle).astype(np.float32)
        return [Piece.from_outlines((outline * 1.05,), (inner,), slot=slot, part=True, clip=True)]
    span = np.array([right - left, bottom - top]) / 2
    if kind == 3:  # a patch
        position = middle + rng.uniform(-0.5, 0.5, 2) * span
        return [
            Piece.from_outlines(
                ((_solid(rng) * float(rng.uniform(0.2, 0.5)) + position).astype(np.float32),),
                slot=slot,
                part=True,
                clip=True,
            )
        ]
    if kind == 4:  # one side
        angle = rng.uniform(0, 2 * np.pi)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        start = middle + across * rng.uniform(-0.4, 0.4)
        quad = [start - along * 4, start + along * 4, start + along * 4 + across * 4, start - along * 4 + across * 4]
        return [Piece.from_outlines((np.array(quad, np.float32),), slot=slot, part=True, clip=True)]
    position, radius = middle + rng.uniform(-0.3, 0.3, 2) * span, float(rng.uniform(0.2, 0.5)) * float(min(span))
    centre = (float(position[0]), float(position[1]))
    collar = Piece.from_outlines(
        (ellipse(*centre, radius, radius),), (ellipse(*centre, radius * 0.6, radius * 0.6),), slot, True, True
    )
    disc = Piece.from_outlines((ellipse(*centre, radius * 0.6, radius * 0.6),), slot=slot + 1, part=True, clip=True)
    return [collar, disc]


def simple_shape(rng: np.random.Generator) -> Shape:
    """Return a random abstract object: solid, with holes, thin, lumpy or letter-like, sometimes with parts."""
    kind = rng.random()
    if kind < 0.62:
        outline = _solid(rng)
        left, top, right, bottom = bounds(outline)
        outline = (
            (outline - [(left + right) / 2, (top + bottom) / 2]) / max((right - left) / 2, (bottom - top) / 2)
        ).astype(np.float32)
        pieces = [Piece.from_outlines((outline,))]
        if rng.random() < 0.4:
            pieces += random_part(rng, outline, 1)
        return fit(pieces)
    if kind < 0.72:
        return fit(_with_holes(rng))
    if kind < 0.80:
        return fit(_bar(rng))
    if kind < 0.85:
        return fit(_glyph(rng))
    if kind < 0.90:
        return fit([Piece.from_outlines(foliage(rng, ry=float(rng.uniform(0.5, 1.0))))])
    return fit(_union(rng))
