"""`Segmentation`, one object's mask in a label file: run lengths or polygons, each converted to the other on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import outlines, rle

RLE = dict[str, Any]

# Pixels by which rounding may put vertices beyond the image's border; such vertices can be clipped to it.
_BORDER_TOLERANCE = 0.01


class Segmentation:
    """A mask of an image of `size` = (height, width). Make it with `from_rle` or `from_polygons`.

    Polygons lie along pixel edges: x from 0 to the width, y from 0 to the height. Those of a file are kept and written
    again unchanged; those of run lengths are traced, and fill to exactly that mask.
    """

    def __init__(self, size: tuple[int, int], run_lengths: RLE | None, polygons: list[NDArray[np.float64]] | None):
        self.size = size
        self._rle = run_lengths
        self._polygons = polygons

    @classmethod
    def from_rle(cls, run_lengths: Mapping[str, Any]) -> Segmentation:
        """Make a mask from a COCO RLE dict, compressed or not. ValueError if it is malformed, TypeError if no dict."""
        if not isinstance(run_lengths, Mapping):
            raise TypeError(f"an RLE is a dict with 'size' and 'counts'; got {type(run_lengths).__name__}")
        rle_dict = dict(run_lengths)
        if isinstance(rle_dict.get("counts"), (list, tuple, np.ndarray)):
            rle_dict = rle.frPyObjects(rle_dict, 0, 0)
        rle.area(rle_dict)  # reads all runs, so that malformed ones raise here and not later
        height, width = (int(side) for side in rle_dict["size"])
        counts = rle_dict["counts"]
        counts = counts if isinstance(counts, str) else bytes(counts).decode("ascii")
        return cls((height, width), {"size": [height, width], "counts": counts}, None)

    @classmethod
    def from_polygons(cls, polygons: Sequence[Any], size: Sequence[int]) -> Segmentation:
        """Make a mask from the union of polygons (K, 2). The even-odd rule fills each, so that bridges keep holes open.

        ValueError for polygons of fewer than three points, or coordinates that aren't finite or beyond 400,000,000.
        """
        height, width = (int(side) for side in size)
        points = [np.asarray(polygon, np.float64) for polygon in polygons]
        if not points:
            raise ValueError("no polygon; a mask without pixels is an RLE")
        for polygon in points:
            if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
                raise ValueError(f"a polygon is (K, 2) x, y with at least 3 points, not {polygon.shape}")
            # The limit of COCO's rasteriser. NaN fails the comparison too.
            if not (np.abs(polygon) <= 400_000_000).all():
                raise ValueError("polygon coordinates must be finite and at most 400000000 in magnitude")
        return cls((height, width), None, points)

    @property
    def rle(self) -> RLE:
        """`{"size": [height, width], "counts": str}`; polygons are filled by COCO's rule."""
        if self._rle is None:
            assert self._polygons is not None
            parts = rle.frPyObjects([polygon.ravel().tolist() for polygon in self._polygons], *self.size)
            self._rle = _with_text_counts(parts[0] if len(parts) == 1 else rle.merge(parts))
        return self._rle

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(rle.area(self.rle))

    @property
    def bounding_box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 along the edges of the mask's pixels: a single pixel is 1 wide. Zeros for an empty mask."""
        x, y, width, height = rle.toBbox(self.rle).tolist()
        return x, y, x + width, y + height

    def to_polygons(self, tolerance: float = 0.0) -> list[NDArray[np.float64]]:
        """Return polygons (K, 2) whose union is the mask: those of the file, or one per part with its holes bridged.

        tolerance: traced outlines may lose vertices that lie at most this many pixels from what remains. The default is
        exact.
        """
        if self._polygons is not None:
            return list(self._polygons)
        return [
            outlines.join([outlines.simplify(contour, tolerance) for contour in (part.exterior, *part.holes)]).astype(
                np.float64
            )
            for part in outlines.trace(outlines.runs_from_rle(self.rle))
        ]

    def to_single_polygon(self, tolerance: float = 0.0) -> NDArray[np.float64]:
        """Return one polygon (K, 2) of all parts and holes, joined by bridges, that fills to the mask; (0, 2) if empty.

        A file's polygons are joined if they lie within the image and don't overlap; otherwise the mask is traced.
        """
        if self._polygons is not None and self._can_be_joined():
            return outlines.join(self._polygons)
        contours = [
            outlines.simplify(contour, tolerance)
            for part in outlines.trace(outlines.runs_from_rle(self.rle))
            for contour in (part.exterior, *part.holes)
        ]
        return outlines.join(contours).astype(np.float64) if contours else np.zeros((0, 2))

    def _can_be_joined(self) -> bool:
        assert self._polygons is not None
        points = np.concatenate(self._polygons)
        if (points < -_BORDER_TOLERANCE).any() or (points > np.array(self.size[::-1]) + _BORDER_TOLERANCE).any():
            return False
        parts = rle.frPyObjects([polygon.ravel().tolist() for polygon in self._polygons], *self.size)
        # In one polygon, the even-odd rule would make a hole of where two polygons overlap.
        return len(parts) == 1 or int(rle.area(parts).sum()) == self.area

    def __repr__(self) -> str:
        source = "RLE" if self._polygons is None else f"{len(self._polygons)} polygons"
        return f"Segmentation({self.size[0]} x {self.size[1]}, {source})"


def _with_text_counts(run_lengths: Mapping[str, Any]) -> RLE:
    return {"size": [int(side) for side in run_lengths["size"]], "counts": run_lengths["counts"].decode("ascii")}
