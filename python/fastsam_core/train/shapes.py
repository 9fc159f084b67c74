"""Outlines of the things in a generated scene: primitives, their unions and holes, and parts of other material.

Everything is described by polygons around the origin, y pointing down, and only becomes pixels when a scene places it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

import cv2
import numpy as np

Outline = np.ndarray  # (K, 2) float32 x, y


@dataclass(frozen=True)
class Piece:
    """One painted layer of a shape: the union of some outlines less the union of some holes, made by `Piece.of`.

    All polygons lie in one array, because a scene maps hundreds of them and numpy's cost is per call.

    Attributes:
        points: (K, 2) float32, polygon after polygon.
        ends: where each polygon ends in `points`.
        solid: number of polygons that are outlines; the rest are holes.
        slot: which of the object's materials it wears; 0 is the main one, negative ones are the main one in another
            light.
        part: True where it counts as a part with a mask of its own.
        clip: True where it only shows on what earlier pieces cover (a stripe); False where it adds to the silhouette
            (a wheel).
    """

    points: np.ndarray
    ends: tuple[int, ...]
    solid: int
    slot: int = 0
    part: bool = False
    clip: bool = False

    @classmethod
    def of(
        cls,
        outlines: Sequence[Outline],
        holes: Sequence[Outline] = (),
        slot: int = 0,
        part: bool = False,
        clip: bool = False,
    ) -> Piece:
        """A piece from its polygons, (K, 2) float32 each."""
        lines = [*outlines, *holes]
        points = np.concatenate(lines).astype(np.float32) if len(lines) > 1 else lines[0]
        return cls(points, tuple(accumulate(len(line) for line in lines)), len(outlines), slot, part, clip)

    def mapped(self, matrix: np.ndarray) -> Piece:
        """The piece under a (2, 3) affine map."""
        points = cv2.transform(self.points[None], matrix)[0]
        return Piece(points, self.ends, self.solid, self.slot, self.part, self.clip)

    @property
    def outline_points(self) -> np.ndarray:
        """All outlines' points, (K, 2) float32, without the holes'."""
        return self.points[: self.ends[self.solid - 1]]


@dataclass(frozen=True)
class Shape:
    """An object's pieces in painting order, centred on the origin with the longer half-extent 1.

    Attributes:
        pieces: from first painted to last.
        half: half-extents (x, y).
        area: covered area in squared units (a square of half-extent 1 has 4).
        upright: True for things that have a top and stand on the ground.
    """

    pieces: tuple[Piece, ...]
    half: tuple[float, float]
    area: float
    upright: bool = False


@dataclass(frozen=True)
class Cluster:
    """Several objects that belong together, such as a rider and the horse, centred and scaled like a `Shape`.

    Attributes:
        members: the objects from back to front, in the cluster's units.
        half, area, upright: of them all, as for a shape.
        standing: which members throw their shadow on the ground.
    """

    members: tuple[Shape, ...]
    half: tuple[float, float]
    area: float
    upright: bool = True
    standing: tuple[int, ...] = (0,)


def bounds(points: np.ndarray) -> tuple[float, float, float, float]:
    """Bounding box (left, top, right, bottom) of (K, 2) points."""
    x, y = np.ascontiguousarray(points.T)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def fit(pieces: Sequence[Piece], *, upright: bool = False) -> Shape:
    """Centre and scale `pieces` so that the silhouette's longer half-extent is 1."""
    silhouette = [piece for piece in pieces if not piece.clip]
    left, top, right, bottom = bounds(np.concatenate([piece.outline_points for piece in silhouette]))
    scale = 2.0 / max(right - left, bottom - top, 1e-6)
    matrix = np.array([[scale, 0, -scale * (left + right) / 2], [0, scale, -scale * (top + bottom) / 2]], np.float32)
    probe = np.zeros((64, 64), np.uint8)
    corner = ((left + right) / 2 - 32 / (30 * scale), (top + bottom) / 2 - 32 / (30 * scale))
    for piece in silhouette:
        fill(probe, piece, corner, 30.0 * scale)
    area = cv2.countNonZero(probe) / 900.0
    half = ((right - left) * scale / 2, (bottom - top) * scale / 2)
    return Shape(tuple(piece.mapped(matrix) for piece in pieces), half, max(area, 0.01), upright)


