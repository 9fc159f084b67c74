"""Helpers that place the pieces of a thing among others."""

from __future__ import annotations

import numpy as np

from .shapes import Piece, bounds

ObjectPieces = list[list[Piece]]  # the pieces of each object, from back to front


def transform_pieces(
    pieces: list[Piece], x: float, y: float, scale: float, *, flip: bool = False, rotation: float = 0.0
) -> list[Piece]:
    """Return the pieces mirrored left to right if `flip`, scaled, turned by `rotation` radians, and moved to (x, y)."""
    c, s = scale * np.cos(rotation), scale * np.sin(rotation)
    f = -1.0 if flip else 1.0
    matrix = np.array([[f * c, -s, x], [f * s, c, y]], np.float32)
    return [piece.transformed(matrix) for piece in pieces]


def bounding_box(pieces: list[Piece]) -> tuple[float, float, float, float]:
    """Return the bounding box (left, top, right, bottom) of the silhouette."""
    return bounds(np.concatenate([piece.outline_points for piece in pieces if not piece.clip]))


def place_on_ground(pieces: list[Piece], x: float, base: float, width: float, height: float) -> list[Piece]:
    """Return the pieces scaled to fit into `width` by `height`, centred at `x`, with their bottom at y = `base`."""
    left, top, right, bottom = bounding_box(pieces)
    scale = min(width / max(right - left, 1e-6), height / max(bottom - top, 1e-6))
    return transform_pieces(pieces, x - scale * (left + right) / 2, base - scale * bottom, scale)
