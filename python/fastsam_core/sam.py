"""`SAM`: load a model and call it on anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal, NoReturn, overload

import numpy as np
import torch

from ._log import warn_once
from .models.checkpoint import load_model
from .models.sam_model import SamModel
from .predictor import Callback, Predictor, check_event
from .results import Results

# Layers, parameters, parameters that take gradients, GFLOPs.
Summary = tuple[int, int, int, float]

# Options in which SAM differs from a Predictor used directly: nothing is written unless asked for.
_DEFAULTS = {"conf": 0.25, "task": "segment", "mode": "predict", "save": False}


class SAM:
    """A Segment Anything model, on the CPU and in evaluation mode until a call moves it.

    model: a checkpoint by name ("sam_b.pt", "sam_l.pt", "sam_h.pt", "mobile_sam.pt", "sam_nano.pt", Meta's own file
    names) or path (any name, .pt, .pth or .safetensors), or a `SamModel`. Names that are not files here are looked up
    in the cache folder and then downloaded.

    `model` is the module with `image_encoder`, `prompt_encoder` and `mask_decoder`; attributes that are not found here
    are looked up there. `overrides` holds options for all calls. `predictor` is None before the first call.
    """

    task: Literal["segment"] = "segment"

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
        streams go one by one), and what the model computes in on a GPU (float32, float16, bfloat16).

        Raises TypeError for an unknown option or a value of the wrong type, ValueError for one that doesn't fit, and
        FileNotFoundError, ValueError or ConnectionError for a single picture that can't be had; of several, those are
        logged and left out.
        """
        if source is None:
            from . import ASSETS

            warn_once(f"no source given; using {ASSETS}")
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

    def _ready_predictor(self) -> Predictor:
        if self.predictor is None:
            self.predictor = Predictor(overrides={**_DEFAULTS, "model": self.model}, _callbacks=self.callbacks)
        self.predictor.args = self.predictor.args.updated(_DEFAULTS).updated(self.overrides)
        return self.predictor

    def add_callback(self, event: str, function: Callback) -> None:
        """Call `function(predictor)` at `event`, one of `predictor.EVENTS`."""
        check_event(event)
        self.callbacks.setdefault(event, []).append(function)

    def clear_callback(self, event: str) -> None:
        """Forget the functions of one event."""
        check_event(event)
        self.callbacks.pop(event, None)

    def reset_callbacks(self) -> None:
        """Forget the functions of all events."""
        self.callbacks.clear()

    # --- the module ---

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def to(self, *args: Any, **kwargs: Any) -> SAM:
        """Move the model, as `nn.Module.to` does. A dtype is what it computes in from now on, as with `half`."""
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, not {dtype}")
        if device is not None:
            self.model.to(device)
        return self if dtype is None else self._compute_in(dtype)

    def cuda(self, device: int | str | torch.device | None = None) -> SAM:
        """Move the model to a CUDA device."""
        self.model.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)
        return self

    def cpu(self) -> SAM:
        """Move the model to the CPU."""
        self.model.cpu()
        return self

    def half(self) -> SAM:
        """Compute in float16 where that is of use, on CUDA; the weights stay as they are, coordinates are float32."""
        return self._compute_in(torch.float16)

    def bfloat16(self) -> SAM:
        """Compute in bfloat16 where that is of use, on CUDA; the weights stay as they are, coordinates are float32."""
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

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is not found otherwise. Without a model yet (in copying and unpickling) nothing is.
        if name.startswith("__") or "model" not in self.__dict__:
            raise AttributeError(f"SAM has no attribute {name!r}")
        try:
            return getattr(self.model, name)
        except AttributeError:
            raise AttributeError(f"neither SAM nor its model has an attribute {name!r}") from None

    def __repr__(self) -> str:
        return f"SAM({self.model_name!r}, {self.model.name}, {self.device})"

    def info(self, detailed: bool = False, verbose: bool = True) -> Summary | None:
        """Print a summary; with `detailed`, also one row per parameter.

        Returns the numbers of layers (modules without children), parameters, and parameters that take gradients, and
        GFLOPs, which are not measured (0.0). With verbose=False prints nothing and returns None.
        """
        if not verbose:
            return None
        parameters = list(self.model.named_parameters())
        if detailed:
            print(
                f"{'layer':>5} {'name':>60} {'gradient':>8} {'parameters':>12} {'shape':>20} "
                f"{'mean':>10} {'std':>10} dtype"
            )
            for index, (name, value) in enumerate(parameters):
                mean, std = value.float().mean().item(), value.float().std(correction=0).item()
                print(
                    f"{index:>5} {name:>60} {value.requires_grad!s:>8} {value.numel():>12,} "
                    f"{list(value.shape)!s:>20} {mean:>10.3g} {std:>10.3g} {str(value.dtype).removeprefix('torch.')}"
                )
        layers = sum(1 for module in self.model.modules() if not any(module.children()))
        count = sum(value.numel() for _, value in parameters)
        gradients = sum(value.numel() for _, value in parameters if value.requires_grad)
        print(f"Model summary: {layers:,} layers, {count:,} parameters, {gradients:,} gradients")
        return layers, count, gradients, 0.0

    # --- what Segment Anything doesn't do here ---

    def train(self, *args: Any, **kwargs: Any) -> NoReturn:
        """NotImplementedError: models are trained by `python -m fastsam_core.train`, on generated scenes."""
        raise NotImplementedError("SAM predicts only; python -m fastsam_core.train trains sam_nano on generated scenes")

    def val(self, *args: Any, **kwargs: Any) -> NoReturn:
        """NotImplementedError."""
        raise NotImplementedError("SAM predicts only: there is no validation on data sets")

    def export(self, *args: Any, **kwargs: Any) -> NoReturn:
        """NotImplementedError."""
        raise NotImplementedError("SAM predicts only: there is no export to other formats")