def cluster(things: Sequence[Sequence[Piece]], *, upright: bool = True, standing: tuple[int, ...] = (0,)) -> Cluster:
    """Centre and scale several things, from back to front, in common units, like `fit` does for one."""
    joint = fit([piece for pieces in things for piece in pieces])
    members, start = [], 0
    for pieces in things:
        own = joint.pieces[start : start + len(pieces)]
        start += len(pieces)
        members.append(Shape(own, joint.half, joint.area, upright))
    return Cluster(tuple(members), joint.half, joint.area, upright, standing)


def fill(canvas: np.ndarray, piece: Piece, origin: tuple[float, float], scale: float) -> None:
    """Draw the piece as 255 into a uint8 canvas.

    The canvas's top left corner is `origin` and its pixels are 1 / `scale` wide in the piece's units. Holes are cut
    back to 0, through whatever the canvas held before.
    """
    points = piece.points - np.array(origin, np.float32)
    points *= 16.0 * scale
    points -= 8.0  # from pixel edges to the pixel centres that OpenCV counts from
    whole = np.rint(points).astype(np.int32)
    start = 0
    for number, end in enumerate(piece.ends):
        cv2.fillPoly(canvas, [whole[start:end]], 255 if number < piece.solid else 0, cv2.LINE_8, 4)
        start = end


# Primitives -----------------------------------------------------------------------------------------------------------


