"""`segment`: segment everything in a raster of any size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from .. import option_parsers as parse
from .._progress import progress_bar
from . import run_algebra
from .grid import Grid, Tile
from .merge import merge
from .objects import RasterObjects
from .pieces import Piece, piece_from_runs
from .segmenters import TileMask, TileSegmenter, load_segmenter
from .store import TileFiles, tile_digest
from .windows import Raster, Windows, open_raster

# A mask is dropped if at most this fraction of its pixels has data.
_MIN_VALID_FRACTION = 0.5


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
    merge_iou = parse.number(0, 1)("merge_iou", merge_iou)
    if merge_iou == 1:
        raise ValueError("merge_iou must be below 1: no IoU is greater")
    batch = parse.integer(1)("batch", batch)
    with open_raster(image) as raster:
        grid = Grid(raster.height, raster.width, tile, overlap)
        segmenter = load_segmenter(model, device, options)
        settings = {"height": raster.height, "width": raster.width, "tile": grid.tile_size, "overlap": grid.overlap}
        with TileFiles(work_dir, settings | segmenter.settings) if work_dir is not None else nullcontext() as files:
            pieces = _segment_tiles(raster, grid, segmenter, files, batch)
        with progress_bar(total=len(grid), desc="merge", unit="tile") as bar:
            merged = list(merge(pieces, grid, merge_iou, bar.update))
        return RasterObjects(merged, raster.height, raster.width, raster.georeference, raster.name)


def _segment_tiles(
    raster: Raster, grid: Grid, segmenter: TileSegmenter, files: TileFiles | None, batch: int
) -> list[Piece]:
    """Return the masks of all tiles, ordered by tile number. Finished tiles are read from `files`."""
    pieces_by_tile: dict[int, list[Piece]] = {}
    with progress_bar(total=len(grid), desc="tiles", unit="tile") as bar:
        pending: list[_LoadedTile] = []
        for tile in grid:
            loaded = _LoadedTile(raster, tile)
            finished = None if files is None else files.read(tile, loaded.digest)
            if finished is None and loaded.is_blank:
                finished = []
                if files is not None:
                    files.write(tile, loaded.digest, finished)
            if finished is not None:
                pieces_by_tile[tile.number] = finished
                bar.update()
                continue
            pending.append(loaded)
            if len(pending) == batch:
                _segment_batch(pending, segmenter, files, pieces_by_tile, bar.update)
                pending = []
        _segment_batch(pending, segmenter, files, pieces_by_tile, bar.update)
    return [piece for number in range(len(grid)) for piece in pieces_by_tile[number]]


class _LoadedTile:
    """A tile and its pixels."""

    def __init__(self, raster: Raster, tile: Tile) -> None:
        self.tile = tile
        self.pixels, self.valid = raster.read(tile.box)

    @cached_property
    def digest(self) -> str:
        """Digest of the tile as it was read, so first taken before a model gets the tile, which it may modify."""
        return tile_digest(self.pixels, self.valid)

    @property
    def is_blank(self) -> bool:
        """Whether no pixel of the tile has data."""
        return self.valid is not None and not self.valid.any()

    def pieces(self, masks: list[TileMask]) -> Iterator[Piece]:
        """Yield the masks in raster coordinates, without pixels that have no data. Mostly invalid masks are dropped."""
        x1, y1, _, _ = self.tile.box
        height, width = self.tile.size
        valid = None if self.valid is None else run_algebra.MaskRuns.from_mask(self.valid)
        for mask in masks:
            runs = run_algebra.from_rle(mask.rle, 0, 0)
            area = runs.area()
            if valid is not None:
                runs = run_algebra.intersection(runs, valid, height, width)
            if runs.area() > _MIN_VALID_FRACTION * area:
                yield piece_from_runs(
                    self.tile.number, run_algebra.translate(runs, x1, y1), mask.predicted_iou, mask.stability
                )


def _segment_batch(
    batch: list[_LoadedTile],
    segmenter: TileSegmenter,
    files: TileFiles | None,
    pieces_by_tile: dict[int, list[Piece]],
    on_tile_done: Callable[[], Any],
) -> None:
    """Segment the tiles of `batch`, save their masks to `files` and store them in `pieces_by_tile`.

    on_tile_done: called for each tile.
    """
    for loaded, masks in zip(batch, segmenter([loaded.pixels for loaded in batch]), strict=True):
        pieces = list(loaded.pieces(masks))
        if files is not None:
            files.write(loaded.tile, loaded.digest, pieces)
        pieces_by_tile[loaded.tile.number] = pieces
        on_tile_done()
