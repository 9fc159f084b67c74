"""SAM for annotation: encodes images together, and makes masks for boxes or for everything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..config import Config
from ..encoded_image import EncodedImage, encode_batch
from ..models.fingerprint import weights_hash
from ..models.sam_model import SamModel
from ..models.wrappers import unwrapped
from ..predictor import Predictor
from ..prompts import Prompts
from ..results import Results
from ..sam import SAM
from ..segment import segment_everything, segment_prompts
from ..stopwatch import Stopwatch


class Segmenter:
    """A SAM model with its options.

    sam_model: a checkpoint's name or path, a `SamModel`, a `SAM` or a `Predictor`. Methods that a subclass of
    `Predictor` overrides are used. device: "" keeps the model's.
    """

    def __init__(self, sam_model: Any, device: Any = "") -> None:
        sam_model = unwrapped(sam_model)
        if isinstance(sam_model, (str, os.PathLike, SamModel)):
            sam_model = SAM(sam_model)
        if isinstance(sam_model, SAM):
            self._predictor: Predictor = sam_model._prepare_predictor()
        elif isinstance(sam_model, Predictor):
            self._predictor = sam_model
        else:
            raise TypeError(
                "sam_model must be a checkpoint's name or path, a SamModel, a SAM or a Predictor, "
                f"not {type(sam_model).__name__}"
            )
        self.config: Config = self._predictor.args
        if device not in ("", None):
            self.config = self.config.updated({"device": device})

    @property
    def predictors_steps(self) -> str | None:
        """Name of the predictor's class if it has methods of its own for making masks; else None."""
        return type(self._predictor).__name__ if self._predictor.has_own_steps else None

    @property
    def model(self) -> SamModel:
        """The loaded model, on the device and with the settings that the options ask for."""
        return self._predictor._ready_model(self.config)

    def settings(self, everything: bool) -> dict[str, Any]:
        """Return what masks depend on, JSON-ready: the model's name, a hash of its weights, and the options."""
        model = self.model
        settings: dict[str, Any] = {
            "sam_model": f"{model.name} sha256:{weights_hash(model, model.normalisation)[:16]}",
            "sam.conf": self.config.conf_for(model),
            "sam.imgsz": model.image_size,
            "sam.mask_scoring": asdict(model.mask_scoring),
            "sam.dtype": str(self.config.dtype or model.dtype).removeprefix("torch."),
        }
        if everything:
            options = self.config.generate_options(model)
            grids = options.pop("point_grids")
            settings |= {f"sam.{key}": value for key, value in options.items() if key != "points_batch_size"}
            settings["sam.point_grids"] = None if grids is None else [np.asarray(grid).tolist() for grid in grids]
        return settings

    def encode(self, images: Sequence[NDArray[np.uint8]], paths: Sequence[str]) -> list[EncodedImage]:
        """Wrap BGR uint8 (H, W, 3) images; several are encoded in one pass, a single one only when it is needed."""
        own_encoder = self._predictor._own_encoder()

        def encode(bgr: NDArray[np.uint8]) -> Tensor:
            assert own_encoder is not None
            with self._predictor._in_call(self.config):
                return own_encoder(bgr)

        encoder = None if own_encoder is None else encode
        encoded = [EncodedImage(image, path, own_encoder=encoder) for image, path in zip(images, paths, strict=True)]
        if len(encoded) > 1:
            encode_batch(self.model, encoded, self.config.dtype)
        return encoded

    def segment_boxes(self, image: EncodedImage, boxes: NDArray[np.float32]) -> Results:
        """Return the masks of boxes (N, 4), decoded in chunks.

        A mask's class is the index of its box, as some boxes may get no mask.
        """
        prompts = Prompts.parse(bboxes=boxes)
        assert prompts is not None
        if self._predictor.has_own_steps and len(prompts):
            return self._predictor.segment_by_own_steps(image, self.config, prompts, {"bboxes": boxes})
        return segment_prompts(self.model, image, prompts, False, self.config, Stopwatch())

    def segment_everything(self, image: EncodedImage) -> Results:
        """Return all masks of the image."""
        if self._predictor.has_own_steps:
            return self._predictor.segment_by_own_steps(image, self.config, None, {})
        return segment_everything(self.model, image, self.config, Stopwatch())
