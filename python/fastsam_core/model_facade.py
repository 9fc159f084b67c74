"""What `SAM`, `YOLO` and `FastSAM` share: callbacks, a summary, attributes of the module, and what none does."""

from __future__ import annotations

import os
import threading
from typing import Any, NoReturn

from torch import nn

from .prediction_loop import Callback, check_callback, check_event

# Layers, parameters, parameters that take gradients, GFLOPs.
Summary = tuple[int, int, int, float]

# For making a model's predictor: threads whose first calls come together share it, or they would not take turns.
MAKING = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A child begins without the thread that may hold it; it is held for no more than a moment.
    os.register_at_fork(before=MAKING.acquire, after_in_parent=MAKING.release, after_in_child=MAKING.release)


class ModelFacade:
    """A model to call. `model` is its module, in which attributes that are not found here are looked up."""

    model: nn.Module
    callbacks: dict[str, list[Callback]]

    def add_callback(self, event: str, function: Callback) -> None:
        """Call `function(predictor)` at `event`, one of `prediction_loop.EVENTS`."""
        check_callback(event, function)
        self.callbacks.setdefault(event, []).append(function)

    def clear_callback(self, event: str) -> None:
        """Forget the functions of one event."""
        check_event(event)
        self.callbacks.pop(event, None)

    def reset_callbacks(self) -> None:
        """Forget the functions of all events."""
        self.callbacks.clear()

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is not found otherwise. Without a model yet (in copying and unpickling) nothing is.
        own = type(self).__name__
        if name.startswith("__") or "model" not in self.__dict__:
            raise AttributeError(f"{own} has no attribute {name!r}")
        try:
            return getattr(self.model, name)
        except AttributeError:
            raise AttributeError(f"neither {own} nor its model has an attribute {name!r}") from None

    def _summary(self, detailed: bool, gflops: float) -> Summary:
        """Print what `info` is about."""
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

    # --- what is not done here ---

    def train(self, *args: Any, **kwargs: Any) -> NoReturn:
        """NotImplementedError: Segment Anything models are trained by `python -m fastsam_core.train`."""
        raise NotImplementedError(
            f"{type(self).__name__} predicts only; python -m fastsam_core.train trains Segment Anything models"
        )

    def val(self, *args: Any, **kwargs: Any) -> Any:
        """NotImplementedError, but for `SAM`."""
        raise NotImplementedError(f"{type(self).__name__} predicts only: there is validation on data sets for SAM")

    def export(self, *args: Any, **kwargs: Any) -> NoReturn:
        """NotImplementedError; SAM's decoder goes to ONNX by `segment_anything.utils.onnx`."""
        raise NotImplementedError(
            f"{type(self).__name__} predicts only: there is no export to other formats; with torch.onnx.export, "
            "fastsam_core.segment_anything.utils.onnx.SamOnnxModel is for the decoder of a Segment Anything model"
        )
