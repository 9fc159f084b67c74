"""One object's mask as label files hold it: run lengths, or polygons; each is made from the other when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import outlines, rle

RLE = dict[str, Any]

# Rounding takes vertices on the picture's border this far outside, in pixels; they can be moved back.
_BEYOND = 0.01


class Segmentation:
    """A mask of a picture of `size` = (height, width). Make it with `from_rle` or `from_polygons`.

    Polygons lie along the edges of pixels: x from 0 to the width, y from 0 to the height. Those of a file are kept as
    they are and written again as they were; those of run lengths are traced, and fill to exactly that mask.
    """

    def __init__(self, size: tuple[int, int], run_lengths: RLE | None, polygons: list[NDArray[np.float64]] | None):
        self.size = size
        self._rle = run_lengths
        self._polygons = polygons

    @classmethod
    def from_rle(cls, run_lengths: Mapping[str, Any]) -> Segmentation:
        """Of a COCO RLE dict, compressed or not. ValueError for a broken one."""
        if not isinstance(run_lengths, Mapping):
            raise TypeError(f"an RLE is a dict with 'size' and 'counts'; got {type(run_lengths).__name__}")
        given = dict(run_lengths)
        if isinstance(given.get("counts"), (list, tuple, np.ndarray)):
            given = rle.frPyObjects(given, 0, 0)
        rle.area(given)  # reads all runs, so that broken ones are found here and not later
        height, width = (int(side) for side in given["size"])
        text = given["counts"]
        text = text if isinstance(text, str) else bytes(text).decode("ascii")
        return cls((height, width), {"size": [height, width], "counts": text}, None)

    @classmethod
    def from_polygons(cls, polygons: Sequence[Any], size: Sequence[int]) -> Segmentation:
        """Of polygons (K, 2), whose union it is; each fills by the even-odd rule, so that bridges leave holes open.

        ValueError for polygons of fewer than three points, or coordinates that aren't finite or beyond 400,000,000.
        """
        height, width = (int(side) for side in size)
        points = [np.asarray(polygon, np.float64) for polygon in polygons]
        if not points:
            raise ValueError("no polygon; a mask without pixels is an RLE")
        for polygon in points:
            if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
                raise ValueError(f"a polygon is (K, 2) x, y with at least 3 points, not {polygon.shape}")
            # What COCO's rasteriser can hold; the negation also catches NaN.
            if not (np.abs(polygon) <= 400_000_000).all():
                raise ValueError("polygon coordinates must be finite and at most 400000000 in size")
        return cls((height, width), None, points)

    @property
    def rle(self) -> RLE:
        """`{"size": [height, width], "counts": str}`; polygons are filled by COCO's rule."""
        if self._rle is None:
            assert self._polygons is not None
            filled = rle.frPyObjects([polygon.ravel().tolist() for polygon in self._polygons], *self.size)
            self._rle = _text(filled[0] if len(filled) == 1 else rle.merge(filled))
        return self._rle

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(rle.area(self.rle))

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 around the pixels: a single one is 1 wide. Zeros where there are none."""
        x, y, width, height = rle.toBbox(self.rle).tolist()
        return x, y, x + width, y + height

    def rings(self, tolerance: float = 0.0) -> list[NDArray[np.float64]]:
        """Polygons (K, 2) whose union is the mask: those of the file, or one for each part with its holes bridged.

        tolerance: traced outlines lose vertices, none of them farther than this many pixels from what remains. The
        default is exact.
        """
        if self._polygons is not None:
            return list(self._polygons)
        return [
            outlines.join([outlines.simplify(contour, tolerance) for contour in (part.exterior, *part.holes)]).astype(
                np.float64
            )
            for part in outlines.trace(outlines.runs_of(self.rle))
        ]

    def ring(self, tolerance: float = 0.0) -> NDArray[np.float64]:
        """All parts and holes bridged into one polygon (K, 2), which fills to the mask; (0, 2) for an empty mask.

        A file's polygons are joined if they lie within the picture and don't overlap; else the mask is traced.
        """
        if self._polygons is not None and self._can_be_joined():
            return outlines.join(self._polygons)
        contours = [
            outlines.simplify(contour, tolerance)
            for part in outlines.trace(outlines.runs_of(self.rle))
            for contour in (part.exterior, *part.holes)
        ]
        return outlines.join(contours).astype(np.float64) if contours else np.zeros((0, 2))

    def _can_be_joined(self) -> bool:
        assert self._polygons is not None
        points = np.concatenate(self._polygons)
        if (points < -_BEYOND).any() or (points > np.array(self.size[::-1]) + _BEYOND).any():
            return False
        filled = rle.frPyObjects([polygon.ravel().tolist() for polygon in self._polygons], *self.size)
        # By the even-odd rule, what two polygons share would be a hole.
        return len(filled) == 1 or int(rle.area(filled).sum()) == self.area

    def __repr__(self) -> str:
        held = "RLE" if self._polygons is None else f"{len(self._polygons)} polygons"
        return f"Segmentation({self.size[0]} x {self.size[1]}, {held})"


def _text(run_lengths: Mapping[str, Any]) -> RLE:
    return {"size": [int(side) for side in run_lengths["size"]], "counts": run_lengths["counts"].decode("ascii")}
