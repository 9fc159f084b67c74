"""The objects of a raster: masks as run lengths in their boxes, with 64-bit places."""

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
from .._files import check_folder
from ..base_tensor import select
from ..outlines import Outline, trace
from ..runs import MaskRuns
from . import shapes
from .georeference import Georeference
from .pieces import Piece

RLE = dict[str, Any]
SUFFIXES = (".gpkg", ".geojson", ".json")


@dataclass(frozen=True, eq=False)
class RasterObject:
    """One object.

    box: (4,) int64 x1, y1, x2, y2 in pixels of the raster, x2 and y2 exclusive: a mask of one pixel is 1 wide.
    area: in pixels. predicted_iou, stability: of the model, the means over the tiles that show the object, weighted by
    area. mask: COCO RLE of what lies in the box, `{"size": [y2 - y1, x2 - x1], "counts": str}`.
    """

    box: NDArray[np.int64]
    area: int
    predicted_iou: float
    stability: float
    mask: RLE

    @property
    def offset(self) -> NDArray[np.int64]:
        """(2,) x, y of the mask's upper left pixel in the raster."""
        return self.box[:2]

    def dense(self, y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
        """What a window of the raster shows of the object: bool (height, width). It may leave the box."""
        left, top = self.offset.tolist()
        shown = rle.decode(rle.crop(self.mask, [x - left, y - top, width, height]))
        return np.ascontiguousarray(shown).view(bool)

    def polygons(self) -> list[Outline]:
        """Its parts with their holes, along the edges of pixels: exteriors (K, 2) int64 x, y, clockwise as seen.

        They fill to exactly the mask, and are valid by OGC's Simple Features: pixels that touch only at a corner belong
        to different parts, and no ring meets itself.
        """
        runs = shapes.of_rle(self.mask, *self.offset.tolist())
        labels = shapes.part_labels(runs)
        # All parts are traced at once, each in columns of its own, so that they don't meet.
        stride = int(self.box[2] - self.box[0]) + 2
        columns = runs.columns - self.box[0] + labels * stride
        order = np.lexsort((runs.tops, columns))
        outlines = trace(MaskRuns(columns[order], runs.tops[order], runs.bottoms[order]))
        return [
            Outline(self._back(part.exterior, stride), [self._back(hole, stride) for hole in part.holes])
            for part in outlines
        ]

    def _back(self, contour: NDArray[np.int64], stride: int) -> NDArray[np.int64]:
        part = int(contour[:, 0].min()) // stride
        return contour + np.array([int(self.box[0]) - part * stride, 0])


class RasterObjects(Sequence[RasterObject]):
    """The objects of a raster of `height` x `width` pixels, by the tiles that show them first.

    boxes: (N, 4) int64, areas: (N,) int64, predicted_iou, stability: (N,) float64; see `RasterObject`. georeference:
    where the raster lies, if it says so. name: of its file.
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
        """WKT of the coordinate reference system, if the raster has one."""
        return (self.georeference.crs or None) if self.georeference is not None else None

    @property
    def transform(self) -> tuple[float, float, float, float, float, float] | None:
        """The affine transform from pixels to the system, see `Georeference`."""
        return None if self.georeference is None else self.georeference.transform

    def __len__(self) -> int:
        return len(self._counts)

    @overload
    def __getitem__(self, index: int) -> RasterObject: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> RasterObjects: ...
    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> RasterObject | RasterObjects:
        """One object, or those of a slice, a list, or a bool or integer array, as in `objects[objects.areas > 500]`."""
        if not isinstance(index, int | np.integer):
            return self._chosen(np.arange(len(self))[select(index, len(self))])
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
        """The objects whose boxes share pixels with a window."""
        x1, y1, x2, y2 = self.boxes.T
        meets = (np.maximum(x1, x) < np.minimum(x2, x + width)) & (np.maximum(y1, y) < np.minimum(y2, y + height))
        return self._chosen(np.flatnonzero(meets))

    def dense(self, y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
        """What a window of the raster shows of each object: bool (N, height, width)."""
        shown = np.zeros((len(self), height, width), bool)
        for place, found in enumerate(self):
            shown[place] = found.dense(y, x, height, width)
        return shown

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a file, whole or not at all, and return its path; the suffix says what.

        .json: COCO, one image, each mask an RLE of the whole raster (readers whose counts have 32 bits stop at 2^32
        pixels). .geojson: polygons, in degrees on WGS 84 (RFC 7946) where the raster has a reference system, else in
        pixels. .gpkg: a GeoPackage with the polygons in the raster's reference system, or its transform's coordinates,
        or in pixels with y upwards from 0 to minus the height. Polygons have `id` (from 1), `area` in pixels,
        `predicted_iou` and `stability`; they follow the edges of pixels, with holes.

        ValueError for another suffix, and for GeoJSON of a raster that has no place on WGS 84; ImportError for GeoJSON
        of a raster with a reference system without rasterio.
        """
        from . import coco, geojson, geopackage

        writers = {".json": coco.write, ".geojson": geojson.write, ".gpkg": geopackage.write}
        target = self.check_path(path)
        writers[target.suffix.lower()](self, target)
        return target

    @staticmethod
    def check_path(path: str | os.PathLike[str]) -> Path:
        """The path as `save` takes it.

        ValueError for one with another suffix, of a folder, or below a file; PermissionError in a read-only folder.
        """
        target = Path(path)
        above = next((folder for folder in target.parents if os.path.lexists(folder)), None)
        if above is not None and not above.is_dir():
            raise ValueError(f"{os.fspath(path)!r} can't be created: {above} is not a folder")
        if target.suffix.lower() not in SUFFIXES or target.is_dir():
            raise ValueError(f"objects are saved as a {', '.join(SUFFIXES)} file, not {os.fspath(path)!r}")
        check_folder(target.parent)
        return target

    def __repr__(self) -> str:
        return f"RasterObjects({len(self)} of {self.height} x {self.width})"

    def _chosen(self, places: NDArray[np.int64]) -> RasterObjects:
        found = copy.copy(self)
        found.boxes, found.areas = self.boxes[places], self.areas[places]
        found.predicted_iou, found.stability = self.predicted_iou[places], self.stability[places]
        found._counts = [self._counts[place] for place in places]
        return found

    def rles(self) -> Iterator[RLE]:
        """COCO RLE of the whole raster for each object; counts and sizes may need 64 bits."""
        for found in self:
            yield rle.paste(found.mask, found.offset, [self.height, self.width])
