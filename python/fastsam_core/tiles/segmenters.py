"""Segmenters that find the masks of a tile: a SAM model in segment-everything mode, or any callable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .. import rle
from .._log import warn_once
from ..annotate.segmenter import Segmenter
from ..config import EVERYTHING_OPTIONS
from ..detect.protocol import qualified_name
from ..models.native import can_use_native, is_unmodified
from ..models.sam_model import SamModel
from ..models.wrappers import unwrapped
from ..predictor import Predictor
from ..sam import SAM
from ..segment import generate_records
from ..stopwatch import Stopwatch

_CONTRACT = "it must return a list of dicts with segmentation (RLE of the tile, or bool (H, W)) and predicted_iou"


class TileMask(NamedTuple):
    """A mask found in a tile: a COCO RLE of the tile's size, and its scores."""

    rle: dict[str, Any]
    predicted_iou: float
    stability: float


class TileSegmenter(Protocol):
    """Segments tiles, (H, W, 3) uint8 BGR. `settings` is a JSON-serialisable dict of everything the masks depend on."""

    @property
    def settings(self) -> dict[str, Any]: ...

    def __call__(self, tiles: Sequence[NDArray[np.uint8]]) -> Iterator[list[TileMask]]: ...


def load_segmenter(model: Any, device: Any, options: Mapping[str, Any]) -> TileSegmenter:
    """Return the segmenter for a model.

    model: a checkpoint's name or path, a `SamModel`, a `SAM` or a `Predictor`, to which `device` and the
    segment-everything `options` apply; or a callable, which accepts neither. Raises TypeError for another kind of model
    and for options it doesn't accept, ValueError for invalid option values.
    """
    model = unwrapped(model)
    if isinstance(model, (str, os.PathLike, SamModel, SAM, Predictor)):
        for key in options:
            if key not in EVERYTHING_OPTIONS:
                accepted = ", ".join(sorted(EVERYTHING_OPTIONS))
                raise TypeError(f"unknown option {key!r} of segment everything; accepted: {accepted}")
        return ModelSegmenter(model, device, options)
    if not callable(model):
        raise TypeError(
            "model must be a checkpoint's name or path, a SamModel, a SAM, a Predictor, or a callable model(tile), "
            f"not {type(model).__name__}"
        )
    if options or device not in ("", None):
        rejected = [*options, *(["device"] if device not in ("", None) else [])]
        raise TypeError(f"a callable model takes no options; got {', '.join(rejected)}")
    return CallableSegmenter(model)


class ModelSegmenter:
    """Segments everything in each tile with a SAM model, prompted by a grid of points."""

    def __init__(self, model: Any, device: Any, options: Mapping[str, Any]) -> None:
        self._segmenter = Segmenter(model, device)
        self._segmenter.config = self._segmenter.config.updated(options)
        if (name := self._segmenter.predictors_steps) is not None:
            warn_once(f"tiles are segmented without the methods of {name} for inference and postprocessing")

    @property
    def settings(self) -> dict[str, Any]:
        """What the masks depend on: the model's name, a hash of its weights, and the options."""
        return self._segmenter.settings(everything=True)

    def __call__(self, tiles: Sequence[NDArray[np.uint8]]) -> Iterator[list[TileMask]]:
        """Yield the masks of each tile.

        Tiles are encoded in one batch only by the native encoder, whose results are bit-identical for every batch size.
        Elsewhere the rounding of matrix products may depend on the batch size, so tiles are encoded one by one.
        """
        model, config = self._segmenter.model, self._segmenter.config
        encoder = model.image_encoder
        with torch.no_grad():
            is_batch_invariant = (
                config.dtype is None and is_unmodified(encoder) and can_use_native(next(encoder.parameters()))
            )
        for batch in [tiles] if is_batch_invariant else [[tile] for tile in tiles]:
            for image in self._segmenter.encode(batch, [""] * len(batch)):
                records = generate_records(model, image, config, Stopwatch())
                yield [
                    TileMask(record["segmentation"], record["predicted_iou"], record["stability_score"])
                    for record in records
                    if record["predicted_iou"] > config.conf_for(model)
                ]


class CallableSegmenter:
    """Segments tiles with a user-supplied callable and validates what it returns."""

    def __init__(self, model: Callable[[NDArray[np.uint8]], Any]) -> None:
        self._model = model

    @property
    def settings(self) -> dict[str, Any]:
        """What identifies the callable: its attribute `fingerprint`, or else its qualified name."""
        return {"model": str(getattr(self._model, "fingerprint", None) or qualified_name(self._model))}

    def __call__(self, tiles: Sequence[NDArray[np.uint8]]) -> Iterator[list[TileMask]]:
        """Yield the masks of each tile. Raises TypeError or ValueError if the callable breaks its contract."""
        for tile in tiles:
            records = self._model(tile)
            if not isinstance(records, (list, tuple)):
                raise TypeError(f"the model returned a {type(records).__name__} for a tile; {_CONTRACT}")
            yield [_validate_mask(record, tile.shape[0], tile.shape[1]) for record in records]


def _validate_mask(record: Any, height: int, width: int) -> TileMask:
    if not isinstance(record, Mapping) or "segmentation" not in record:
        raise TypeError(f"the model returned {str(record)[:80]!r} among the masks of a tile; {_CONTRACT}")
    mask = record["segmentation"]
    if not isinstance(mask, Mapping):
        pixels = np.asarray(mask)
        if pixels.shape != (height, width) or pixels.dtype != np.bool_:
            raise ValueError(f"the model returned a mask of {pixels.shape} {pixels.dtype} for a tile; {_CONTRACT}")
        (mask,) = rle.from_masks(pixels[None])
    rle.area(mask)  # reads all runs, so it raises here if the RLE is malformed
    if list(mask["size"]) != [height, width]:
        raise ValueError(f"the model returned an RLE of {list(mask['size'])} for a tile of {[height, width]}")
    raw_scores = [record.get(name, 1.0) for name in ("predicted_iou", "stability_score")]
    try:
        scores = [float(score) for score in raw_scores]
    except (TypeError, ValueError):
        raise ValueError(
            f"the model returned scores that aren't numbers: {raw_scores}; leave out what it doesn't have"
        ) from None
    if not np.isfinite(scores).all():
        raise ValueError(f"the model returned scores that aren't finite: {scores}")
    return TileMask(dict(mask), scores[0], scores[1])
