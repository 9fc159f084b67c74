"""The objects of a raster: masks stored as run lengths within their boxes, with 64-bit coordinates."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .. import rle
from .._files import check_writable
from ..base_tensor import resolve_index
from ..outlines import Outline, trace
from ..runs import MaskRuns
from . import run_algebra
from .georeference import Georeference
from .pieces import Piece

RLE = dict[str, Any]
SUFFIXES = (".gpkg", ".geojson", ".json")


@dataclass(frozen=True, eq=False)
class RasterObject:
    """One object of a raster.

    box: (4,) int64 x1, y1, x2, y2 in raster pixels, x2 and y2 exclusive, so a mask of one pixel has width 1.
    area: number of pixels. predicted_iou, stability: scores by the model. For an object found in several tiles they are
    averaged over the masks of these tiles, weighted by area. mask: COCO RLE of the mask within the box,
    `{"size": [y2 - y1, x2 - x1], "counts": str}`.
    """

    box: NDArray[np.int64]
    area: int
    predicted_iou: float
    stability: float
    mask: RLE

    @property
    def offset(self) -> NDArray[np.int64]:
        """Position of the mask's upper left pixel in the raster, (2,) x, y."""
        return self.box[:2]

    def dense(self, y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask within a window of the raster, bool (height, width). The window may exceed the box."""
        left, top = self.offset.tolist()
        window_mask = rle.decode(rle.crop(self.mask, [x - left, y - top, width, height]))
        return np.ascontiguousarray(window_mask).view(bool)

    def polygons(self) -> list[Outline]:
        """Return the object's parts with their holes as outlines along pixel edges, in raster coordinates.

        Exteriors are (K, 2) int64 x, y, clockwise on screen (y down). Filling the outlines gives exactly the mask. They
        are valid by OGC's Simple Features: pixels that touch only at a corner belong to different parts, and no ring
        touches itself.
        """
        runs = run_algebra.from_rle(self.mask, *self.offset.tolist())
        labels = run_algebra.component_labels(runs)
        # Trace all parts in one call. Each is shifted to a range of columns of its own, so that parts never touch.
        stride = int(self.box[2] - self.box[0]) + 2
        columns = runs.columns - self.box[0] + labels * stride
        order = np.lexsort((runs.tops, columns))
        outlines = trace(MaskRuns(columns[order], runs.tops[order], runs.bottoms[order]))
        return [
            Outline(self._unshift(part.exterior, stride), [self._unshift(hole, stride) for hole in part.holes])
            for part in outlines
        ]

    def _unshift(self, contour: NDArray[np.int64], stride: int) -> NDArray[np.int64]:
        """Undo the column shift that `polygons` gave the part."""
        part = int(contour[:, 0].min()) // stride
        return contour + np.array([int(self.box[0]) - part * stride, 0])


class RasterObjects(Sequence[RasterObject]):
    """The objects of a raster of `height` x `width` pixels, ordered by the first tile that shows them.

    boxes: (N, 4) int64. areas: (N,) int64. predicted_iou, stability: (N,) float64. See `RasterObject`. georeference:
    position of the raster on the Earth, or None if unknown. name: name of the raster, usually of its file.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        height: int,
        width: int,
        georeference: Georeference | None = None,
        name: str = "raster",
    ) -> None:
        self.height, self.width, self.georeference, self.name = height, width, georeference, name
        self.boxes: NDArray[np.int64] = np.array([piece.box for piece in pieces], np.int64).reshape(-1, 4)
        self.areas: NDArray[np.int64] = np.array([piece.area for piece in pieces], np.int64)
        self.predicted_iou: NDArray[np.float64] = np.array([piece.predicted_iou for piece in pieces], np.float64)
        self.stability: NDArray[np.float64] = np.array([piece.stability for piece in pieces], np.float64)
        self._counts = [piece.counts for piece in pieces]

    @property
    def crs(self) -> str | None:
        """WKT of the coordinate reference system, or None if the raster has none."""
        return (self.georeference.crs or None) if self.georeference is not None else None

    @property
    def transform(self) -> tuple[float, float, float, float, float, float] | None:
        """Affine transform from pixels to map coordinates, see `Georeference`; None without a georeference."""
        return None if self.georeference is None else self.georeference.transform

    def __len__(self) -> int:
        return len(self._counts)

    @overload
    def __getitem__(self, index: int) -> RasterObject: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> RasterObjects: ...
    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> RasterObject | RasterObjects:
        """Return one object for an integer, or a subset for a slice, a list, or an integer or bool array.

        For example, `objects[objects.areas > 500]`.
        """
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            return self._subset(np.arange(len(self))[resolve_index(index, len(self))])
        box = self.boxes[index]
        x1, y1, x2, y2 = box.tolist()
        return RasterObject(
            box.copy(),
            int(self.areas[index]),
            float(self.predicted_iou[index]),
            float(self.stability[index]),
            {"size": [y2 - y1, x2 - x1], "counts": self._counts[index]},
        )

    def within(self, y: int, x: int, height: int, width: int) -> RasterObjects:
        """Return the objects whose boxes overlap a window of the raster."""
        x1, y1, x2, y2 = self.boxes.T
        overlaps = (np.maximum(x1, x) < np.minimum(x2, x + width)) & (np.maximum(y1, y) < np.minimum(y2, y + height))
        return self._subset(np.flatnonzero(overlaps))

    def dense(self, y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask of each object within a window of the raster, bool (N, height, width)."""
        masks = np.zeros((len(self), height, width), bool)
        for index, obj in enumerate(self):
            masks[index] = obj.dense(y, x, height, width)
        return masks

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the objects to a file atomically and return its path. The suffix selects the format.

        - `.json`: COCO with one image. Each mask is an RLE of the whole raster; readers with 32-bit counts are limited
          to 2^32 pixels.
        - `.geojson`: polygons, in degrees on WGS 84 (RFC 7946) if the raster has a reference system, else in pixels.
        - `.gpkg`: a GeoPackage with polygons in the raster's reference system; in the coordinates of its transform if
          it has only that; else in pixels with y pointing up, from 0 to minus the height.

        Polygons follow pixel edges, include holes, and have the attributes `id` (from 1), `area` in pixels,
        `predicted_iou` and `stability`.

        Raises:
            ValueError: For another suffix, or for GeoJSON of a raster that can't be placed on WGS 84.
            ImportError: For GeoJSON of a raster with a reference system, if rasterio isn't installed.
        """
        from . import coco, geojson, geopackage

        writers = {".json": coco.write, ".geojson": geojson.write, ".gpkg": geopackage.write}
        target = self.check_path(path)
        writers[target.suffix.lower()](self, target)
        return target

    @staticmethod
    def check_path(path: str | os.PathLike[str]) -> Path:
        """Return `path` as a `Path` after checking that `save` can write there.

        Raises ValueError if the suffix is unsupported, or if the path is a folder or lies below a file; PermissionError
        if its folder is read-only.
        """
        target = Path(os.path.expanduser(path))
        ancestor = next((folder for folder in target.parents if os.path.lexists(folder)), None)
        if ancestor is not None and not ancestor.is_dir():
            raise ValueError(f"{os.fspath(path)!r} can't be created: {ancestor} is not a folder")
        if target.suffix.lower() not in SUFFIXES or target.is_dir():
            raise ValueError(f"objects are saved as a {', '.join(SUFFIXES)} file, not {os.fspath(path)!r}")
        check_writable(target.parent)
        return target

    def __repr__(self) -> str:
        return f"RasterObjects({len(self)} of {self.height} x {self.width})"

    def _subset(self, indices: NDArray[np.int64]) -> RasterObjects:
        subset = copy.copy(self)
        subset.boxes, subset.areas = self.boxes[indices], self.areas[indices]
        subset.predicted_iou, subset.stability = self.predicted_iou[indices], self.stability[indices]
        subset._counts = [self._counts[index] for index in indices]
        return subset

    def rles(self) -> Iterator[RLE]:
        """Yield each object's mask as a COCO RLE of the whole raster. Its size and counts may need 64-bit integers."""
        for obj in self:
            yield rle.paste(obj.mask, obj.offset, [self.height, self.width])
