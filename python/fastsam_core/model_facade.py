"""Base class of `SAM`, `YOLO` and `FastSAM`: callbacks, a summary, access to the module, unsupported methods."""

from __future__ import annotations

import copy
import os
import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, TypeVar

from torch import nn

from .config import PROMPT_KEYS, Config
from .prediction_loop import Callback, PredictionLoop, check_callback, check_event

Self = TypeVar("Self", bound="ModelFacade")

# Numbers of layers, parameters, and parameters that require gradients; GFLOPs.
Summary = tuple[int, int, int, float]

# Guards the creation of a model's predictor. Threads whose first calls coincide must get the same predictor, because
# its lock is what makes their calls take turns.
CREATION_LOCK = threading.RLock()  # a predictor may call another model while it is created
if hasattr(os, "register_at_fork"):
    # A forked child lacks the thread that may hold the lock, so acquire it for the fork. It is only ever held briefly.
    os.register_at_fork(
        before=CREATION_LOCK.acquire, after_in_parent=CREATION_LOCK.release, after_in_child=CREATION_LOCK.release
    )


# Methods of Ultralytics' models that are not offered, and what there is instead.
_NOT_OFFERED = {
    "track": "every frame is predicted by itself; result.to_supervision() is for trackers that take its detections",
    "set_classes": "the checkpoint has the classes; SAM(...)(image, texts=['a dog']) finds objects by words",
    "embed": "a Predictor has the embedding of the image that was given to set_image, as its attribute features",
}


class ModelFacade:
    """A callable model. `model` is its module; attributes that the facade lacks are looked up on it.

    `overrides` holds options for all calls. `predictor` runs them; it is None before the first call.
    """

    # Options that every call starts from, so that changes made to the predictor don't carry over.
    _default_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: nn.Module, overrides: dict[str, Any]) -> None:
        self.model: Any = model
        self.overrides = overrides
        self.callbacks: dict[str, list[Callback]] = defaultdict(list)
        self.predictor: Any = None
        self._predictors_model: Any = model  # the module that `predictor` was given
        # The predictor of the last call, the options that it came with, and those that it was left with.
        self._known_predictor: Any = None
        self._base_args = self._left_args = Config()

    @property
    def task(self) -> str:
        """Task of the model."""
        raise NotImplementedError

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """The class of the predictor by task, as in Ultralytics; subclasses may name their own."""
        raise NotImplementedError

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on a source."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call `predict`, which has the arguments."""
        return self.predict(*args, **kwargs)

    def _prepare_predictor(self) -> Any:
        """Return the predictor, with the options that calls start from."""
        predictor = self._choose_predictor()
        with predictor._lock:
            self._reset_options(predictor)
        return predictor

    def _choose_predictor(self, predictor: Any = None) -> Any:
        """Return the predictor, which is created once.

        predictor: one to use from now on, or its class; by default that of `task_map`.
        """
        with CREATION_LOCK:
            if isinstance(predictor, PredictionLoop):
                self.predictor = predictor
            elif self.predictor is None or predictor not in (None, type(self.predictor)):
                create = predictor or self.task_map[self.task]["predictor"]
                self.predictor = create(overrides=dict(self._default_options), _callbacks=self.callbacks)
            return self.predictor

    def _reset_options(self, predictor: Any) -> None:
        """Give the predictor the model and the options that calls start from. Requires its lock."""
        needs_model = predictor.model is None and predictor.args.model is None
        if needs_model or self._predictors_model is not self.model:
            predictor.setup_model(self.model, verbose=False)
            self._predictors_model = self.model
        predictor.args = self._first_args(predictor).updated(self._default_options).updated(self.overrides)
        self._left_args = copy.copy(predictor._args)

    def _first_args(self, predictor: Any) -> Config:
        """Return the options that the predictor came with, and those that were changed in it since the last call."""
        if predictor is not self._known_predictor:
            self._known_predictor, self._base_args = predictor, predictor._args
        else:
            left = vars(self._left_args)
            changes = {key: value for key, value in vars(predictor._args).items() if value is not left[key]}
            self._base_args = self._base_args.updated(changes)
        return self._base_args

    def _run(self, predictor: Any, source: Any, stream: bool, arguments: Mapping[str, Any]) -> Any:
        """Call the predictor with prompts and options. The options stay in its `args`, where they can be changed."""
        predictor = self._choose_predictor(predictor)
        prompts = {key: value for key, value in arguments.items() if key in PROMPT_KEYS}
        with predictor._lock:  # so that no call of another thread starts from these options
            self._reset_options(predictor)
            predictor.args = predictor._args.updated({k: v for k, v in arguments.items() if k not in prompts})
            self._left_args = copy.copy(predictor._args)
            with predictor._in_call(predictor._args):  # also if a callback of another call is calling
                results = predictor(source, stream=True, **prompts)
        return results if stream else predictor.collect(results, source)

    def add_callback(self, event: str, function: Callback) -> None:
        """Register `function(predictor)` to be called at `event`, one of `prediction_loop.EVENTS`."""
        check_callback(event, function)
        self.callbacks.setdefault(event, []).append(function)

    def clear_callback(self, event: str) -> None:
        """Remove all functions registered for one event."""
        check_event(event)
        self.callbacks.pop(event, None)

    def reset_callbacks(self) -> None:
        """Remove all functions registered for any event."""
        self.callbacks.clear()

    def __getattr__(self, name: str) -> Any:
        # During copying and unpickling `model` isn't set yet; looking it up would recurse without end.
        own = type(self).__name__
        if name in _NOT_OFFERED:
            raise AttributeError(f"{own} has no {name}: {_NOT_OFFERED[name]}")
        if name.startswith("__") or "model" not in self.__dict__:
            raise AttributeError(f"{own} has no attribute {name!r}")
        try:
            return getattr(self.model, name)
        except AttributeError:
            raise AttributeError(f"neither {own} nor its model has an attribute {name!r}") from None

    def _summary(self, detailed: bool, gflops: float) -> Summary:
        """Print the summary that `info` describes, and return its numbers."""
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
        measured = f", {gflops:.1f} GFLOPs" if gflops else ""
        print(f"Model summary: {layers:,} layers, {count:,} parameters, {gradients:,} gradients{measured}")
        return layers, count, gradients, gflops

    def eval(self: Self) -> Self:
        """Set the module to evaluation mode, in which calls run anyway."""
        self.model.eval()
        return self

    # --- unsupported ---

    def train(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NotImplementedError: Segment Anything models are trained by `python -m fastsam_core.train`."""
        raise NotImplementedError(
            f"{type(self).__name__} predicts only; python -m fastsam_core.train trains Segment Anything models"
        )

    def val(self, *args: Any, **kwargs: Any) -> Any:
        """Raise NotImplementedError; only `SAM` overrides this."""
        raise NotImplementedError(f"{type(self).__name__} predicts only: validation on data sets is available for SAM")

    def export(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NotImplementedError; `segment_anything.utils.onnx` exports SAM's decoder to ONNX."""
        raise NotImplementedError(
            f"{type(self).__name__} predicts only: export to other formats is not supported; with torch.onnx.export, "
            "fastsam_core.segment_anything.utils.onnx.SamOnnxModel is for the decoder of a Segment Anything model"
        )