@cache
def _circle(n: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.cos(angle), np.sin(angle)


def ellipse(
    x: float = 0, y: float = 0, rx: float = 1, ry: float = 1, *, turn: float = 0.0, power: float = 2.0, n: int = 40
) -> Outline:
    """A superellipse of exponent `power` (2 is an ellipse, above 3 a rounded box), rotated by `turn` radians."""
    cos, sin = _circle(n)
    if power != 2.0:
        cos = np.sign(cos) * np.abs(cos) ** (2 / power)
        sin = np.sign(sin) * np.abs(sin) ** (2 / power)
    px, py = rx * cos, ry * sin
    out = np.empty((n, 2), np.float32)
    if turn:
        c, s = np.cos(turn), np.sin(turn)
        px, py = c * px - s * py, s * px + c * py
    np.add(px, x, out=out[:, 0], casting="same_kind")
    np.add(py, y, out=out[:, 1], casting="same_kind")
    return out


def box(left: float, top: float, right: float, bottom: float, *, corner: float = 0.0) -> Outline:
    """An axis-aligned rectangle, with corners rounded by radius `corner`."""
    corner = min(corner, abs(right - left) / 2, abs(bottom - top) / 2)
    if corner <= 0:
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    x0, y0, x1, y1 = left + corner, top + corner, right - corner, bottom - corner
    centres = np.array([(x1, y1), (x0, y1), (x0, y0), (x1, y0)], np.float32)
    return (np.float32(corner) * _arcs() + centres[:, None]).reshape(-1, 2)


@cache
def _arcs() -> np.ndarray:
    """The four quarters of a unit circle, (4, 7, 2) float32."""
    angle = 0.5 * np.pi * (np.arange(4)[:, None] + np.linspace(0, 1, 7))
    return np.stack([np.cos(angle), np.sin(angle)], axis=2).astype(np.float32)


def polygon(*points: tuple[float, float]) -> Outline:
    """A polygon through the given points."""
    return np.array(points, np.float32)


def blob(rng: np.random.Generator, *, rough: float | None = None, waves: int | None = None, n: int = 64) -> Outline:
    """A smooth closed curve around the origin: a circle with random harmonics, stretched at random."""
    cos, sin = _circle(n)
    amount = rng.uniform(0.1, 0.6) if rough is None else rough
    top = int(rng.integers(2, 9)) if waves is None else waves
    decay = 0.5 * amount / np.arange(1, top + 1) ** 0.8
    radius = 1.0 + (rng.normal(size=top) * decay) @ np.cos(_multiples(n, top) + rng.uniform(0, 2 * np.pi, (top, 1)))
    np.maximum(radius, 0.15, out=radius)
    turn = rng.uniform(0, 2 * np.pi)
    x, y = radius * cos * np.exp(rng.uniform(-0.5, 0.5)), radius * sin
    out = np.empty((n, 2), np.float32)
    out[:, 0], out[:, 1] = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return out


@cache
def _multiples(n: int, top: int) -> np.ndarray:
    return np.arange(1, top + 1)[:, None] * np.linspace(0, 2 * np.pi, n, endpoint=False)


def corners(rng: np.random.Generator, count: int, *, jitter: float = 0.0) -> Outline:
    """A polygon with `count` corners on a circle; `jitter` 0 is regular, 1 strongly irregular and concave."""
    step = 2 * np.pi / count
    angle = np.arange(count) * step + rng.uniform(-0.45, 0.45, count) * step * jitter + rng.uniform(0, 2 * np.pi)
    radius = 1.0 - jitter * rng.uniform(0, 0.65, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def star(rng: np.random.Generator) -> Outline:
    """A star or gear: corners on two circles in turn."""
    count = int(rng.integers(4, 13))
    angle = np.arange(2 * count) * np.pi / count
    radius = np.where(np.arange(2 * count) % 2 == 0, 1.0, rng.uniform(0.35, 0.85))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def smooth(line: Outline, rounds: int = 2) -> Outline:
    """Cut the corners of a closed polygon (Chaikin's scheme) `rounds` times."""
    for _ in range(rounds):
        follow = np.roll(line, -1, axis=0)
        line = np.stack([0.75 * line + 0.25 * follow, 0.25 * line + 0.75 * follow], axis=1).reshape(-1, 2)
    return line.astype(np.float32)


def stroke(
    points: Sequence[tuple[float, float]] | np.ndarray, start: float, stop: float | None = None
) -> tuple[Outline, ...]:
    """A round-ended band along a path, its half-width going from `start` to `stop`.

    It comes as one convex polygon per link with a half-disc at either end: a single outline would cross itself in tight
    bends. Where the width changes much over a link, whole discs are added.
    """
    path = np.asarray(points, np.float32)
    rise = 0.0 if stop is None else (stop - start) / max(len(path) - 1, 1)
    radius = np.arange(len(path), dtype=np.float32) * np.float32(rise) + np.float32(start)
    along = path[1:] - path[:-1]
    length = np.sqrt(along[:, :1] * along[:, :1] + along[:, 1:] * along[:, 1:])
    along /= np.maximum(length, 1e-6)
    x, y = along[:, :1], along[:, 1:]
    cos, sin = _half_circle()
    links = np.empty((len(along), 16, 2), np.float32)
    first, second = radius[:-1, None], radius[1:, None]
    links[:, :8, 0] = path[:-1, :1] - first * (x * cos - y * sin)
    links[:, :8, 1] = path[:-1, 1:] - first * (y * cos + x * sin)
    links[:, 8:, 0] = path[1:, :1] + second * (x * cos - y * sin)
    links[:, 8:, 1] = path[1:, 1:] + second * (y * cos + x * sin)
    if abs(rise) <= 0.4 * float(length.min()):
        return tuple(links)
    cos, sin = _circle(14)
    discs = np.empty((len(path), 14, 2), np.float32)
    discs[:, :, 0] = path[:, :1] + radius[:, None] * cos
    discs[:, :, 1] = path[:, 1:] + radius[:, None] * sin
    return (*discs, *links)


@cache
def _half_circle() -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 8)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def curve(rng: np.random.Generator, *, bend: float = 1.0, n: int = 14) -> np.ndarray:
    """A gently wandering open path from left to right, (n, 2) float32."""
    heading = np.cumsum(rng.normal(0, 0.35 * bend, n)) + rng.normal(0, 0.4 * bend) * np.linspace(-1, 1, n)
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return np.cumsum(steps, axis=0).astype(np.float32)


def ring(inner: float, *, power: float = 2.0, aspect: float = 1.0) -> Piece:
    """A ring (or frame, for a high `power`) with relative hole size `inner`."""
    hole = ellipse(rx=inner * aspect, ry=inner, power=power)
    return Piece.of((ellipse(rx=aspect, ry=1.0, power=power),), (hole,))


def bent(rng: np.random.Generator, shape: Shape, amount: float) -> Shape:
    """The shape pushed about by a smooth random displacement of about `amount` half-extents."""
    waves = rng.normal(0, 2.0, (2, 2, 2)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (2, 2)).astype(np.float32)

    def push(points: np.ndarray) -> np.ndarray:
        first, second = points @ waves[0] + phases[0], points @ waves[1] + phases[1]
        return points + np.float32(amount) * (np.sin(first) + np.float32(0.5) * np.sin(second))

    return replace(shape, pieces=tuple(replace(piece, points=push(piece.points)) for piece in shape.pieces))


# Simple objects -------------------------------------------------------------------------------------------------------


def _solid(rng: np.random.Generator) -> Outline:
    """A random outline without holes."""
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
            Piece.of(
                (_solid_round(rng),), tuple(ellipse(0.5 * np.cos(a), 0.5 * np.sin(a), radius, radius) for a in angle)
            )
        ]
    bars: list[Outline] = []  # a fence, rack or grate
    count, thick = int(rng.integers(3, 8)), rng.uniform(0.03, 0.09)
    for place in np.linspace(-0.95, 0.95, count):
        bars.append(box(place - thick, -0.8, place + thick, 0.8, corner=0.02))
    for place in rng.uniform(-0.7, 0.7, int(rng.integers(1, 4))):
        bars.append(box(-1, place - thick, 1, place + thick, corner=0.02))
    return [Piece.of(tuple(bars))]


