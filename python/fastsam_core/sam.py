"""`SAM`: load a model and call it on anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import numpy as np
import torch

from ._log import warn_once
from .device import select_device
from .model_facade import MAKING, ModelFacade, Summary
from .models.checkpoint import load_model
from .models.sam_model import SamModel
from .prediction_loop import Callback
from .predictor import Predictor
from .results import Results

if TYPE_CHECKING:
    from .evaluate.report import Evaluation

# What a call starts from, whatever the predictor was set to. SAM differs from a Predictor used directly in that nothing
# is written unless asked for.
_DEFAULTS = {"conf": None, "dtype": None, "task": "segment", "mode": "predict", "save": False}


class SAM(ModelFacade):
    """A Segment Anything model, on the CPU until a call moves it. Calls put it into evaluation mode.

    model: a checkpoint by name ("sam_b.pt", "sam_l.pt", "sam_h.pt", "mobile_sam.pt", "sam_nano.pt", Meta's own file
    names) or path (any name, .pt, .pth or .safetensors), or a `SamModel`. Names that are not files here are looked up
    in the cache folder and then downloaded.

    `model` is the module with `image_encoder`, `prompt_encoder` and `mask_decoder`; attributes that are not found here
    are looked up there. `overrides` holds options for all calls. `predictor` is None before the first call.
    """

    task: Literal["segment"] = "segment"
    # For programs that make predictors of their own for a model, as with Ultralytics.
    task_map: ClassVar[dict[str, dict[str, type[Predictor]]]] = {"segment": {"predictor": Predictor}}

    def __init__(self, model: str | os.PathLike[str] | SamModel = "sam_b.pt") -> None:
        if isinstance(model, SamModel):
            self.model: SamModel = model.eval()
            self.model_name = model.name
        elif isinstance(model, str | os.PathLike):
            self.model_name = os.fspath(model)
            self.model = load_model(model, device="cpu")
        else:
            raise TypeError(f"model must be a checkpoint's name or path or a SamModel, not {type(model).__name__}")
        self.ckpt_path: str | None = None if isinstance(model, SamModel) else self.model_name
        self.overrides: dict[str, Any] = {}
        self.callbacks: dict[str, list[Callback]] = {}
        self.predictor: Predictor | None = None

    # --- prediction ---

    @overload
    def __call__(self, source: Any = ..., stream: Literal[False] = ..., *args: Any, **kwargs: Any) -> list[Results]: ...

    @overload
    def __call__(self, source: Any, stream: Literal[True], *args: Any, **kwargs: Any) -> Iterator[Results]: ...

    @overload
    def __call__(self, source: Any = ..., *, stream: Literal[True], **kwargs: Any) -> Iterator[Results]: ...

    @overload
    def __call__(
        self, source: Any = ..., stream: bool = ..., *args: Any, **kwargs: Any
    ) -> list[Results] | Iterator[Results]: ...

    def __call__(
        self,
        source: Any = None,
        stream: bool = False,
        bboxes: Any = None,
        points: Any = None,
        labels: Any = None,
        **kwargs: Any,
    ) -> list[Results] | Iterator[Results]:
        """Results of every picture of `source`, in order. `predict` is the same.

        source: path, folder, glob, list file, URL, video, stream, BGR array, Pillow image, RGB tensor or batch, or a
        list of these; None means the pictures that come with the package.
        bboxes, points, labels, and `masks` among the kwargs: prompts in pixels of the original picture, for every
        picture (forms in `prompts.py`); without them everything is segmented. kwargs: `texts`, a text or a list of what
        to look for ("a dog"), which needs the extra `text`; `multimask_output`, and every option of `config.Config`
        with its aliases, for this call.
        stream: an iterator that works as it is consumed, instead of a list.
        `batch` and `dtype` among the options: how many pictures the image encoder takes together (frames of live
        streams go one by one), and what the model computes in: float32, on a GPU float16 or bfloat16, and on CPUs that
        multiply it faster bfloat16 (the image encoders of sam_b, sam_l and sam_h, and all decoders' upscaling).

        Raises TypeError for an unknown option or a value of the wrong type, ValueError for one that doesn't fit, and
        FileNotFoundError, ValueError or ConnectionError for a single picture that can't be had; of several, those are
        logged and left out.
        """
        if source is None:
            from . import ASSETS

            warn_once(f"no source given, or None, as cv2.imread gives for a file that it can't read; using {ASSETS}")
            source = ASSETS
        predictor = self._ready_predictor()
        return predictor(source, stream=stream, bboxes=bboxes, points=points, labels=labels, **kwargs)

    predict = __call__

    def edges(
        self, image: Any, *, points_stride: int = 16, nms_thresh: float = 0.7, thin: bool = True, **options: Any
    ) -> np.ndarray:
        """Edges of one picture, (H, W) float32 in [0, 1], without training for it. See `Predictor.edges`.

        image: path, URL, BGR array, Pillow image or RGB tensor.
        """
        return self._ready_predictor().edges(
            image, points_stride=points_stride, nms_thresh=nms_thresh, thin=thin, **options
        )

    def proposals(self, image: Any, n: int = 1000, *, nms_thresh: float = 0.9, **options: Any) -> Results:
        """Up to `n` object proposals of one picture: boxes, masks and scores, best first. See `Predictor.proposals`.

        image: path, URL, BGR array, Pillow image or RGB tensor.
        """
        return self._ready_predictor().proposals(image, n, nms_thresh=nms_thresh, **options)

    def val(
        self,
        data: str | os.PathLike[str],
        *,
        images: str | os.PathLike[str] | None = None,
        imgsz: int | None = None,
        device: Any = None,
        output: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        **settings: Any,
    ) -> Evaluation:
        """How well the model segments the objects of a data set: IoU of clicks and boxes, boundary F, number of clicks,
        average recall, beside baselines without a model. `print` shows the result as a table.

        data: a COCO .json file with `images` the folder of its images, or a folder with `images` and `masks` (PNG) or
        `labels` (.npz, or YOLO's .txt). settings: `measures`, `min_area`, `max_images`, `seed`, `baselines`,
        `mask_feedback`, `points_stride`, `rows`. See `evaluate.run.evaluate` and `evaluate.settings.EvaluateConfig`.
        """
        from .evaluate.run import evaluate

        return evaluate(
            self._ready_predictor(),
            data,
            images=images,
            imgsz=imgsz,
            device=device,
            output=output,
            verbose=verbose,
            **settings,
        )

    def _ready_predictor(self) -> Predictor:
        with MAKING:
            if self.predictor is None:
                self.predictor = Predictor(overrides={**_DEFAULTS, "model": self.model}, _callbacks=self.callbacks)
            predictor = self.predictor
        predictor.args = predictor.args.updated(_DEFAULTS).updated(self.overrides)
        return predictor

    # --- the module ---

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def to(self, *args: Any, **kwargs: Any) -> SAM:
        """Move the model, as `nn.Module.to` does. A dtype is what it computes in from now on, as with `half`.

        ValueError for a device that isn't here and for another dtype than float32, float16 and bfloat16.
        """
        try:
            device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        except RuntimeError as error:  # a device of no known name
            raise ValueError(str(error)) from None
        if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, not {dtype}")
        if device is not None:
            self.model.to(select_device(device))
        return self if dtype is None else self._compute_in(dtype)

    def cuda(self, device: int | str | torch.device | None = None) -> SAM:
        """Move the model to a CUDA device. ValueError where there is none."""
        self.model.to(select_device("cuda" if device is None else device))
        return self

    def cpu(self) -> SAM:
        """Move the model to the CPU."""
        self.model.cpu()
        return self

    def half(self) -> SAM:
        """Compute in float16 where that is of use, on CUDA; the weights stay as they are, coordinates are float32."""
        return self._compute_in(torch.float16)

    def bfloat16(self) -> SAM:
        """Compute in bfloat16 where that is of use; the weights stay as they are, coordinates are float32.

        That is on CUDA, and on CPUs that multiply it faster (`fastsam doctor` says whether this one does) in the image
        encoders of sam_b, sam_l and sam_h and where decoders upscale masks.
        """
        return self._compute_in(torch.bfloat16)

    def float(self) -> SAM:
        """Compute in float32, as is the default."""
        return self._compute_in(torch.float32)

    def _compute_in(self, dtype: torch.dtype) -> SAM:
        for key in ("dtype", "half", "quantize"):
            self.overrides.pop(key, None)
        if dtype != self.model.dtype:
            self.overrides["dtype"] = dtype
        return self

    def __repr__(self) -> str:
        return f"SAM({self.model_name!r}, {self.model.name}, {self.device})"

    def info(self, detailed: bool = False, verbose: bool = True) -> Summary | None:
        """Print a summary; with `detailed`, also one row per parameter.

        Returns the numbers of layers (modules without children), parameters, and parameters that take gradients, and
        GFLOPs, which are not measured (0.0). With verbose=False prints nothing and returns None.
        """
        return self._summary(detailed, 0.0) if verbose else None
