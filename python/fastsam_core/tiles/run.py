"""`segment`: segment everything in a raster of any size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from numpy.typing import NDArray

from ..config import _integer, _number
from . import shapes
from .grid import Grid, Tile
from .merge import merge
from .objects import RasterObjects
from .pieces import Piece, piece_of
from .segmenters import Found, TileSegmenter, load_segmenter
from .store import TileFiles, digest
from .windows import Raster, Windows, open_raster

# A mask is dropped if at most this fraction of its pixels has data.
_LEAST_VALID = 0.5


def segment(
    image: NDArray[Any] | str | os.PathLike[str] | Windows,
    model: Any = "sam_nano.pt",
    *,
    tile: int = 1024,
    overlap: int = 128,
    merge_iou: float = 0.5,
    batch: int = 1,
    work_dir: str | os.PathLike[str] | None = None,
    device: Any = "",
    **options: Any,
) -> RasterObjects:
    """Segment everything in a raster too large for memory or for a single model input.

    The raster is cut into overlapping tiles and each tile is segmented. Masks that agree where tiles overlap are
    merged, so an object that spans many tiles is returned once. Memory use depends on the tile size and on the number
    of runs in the masks, not on the number of pixels.

    Args:
        image: An array (H, W, 3) uint8 BGR (or (H, W), (H, W, 4), uint16): only windows are copied, so a
            `numpy.memmap` stays on disk. The path of an image. The path of a GeoTIFF, or of a TIFF with a world file,
            which is read window by window (extra `geo`; see `GeoTiffWindows` for bands and bit depths). Or any object
            with `height`, `width` and `read(y, x, height, width)`, see `Windows`.
        model: A checkpoint name or path; a `SAM` or a `Predictor`, whose options then apply; or a callable that takes
            a tile, (H, W, 3) uint8 BGR, and returns a list of dicts with `segmentation` (an RLE of the tile's size, or
            bool (H, W)) and optionally `predicted_iou` and `stability_score`.
        tile: Side of a tile in pixels. The model resizes it to its own input, so smaller tiles find smaller objects.
        overlap: Minimum number of pixels that neighbouring tiles share, at most half of `tile`. An object smaller than
            this lies entirely within some tile.
        merge_iou: Threshold in [0, 1). Two masks of overlapping tiles are one object if their IoU within the overlap
            area, or the IoU of a connected part of each, is greater than this. At 0.5 or above, a mask can match at
            most one of several masks that don't overlap in their tile (Kirillov et al., Panoptic Segmentation, 2019).
        batch: Number of tiles read at a time. They are also encoded together where that gives bit-identical results,
            i.e. by the native encoder on the CPU. Results don't depend on it.
        work_dir: Folder that stores one file per finished tile. Repeating the call resumes an interrupted run and gives
            the same result. `merge_iou` and `batch` may change between runs. A callable is identified by its attribute
            `fingerprint`, or else by its name.
        device: Device of the model; "" selects the GPU if there is one.
        options: Options of segment everything, applied to each tile: `points_stride`, `conf_thres`,
            `min_mask_region_area` and so on, as for `SAM`.

    Raises:
        ValueError: For invalid options, an unreadable file, or a `work_dir` made from other settings or pixels.
        TypeError: For an image or model of an unsupported type, or an unknown option.
        FileNotFoundError: If the file doesn't exist.
        ImportError: For a GeoTIFF without the extra `geo`.
    """
    merge_iou = _number(0, 1)("merge_iou", merge_iou)
    if merge_iou == 1:
        raise ValueError("merge_iou must be below 1: no IoU is greater")
    batch = _integer(1)("batch", batch)
    with open_raster(image) as raster:
        grid = Grid(raster.height, raster.width, tile, overlap)
        segmenter = load_segmenter(model, device, options)
        settings = {"height": raster.height, "width": raster.width, "tile": grid.side, "overlap": grid.overlap}
        with TileFiles(work_dir, settings | segmenter.settings) if work_dir is not None else nullcontext() as files:
            pieces = _segment_tiles(raster, grid, segmenter, files, batch)
        with _bar(grid, "merge") as bar:
            found = list(merge(pieces, grid, merge_iou, bar.update))
        return RasterObjects(found, raster.height, raster.width, raster.georeference, raster.name)


def _segment_tiles(
    raster: Raster, grid: Grid, segmenter: TileSegmenter, files: TileFiles | None, batch: int
) -> list[Piece]:
    """Return the masks of all tiles, ordered by tile number. Finished tiles are read from `files`."""
    of_tiles: dict[int, list[Piece]] = {}
    with _bar(grid, "tiles") as bar:
        waiting: list[_Loaded] = []
        for tile in grid:
            loaded = _Loaded(raster, tile)
            content = "" if files is None else digest(loaded.pixels, loaded.valid)
            done = None if files is None else files.read(tile, content)
            if done is None and loaded.is_blank:
                done = []
                if files is not None:
                    files.write(tile, content, done)
            if done is not None:
                of_tiles[tile.number] = done
                bar.update()
                continue
            loaded.digest = content
            waiting.append(loaded)
            if len(waiting) == batch:
                _finish(waiting, segmenter, files, of_tiles, bar.update)
                waiting = []
        _finish(waiting, segmenter, files, of_tiles, bar.update)
    return [piece for number in range(len(grid)) for piece in of_tiles[number]]


class _Loaded:
    """A tile and its pixels."""

    def __init__(self, raster: Raster, tile: Tile) -> None:
        self.tile = tile
        self.pixels, self.valid = raster.read(tile.box)
        self.digest = ""

    @property
    def is_blank(self) -> bool:
        """Whether no pixel of the tile has data."""
        return self.valid is not None and not self.valid.any()

    def pieces(self, found: list[Found]) -> Iterator[Piece]:
        """Yield the masks in raster coordinates, without pixels that have no data. Mostly invalid masks are dropped."""
        x1, y1, _, _ = self.tile.box
        height, width = self.tile.size
        valid = None if self.valid is None else shapes.MaskRuns.from_mask(self.valid)
        for mask in found:
            runs = shapes.of_rle(mask.rle, 0, 0)
            area = runs.area()
            if valid is not None:
                runs = shapes.common(runs, valid, height, width)
            if runs.area() > _LEAST_VALID * area:
                yield piece_of(self.tile.number, shapes.moved(runs, x1, y1), mask.predicted_iou, mask.stability)


def _finish(
    waiting: list[_Loaded],
    segmenter: TileSegmenter,
    files: TileFiles | None,
    of_tiles: dict[int, list[Piece]],
    step: Callable[[], Any],
) -> None:
    """Segment the `waiting` tiles, save their masks to `files`, store them in `of_tiles` and call `step` for each."""
    if not waiting:
        return
    for loaded, found in zip(waiting, segmenter([loaded.pixels for loaded in waiting]), strict=True):
        pieces = list(loaded.pieces(found))
        if files is not None:
            files.write(loaded.tile, loaded.digest, pieces)
        of_tiles[loaded.tile.number] = pieces
        step()


def _bar(grid: Grid, what: str) -> Any:
    """Return a progress bar over all tiles, shown only on a terminal."""
    from tqdm.auto import tqdm

    return tqdm(total=len(grid), desc=what, unit="tile", disable=None)