def _solid_round(rng: np.random.Generator) -> Outline:
    return ellipse(power=float(rng.uniform(2, 8))) if rng.random() < 0.7 else blob(rng, rough=0.15)


def _bar(rng: np.random.Generator) -> list[Piece]:
    """A thin straight or bent band: stick, cable, pipe, strap, snake."""
    bend = float(rng.choice([0.0, 0.0, 0.5, 1.2]))
    path = curve(rng, bend=bend) if bend else np.array([(0.0, 0.0), (14.0, 0.0)], np.float32)
    width = float(np.exp(rng.uniform(np.log(0.25), np.log(1.8))))
    return [Piece.of(stroke(path, width, width * float(rng.uniform(0.3, 1.0)) if rng.random() < 0.4 else None))]


def _glyph(rng: np.random.Generator) -> list[Piece]:
    """Something like a letter: a few thick strokes between points of a 3 x 3 grid."""
    grid = [(x, y) for y in (-1.0, 0.0, 1.0) for x in (-0.65, 0.0, 0.65)]
    thick = float(rng.uniform(0.1, 0.28))
    lines: list[Outline] = []
    here = int(rng.integers(9))
    for _ in range(int(rng.integers(2, 5))):
        there = int((here + rng.integers(1, 9)) % 9)
        lines += stroke([grid[here], grid[there]], thick)
        here = there
    return [Piece.of(tuple(lines))]


def _union(rng: np.random.Generator) -> list[Piece]:
    """Several touching solids of one material: a body and its lumps or limbs."""
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
    return [Piece.of(tuple(lines))]


