"""A mask found in one tile."""

from __future__ import annotations

from typing import NamedTuple

from ..runs import MaskRuns
from . import run_algebra
from .grid import Box


class Piece(NamedTuple):
    """A mask found in one tile, placed in the raster.

    tile: number of the tile. box: extent of the mask in raster pixels, x1, y1, x2, y2, the last two exclusive. counts:
    COCO's compressed run lengths of the mask within the box. area: number of mask pixels.
    """

    tile: int
    box: Box
    counts: str
    area: int
    predicted_iou: float
    stability: float

    def runs(self) -> MaskRuns:
        """Return the mask as runs in raster coordinates."""
        x1, y1, x2, y2 = self.box
        return run_algebra.from_rle({"size": [y2 - y1, x2 - x1], "counts": self.counts}, x1, y1)


def piece_from_runs(tile: int, runs: MaskRuns, predicted_iou: float, stability: float) -> Piece:
    """Return the piece for a mask's runs in raster coordinates. There must be at least one run."""
    box = run_algebra.bounding_box(runs)
    return Piece(tile, box, run_algebra.to_rle(runs, box)["counts"], runs.area(), predicted_iou, stability)
