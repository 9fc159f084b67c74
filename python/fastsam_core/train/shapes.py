"""Shapes of the things in a generated scene: pieces made of outlines and holes, scaled to a common size.

Everything is described by polygons around the origin, y pointing down, and rasterised only when placed in a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import cv2
import numpy as np

from .primitives import Outline


@dataclass(frozen=True)
class Piece:
    """One painted layer of a shape: a union of outlines minus a union of holes. Made by `Piece.from_outlines`.

    All polygons share one array, because a scene transforms hundreds of them and NumPy's overhead is per call.

    Attributes:
        points: (K, 2) float32, the points of all polygons, one polygon after another.
        ends: end of each polygon in `points`.
        num_outlines: number of polygons that are outlines; the rest are holes.
        slot: number of the piece's material within its object. 0 is the main material, negative slots are the main
            material in a different light, and slots from `material_kinds.FIRST_KIND_SLOT` up name what the piece is
            made of.
        part: True if the piece is a part with a mask of its own.
        clip: True if it shows only on top of earlier pieces (a stripe), False if it adds to the silhouette (a wheel).
    """

    points: np.ndarray
    ends: tuple[int, ...]
    num_outlines: int
    slot: int = 0
    part: bool = False
    clip: bool = False

    @classmethod
    def from_outlines(
        cls,
        outlines: Sequence[Outline],
        holes: Sequence[Outline] = (),
        slot: int = 0,
        part: bool = False,
        clip: bool = False,
    ) -> Piece:
        """Make a piece from its polygons, (K, 2) float32 each."""
        polygons = [*outlines, *holes]
        points = np.concatenate(polygons).astype(np.float32) if len(polygons) > 1 else polygons[0]
        return cls(points, tuple(accumulate(len(polygon) for polygon in polygons)), len(outlines), slot, part, clip)

    def transformed(self, matrix: np.ndarray) -> Piece:
        """Return the piece transformed by a (2, 3) affine matrix."""
        points = cv2.transform(self.points[None], matrix)[0]
        return Piece(points, self.ends, self.num_outlines, self.slot, self.part, self.clip)

    @property
    def outline_points(self) -> np.ndarray:
        """Points of all outlines, (K, 2) float32, without the holes."""
        return self.points[: self.ends[self.num_outlines - 1]]


def make_piece(
    *outlines: Outline, slot: int = 0, part: bool = False, clip: bool = False, holes: tuple[Outline, ...] = ()
) -> Piece:
    """Make a piece as `Piece.from_outlines` does, with each outline as an argument of its own."""
    return Piece.from_outlines(outlines, holes, slot, part, clip)


@dataclass(frozen=True)
class Shape:
    """An object's pieces, centred on the origin and scaled so that the longer half-extent is 1.

    Attributes:
        pieces: in painting order.
        half_extents: half-extents (x, y) of the silhouette.
        area: area of the silhouette in squared units; a square of half-extent 1 has 4.
        upright: True for things that have a top and stand on the ground.
    """

    pieces: tuple[Piece, ...]
    half_extents: tuple[float, float]
    area: float
    upright: bool = False


@dataclass(frozen=True)
class Cluster:
    """Several objects that belong together, such as a horse and its rider, centred and scaled as one `Shape`.

    Attributes:
        members: the objects from back to front, in the cluster's units.
        half_extents, area, upright: of all members together, as for a shape.
        standing: indices of the members that stand on the ground and cast their shadow on it.
    """

    members: tuple[Shape, ...]
    half_extents: tuple[float, float]
    area: float
    upright: bool = True
    standing: tuple[int, ...] = (0,)


def bounds(points: np.ndarray) -> tuple[float, float, float, float]:
    """Return the bounding box (left, top, right, bottom) of (K, 2) points."""
    x, y = np.ascontiguousarray(points.T)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def fit(pieces: Sequence[Piece], *, upright: bool = False) -> Shape:
    """Centre and scale `pieces` so that the silhouette's longer half-extent is 1."""
    silhouette = [piece for piece in pieces if not piece.clip]
    left, top, right, bottom = bounds(np.concatenate([piece.outline_points for piece in silhouette]))
    scale = 2.0 / max(right - left, bottom - top, 1e-6)
    matrix = np.array([[scale, 0, -scale * (left + right) / 2], [0, scale, -scale * (top + bottom) / 2]], np.float32)
    canvas = np.zeros((64, 64), np.uint8)
    corner = ((left + right) / 2 - 32 / (30 * scale), (top + bottom) / 2 - 32 / (30 * scale))
    for piece in silhouette:
        rasterize(canvas, piece, corner, 30.0 * scale)
    area = cv2.countNonZero(canvas) / 900.0
    half_extents = ((right - left) * scale / 2, (bottom - top) * scale / 2)
    return Shape(tuple(piece.transformed(matrix) for piece in pieces), half_extents, max(area, 0.01), upright)


def make_cluster(
    objects: Sequence[Sequence[Piece]], *, upright: bool = True, standing: tuple[int, ...] = (0,)
) -> Cluster:
    """Centre and scale several things together, given from back to front in common units, as `fit` does for one."""
    joint = fit([piece for pieces in objects for piece in pieces])
    members, start = [], 0
    for pieces in objects:
        member_pieces = joint.pieces[start : start + len(pieces)]
        start += len(pieces)
        members.append(Shape(member_pieces, joint.half_extents, joint.area, upright))
    return Cluster(tuple(members), joint.half_extents, joint.area, upright, standing)


def rasterize(canvas: np.ndarray, piece: Piece, origin: tuple[float, float], scale: float) -> None:
    """Draw the piece with value 255 into a uint8 canvas, in place.

    In the piece's units, the canvas's top left corner is `origin` and a pixel is 1 / `scale` wide. Holes are filled
    with 0, which also erases what the canvas held there before.
    """
    points = piece.points - np.array(origin, np.float32)
    points *= 16.0 * scale
    points -= 8.0  # OpenCV's integer coordinates are pixel centres, half a pixel (8 / 16) from our pixel edges
    pixels = np.rint(points).astype(np.int32)
    start = 0
    for index, end in enumerate(piece.ends):
        cv2.fillPoly(canvas, [pixels[start:end]], 255 if index < piece.num_outlines else 0, cv2.LINE_8, 4)
        start = end


def deformed(rng: np.random.Generator, shape: Shape, amount: float) -> Shape:
    """Return the shape deformed by a smooth random displacement of about `amount` half-extents."""
    waves = rng.normal(0, 2.0, (2, 2, 2)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (2, 2)).astype(np.float32)

    def displace(points: np.ndarray) -> np.ndarray:
        first, second = points @ waves[0] + phases[0], points @ waves[1] + phases[1]
        return points + np.float32(amount) * (np.sin(first) + np.float32(0.5) * np.sin(second))

    return replace(shape, pieces=tuple(replace(piece, points=displace(piece.points)) for piece in shape.pieces))