def foliage(
    rng: np.random.Generator, *, x: float = 0.0, y: float = 0.0, rx: float = 1.0, ry: float = 1.0
) -> tuple[Outline, ...]:
    """A ragged mass of lumps, like a tree's crown, a bush or a cloud."""
    lump = float(rng.uniform(0.14, 0.35))
    angle = np.arange(0, 2 * np.pi, lump * 1.2)
    reach = rng.uniform(0.6, 0.9, len(angle))
    size = lump * min(rx, ry) * rng.uniform(0.6, 1.3, (len(angle), 1)) * rng.uniform(0.6, 1.25, (len(angle), 12))
    cos, sin = _circle(12)
    lumps = np.empty((len(angle), 12, 2), np.float32)
    lumps[:, :, 0] = (x + rx * reach * np.cos(angle))[:, None] + size * cos
    lumps[:, :, 1] = (y + ry * reach * np.sin(angle))[:, None] + size * sin
    return (ellipse(x, y, rx * 0.75, ry * 0.75), *lumps)


def random_part(rng: np.random.Generator, outline: Outline, slot: int) -> list[Piece]:
    """Parts of other material on a solid: a stripe, border, inner disc, patch, half, or a ring around a hole."""
    left, top, right, bottom = bounds(outline)
    middle = np.array([(left + right) / 2, (top + bottom) / 2], np.float32)
    kind = int(rng.integers(6))
    if kind == 0:  # stripes right across
        angle, pieces = rng.uniform(0, np.pi), []
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        for place in rng.uniform(-0.6, 0.6, int(rng.integers(1, 4))):
            band = rng.uniform(0.08, 0.25)
            quad = [
                middle + along * s * 3 + across * (place + t * band) for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            pieces.append(Piece.of((np.array(quad, np.float32),), slot=slot, part=True, clip=True))
        return pieces
    if kind == 1:  # a smaller copy of the outline
        inner = ((outline - middle) * float(rng.uniform(0.35, 0.85)) + middle).astype(np.float32)
        return [Piece.of((inner,), slot=slot, part=True, clip=True)]
    if kind == 2:  # a border, by painting its inside
        inner = ((outline - middle) * float(rng.uniform(0.6, 0.9)) + middle).astype(np.float32)
        return [Piece.of((outline * 1.05,), (inner,), slot=slot, part=True, clip=True)]
    span = np.array([right - left, bottom - top]) / 2
    if kind == 3:  # a patch
        place = middle + rng.uniform(-0.5, 0.5, 2) * span
        return [
            Piece.of(
                ((_solid(rng) * float(rng.uniform(0.2, 0.5)) + place).astype(np.float32),),
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
        return [Piece.of((np.array(quad, np.float32),), slot=slot, part=True, clip=True)]
    place, radius = middle + rng.uniform(-0.3, 0.3, 2) * span, float(rng.uniform(0.2, 0.5)) * float(min(span))
    centre = (float(place[0]), float(place[1]))
    collar = Piece.of(
        (ellipse(*centre, radius, radius),), (ellipse(*centre, radius * 0.6, radius * 0.6),), slot, True, True
    )
    disc = Piece.of((ellipse(*centre, radius * 0.6, radius * 0.6),), slot=slot + 1, part=True, clip=True)
    return [collar, disc]


def simple_shape(rng: np.random.Generator) -> Shape:
    """A random abstract object: solid, holed, thin, lumpy or letter-like, sometimes with parts."""
    kind = rng.random()
    if kind < 0.62:
        outline = _solid(rng)
        left, top, right, bottom = bounds(outline)
        outline = (
            (outline - [(left + right) / 2, (top + bottom) / 2]) / max((right - left) / 2, (bottom - top) / 2)
        ).astype(np.float32)
        pieces = [Piece.of((outline,))]
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
        return fit([Piece.of(foliage(rng, ry=float(rng.uniform(0.5, 1.0))))])
    return fit(_union(rng))
