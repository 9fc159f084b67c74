"""A mask as one tile shows it."""

from __future__ import annotations

from typing import NamedTuple

from ..runs import MaskRuns
from . import shapes
from .grid import Box


class Piece(NamedTuple):
    """A mask of one tile, in pixels of the raster.

    tile: the tile's number. box: its extent, x1, y1, x2, y2, the last two exclusive. counts: COCO's run lengths of what
    lies in the box. area: in pixels.
    """

    tile: int
    box: Box
    counts: str
    area: int
    predicted_iou: float
    stability: float

    def runs(self) -> MaskRuns:
        """The mask's runs in the raster."""
        x1, y1, x2, y2 = self.box
        return shapes.of_rle({"size": [y2 - y1, x2 - x1], "counts": self.counts}, x1, y1)


def piece_of(tile: int, runs: MaskRuns, predicted_iou: float, stability: float) -> Piece:
    """The piece of a mask's runs in the raster, of which there has to be one at least."""
    box = shapes.box_of(runs)
    return Piece(tile, box, shapes.to_rle(runs, box)["counts"], runs.area(), predicted_iou, stability)
