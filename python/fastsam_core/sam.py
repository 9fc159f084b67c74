"""`SAM`: load a model and call it on anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal, NoReturn, overload

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

        Raises TypeError for an unknown option or a value of the wrong type, ValueError for one that doesn't fit, and
        FileNotFoundError, ValueError or ConnectionError for a single picture that can't be had; of several, those are
        logged and left out.
        """
        if source is None:
            from . import ASSETS

            warn_once(f"no source given; using {ASSETS}")
            source = ASSETS
        if self.predictor is None:
            self.predictor = Predictor(overrides={**_DEFAULTS, "model": self.model}, _callbacks=self.callbacks)
        self.predictor.args = self.predictor.args.updated(_DEFAULTS).updated(self.overrides)
        return self.predictor(source, stream=stream, bboxes=bboxes, points=points, labels=labels, **kwargs)

    predict = __call__

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
        """Move the model, as `nn.Module.to` does. float16 means half precision for the image encoder only (`half`)."""
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None:
            self.model.to(device)
        if dtype == torch.float16:
            self.half()
        elif dtype == torch.float32:
            self.overrides.pop("quantize", None)
        elif dtype is not None:
            raise ValueError(f"dtype must be torch.float32 or torch.float16, not {dtype}")
        return self

    def cuda(self, device: int | str | torch.device | None = None) -> SAM:
        """Move the model to a CUDA device."""
        self.model.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)
        return self

    def cpu(self) -> SAM:
        """Move the model to the CPU."""
        self.model.cpu()
        return self

    def half(self) -> SAM:
        """Encode images in half precision where that is of use, on CUDA; weights and coordinates stay float32."""
        self.overrides["quantize"] = 16
        return self

    def float(self) -> SAM:
        """Encode images in float32, as is the default."""
        self.overrides.pop("quantize", None)
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
