"""`YOLO`: a network of YOLOv8, YOLO11, YOLO12 or YOLO26 that can be called on any source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ... import option_parsers as parse
from ...model_facade import ModelFacade, Summary
from ...results import Results
from .flops import gflops
from .load import load_network
from .network import Network
from .predictor import YoloPredictor


class YOLO(ModelFacade):
    """A network of YOLOv8, YOLO11, YOLO12 or YOLO26, on the CPU until a call moves it.

    model: an official name ("yolov8n.pt", "yolo11x.pt", "yolo26n-seg.pt" ..., with or without the suffix), which is
    downloaded if necessary, or a checkpoint's path (.pt or .safetensors). task: accepted for compatibility; the
    checkpoint decides, and a different value is warned about.

    `model` is the module, `names` holds its classes by number, and `overrides` options for all calls. `predictor` is
    None before the first call. Checkpoints are read without importing or running anything that they name.
    """

    model: Network
    predictor: YoloPredictor | None
    # Defaults of calls that differ from a predictor's: nothing is written unless asked for.
    _default_options: ClassVar[dict[str, Any]] = {"dtype": None, "mode": "predict", "save": False, "rect": True}
    _predictor_class: type[YoloPredictor] = YoloPredictor

    def __init__(
        self, model: str | os.PathLike[str] = "yolov8n.pt", task: str | None = None, verbose: bool = False
    ) -> None:
        if not isinstance(model, str | os.PathLike):
            raise TypeError(f"model must be a checkpoint's name or path, not {type(model).__name__}")
        self.model_name = self.ckpt_path = os.fspath(model)
        self.loaded = load_network(model)
        super().__init__(self.loaded.network, {} if task is None else {"task": task})

    @property
    def names(self) -> dict[int, str]:
        """The classes by number. Assigning replaces them, here and in `model.names`."""
        return self.model.names

    @names.setter
    def names(self, names: dict[int, str]) -> None:
        self.model.names = names

    @property
    def task(self) -> str:
        """Task of the network: "detect" or "segment"."""
        return self.model.architecture.task

    @property
    def task_map(self) -> dict[str, dict[str, type[YoloPredictor]]]:
        """The class of the predictor by task, as in Ultralytics, for programs that create it themselves."""
        return {self.task: {"predictor": self._predictor_class}}

    def predict(
        self, source: Any = None, stream: bool = False, *, predictor: Any = None, **kwargs: Any
    ) -> list[Results] | Iterator[Results]:
        """Return the results of every image of `source`, in order. A call does the same.

        source: path, folder, glob, list file, URL, video, stream, BGR array, Pillow image, RGB tensor or batch, or a
        list of these; None means the sample images of the package. stream: return an iterator that works as it is
        consumed, instead of a list. predictor: a subclass of `YoloPredictor` to use from this call on, or one of its
        instances. kwargs: options of `config.DetectConfig` or their aliases, for this call.

        The boxes of a result are x1, y1, x2, y2, score, class, best first. Masks of a segmentation network have the
        resolution of the image and are stored as run lengths, which decode to uint8; they are None if nothing was
        found.

        Raises TypeError for an unknown option or a value of the wrong type, ValueError for an invalid value, and
        FileNotFoundError, ValueError or ConnectionError if the only image can't be read; of several, such images are
        logged and left out.
        """
        return self._run(predictor, source, stream, kwargs)

    if TYPE_CHECKING:
        __call__ = predict

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int = 640) -> Summary | None:
        """Print a summary; with `detailed`, also one row per parameter.

        Returns the numbers of layers (modules without children), parameters, and parameters that take gradients (none),
        and the GFLOPs for a square input of `imgsz`, counting a multiply-add as two. Batch normalisations are folded
        into convolutions. With verbose=False it prints nothing and returns None.
        """
        side = parse.integer(1)("imgsz", imgsz)
        return self._summary(detailed, gflops(self.model, side)) if verbose else None

    # --- the module ---

    def fuse(self) -> None:
        """Do nothing: batch normalisations are folded into convolutions when a checkpoint is read."""

    @property
    def device(self) -> torch.device:
        """Device that the network is on."""
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
        """Predict in half precision on CUDA, where it is faster; boxes stay float32."""
        self.overrides["half"] = True
        return self

    def float(self) -> YOLO:
        """Predict in float32, the default."""
        self.overrides.pop("half", None)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name!r}, {self.task}, {len(self.names)} classes, {self.device})"
