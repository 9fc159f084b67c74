"""Merging over seams: exact tiles give back the objects of the raster, and noisy ones what they should."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastsam_core import rle
from fastsam_core.runs import MaskRuns
from fastsam_core.tiles.grid import Grid
from fastsam_core.tiles.merge import merge
from fastsam_core.tiles.pieces import Piece, piece_of


def exact(labels: np.ndarray, grid: Grid, connectivity: int = 8) -> list[Piece]:
    """What a perfect segmenter finds in each tile: the connected parts of each label that the tile shows."""
    found = []
    for tile in grid:
        x1, y1, x2, y2 = tile.box
        shown = labels[y1:y2, x1:x2]
        for label in np.unique(shown[shown > 0]):
            count, of_pixel = cv2.connectedComponents((shown == label).astype(np.uint8), connectivity=connectivity)
            for part in range(1, count):
                found.append(piece_of(tile.number, MaskRuns.from_mask(of_pixel == part, x1, y1), 0.9, 0.8))
    return found


def dense(piece: Piece, height: int, width: int) -> np.ndarray:
    x1, y1, x2, y2 = piece.box
    shown = np.zeros((height, width), bool)
    shown[y1:y2, x1:x2] = rle.decode({"size": [y2 - y1, x2 - x1], "counts": piece.counts})
    return shown


def objects(pieces: list[Piece], grid: Grid, merge_iou: float = 0.5) -> list[np.ndarray]:
    return [dense(whole, grid.height, grid.width) for whole, _ in merge(pieces, grid, merge_iou)]


def pieces_of(grid: Grid, *shown: tuple[int, np.ndarray]) -> list[Piece]:
    """Pieces of masks of the whole raster, each as the tile of the number shows it."""
    found = []
    for number, mask in sorted(shown, key=lambda one: one[0]):
        x1, y1, x2, y2 = grid[number].box
        found.append(piece_of(number, MaskRuns.from_mask(mask[y1:y2, x1:x2], x1, y1), 0.9, 0.8))
    return found


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return sorted(mask.tobytes() for mask in found) == sorted(mask.tobytes() for mask in expected)


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    """Rectangles and lines over one another, and noise."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    labels = np.zeros((height, width), np.int32)
    for label in range(1, draw(st.integers(1, 8)) + 1):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
        labels[y : y + h, x : x + w] = draw(st.sampled_from([0, label, label]))
    seed = draw(st.integers(0, 2**16))
    noise = np.random.default_rng(seed).random((height, width)) < draw(st.sampled_from([0, 0.05, 0.4]))
    labels[noise] = draw(st.integers(0, 3))
    return labels


@st.composite
def tilings(draw: st.DrawFn) -> tuple[int, int]:
    tile = draw(st.integers(2, 24))
    return tile, draw(st.integers(1, tile // 2))


@settings(max_examples=150, deadline=None)
@given(labels=label_maps(), tiling=tilings(), connectivity=st.sampled_from([4, 8]))
@example(labels=np.eye(30, dtype=np.int32), tiling=(6, 1), connectivity=8)
def test_exact_tiles_give_back_the_objects(labels: np.ndarray, tiling: tuple[int, int], connectivity: int) -> None:
    grid = Grid(*labels.shape, *tiling)
    expected = []
    for label in np.unique(labels[labels > 0]):
        count, of_pixel = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=connectivity)
        expected += [of_pixel == part for part in range(1, count)]
    found = objects(exact(labels, grid, connectivity), grid)
    assert same(found, expected)
