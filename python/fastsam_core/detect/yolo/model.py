"""`YOLO`: load a network of the YOLOv8 family and call it on anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch

from ...model_facade import MAKING, ModelFacade, Summary
from ...prediction_loop import Callback
from ...results import Results
from .flops import gflops
from .loaded import load
from .network import Network
from .predictor import YoloPredictor


class YOLO(ModelFacade):
    """A network of the YOLOv8 family, on the CPU until a call moves it.

    model: an official name ("yolov8n.pt" to "yolov8x.pt", "yolov8n-seg.pt" ..., with or without the suffix), which is
    downloaded if need be, or a checkpoint's path (.pt or .safetensors). task: for callers that say it; the network
    knows.

    `model` is the module; `names` its classes by number; `overrides` holds options for all calls. `predictor` is None
    before the first call. Checkpoints are read without importing or running anything that they name.
    """

    # Options in which a call differs from a predictor used directly: nothing is written unless asked for.
    _defaults: dict[str, Any] = {"dtype": None, "mode": "predict", "save": False}  # noqa: RUF012 - never changed
    _predictor: type[YoloPredictor] = YoloPredictor

    def __init__(
        self, model: str | os.PathLike[str] = "yolov8n.pt", task: str | None = None, verbose: bool = False
    ) -> None:
        if not isinstance(model, str | os.PathLike):
            raise TypeError(f"model must be a checkpoint's name or path, not {type(model).__name__}")
        self.model_name = self.ckpt_path = os.fspath(model)
        self.loaded = load(model)
        self.model: Network = self.loaded.network
        self.overrides: dict[str, Any] = {} if task is None else {"task": task}
        self.callbacks: dict[str, list[Callback]] = {}
        self.predictor: YoloPredictor | None = None

    @property
    def names(self) -> dict[int, str]:
        """The classes by number; others may be assigned, here and to `model.names`."""
        return self.model.names

    @names.setter
    def names(self, names: dict[int, str]) -> None:
        self.model.names = names

    @property
    def task(self) -> str:
        """What the network does: "detect" or "segment"."""
        return self.model.sizes.task

    def __call__(self, source: Any = None, stream: bool = False, **kwargs: Any) -> list[Results] | Iterator[Results]:
        """Results of every picture of `source`, in order. `predict` is the same.

        source: path, folder, glob, list file, URL, video, stream, BGR array, Pillow image, RGB tensor or batch, or a
        list of these; None means the pictures that come with the package. stream: an iterator that works as it is
        consumed, instead of a list. kwargs: options of `config.DetectConfig` with their aliases, for this call.

        A result's boxes are x1, y1, x2, y2, score, class, the best first. Masks of a segmentation network have the
        picture's resolution, are held as run lengths whose pixels are uint8, and are None where nothing was found.

        Raises TypeError for an unknown option or a value of the wrong type, ValueError for one that doesn't fit, and
        FileNotFoundError, ValueError or ConnectionError for a single picture that can't be had; of several, those are
        logged and left out.
        """
        return self._ready()(source, stream=stream, **kwargs)

    predict = __call__

    def _ready(self) -> YoloPredictor:
        with MAKING:
            if self.predictor is None:
                options = {**self._defaults, "model": self.loaded}
                self.predictor = self._predictor(overrides=options, _callbacks=self.callbacks)
            predictor = self.predictor
        predictor.args = predictor.args.updated(self._defaults).updated(self.overrides)
        return predictor

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int = 640) -> Summary | None:
        """Print a summary; with `detailed`, also one row per parameter.

        Returns the numbers of layers (modules without children), parameters, and parameters that take gradients (none),
        and GFLOPs for a square input of `imgsz`, a multiplication and an addition being two; batch normalisations are
        folded into convolutions. With verbose=False prints nothing and returns None.
        """
        return self._summary(detailed, gflops(self.model, imgsz)) if verbose else None

    # --- the module ---

    def fuse(self) -> None:
        """Nothing is left to do: batch normalisations are folded into convolutions when a checkpoint is read."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def to(self, device: str | int | torch.device) -> YOLO:
        """Move the network to a device, in any of the forms of the option `device`."""
        from ...device import select_device

        self.model.to(select_device(device))
        return self

    def cuda(self, device: int | str | torch.device | None = None) -> YOLO:
        """Move the network to a CUDA device."""
        return self.to("cuda" if device is None else device)

    def cpu(self) -> YOLO:
        """Move the network to the CPU."""
        return self.to("cpu")

    def half(self) -> YOLO:
        """Predict in half precision where that is of use, on CUDA; boxes stay float32."""
        self.overrides["half"] = True
        return self

    def float(self) -> YOLO:
        """Predict in float32, as is the default."""
        self.overrides.pop("half", None)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name!r}, {self.task}, {len(self.names)} classes, {self.device})"
