"""`YoloPredictor`: runs a YOLO network on any source, in the prediction loop that all predictors share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..._log import warn_once
from ...config import Config, DetectConfig
from ...device import select_device
from ...masks import Masks
from ...models.native import has_original_methods, watch_methods
from ...prediction_loop import Callback, PredictionLoop, checked_results
from ...results import Results
from ...saving import ResultWriter
from ...sources import Item
from ...stopwatch import Stopwatch
from .load import LoadedNetwork, load_network
from .network import Network
from .runner import ImageObjects, group_by_input, run_network, to_input, to_objects

STEPS = ("pre_transform", "preprocess", "inference", "postprocess", "construct_result")
# Methods of Ultralytics' predictors that calls do not go through.
_BYPASSED = ("construct_results", "save_predicted_images", "show")


def _identity(result: Results) -> Results:
    return result


class YoloPredictor(PredictionLoop):
    """A predictor that finds objects in images with a network of YOLOv8, YOLO11, YOLO12 or YOLO26.

    cfg, overrides: options by name (see `config.DetectConfig`), of which `overrides` takes precedence; neither is
    modified. As in Ultralytics, `rect` is False unless it is given, so inputs are padded to the whole of `imgsz`. The
    option `model` is an official name, a checkpoint's path, or the result of `load_network`; it is loaded on first use.
    _callbacks: functions by event, each called with this predictor.

    `model` is the network, None before it is loaded. Calls from several threads take turns.

    Subclasses may override `pre_transform`, `preprocess`, `inference`, `postprocess`, `construct_result`,
    `write_results`, `stream_inference` and `run_callbacks`.
    """

    model: Network | None

    def __init__(
        self,
        cfg: DetectConfig | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        _callbacks: dict[str, list[Callback]] | None = None,
    ) -> None:
        base = cfg if isinstance(cfg, DetectConfig) else DetectConfig(rect=False).updated(cfg or {})
        super().__init__(base.updated(overrides or {}), _callbacks)
        self.model = None
        self._last_input_hw = 0, 0  # for the log
        self._watch = Stopwatch()  # of the batch

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if bypassed := [step for step in _BYPASSED if hasattr(cls, step)]:
            warn_once(
                f"{cls.__name__} has its own {', '.join(bypassed)}, which calls of a predictor do not go through: "
                "change results in postprocess, or in a callback (on_predict_postprocess_end)"
            )

    def __call__(
        self, source: Any = None, model: Any = None, stream: bool = False, **kwargs: Any
    ) -> list[Results] | Iterator[Results]:
        """Return the results of every image of `source`, in order; None means the sample images of the package.

        model: replaces that of the options. stream: return an iterator that works as it is consumed, instead of a list.
        kwargs: options for this call.

        Of several images, one that can't be read is logged and left out. Raises TypeError and ValueError for invalid
        arguments, and ValueError, FileNotFoundError or ConnectionError if the only image can't be read.
        """
        results = self.stream_inference(source, model, **kwargs)
        return results if stream else self.collect(results, source)

    def stream_inference(self, source: Any = None, model: Any = None, **kwargs: Any) -> Iterator[Results]:
        """Return the iterator over results that a call with `stream=True` returns; see `__call__`."""
        return self._results(source, model, self._options(kwargs))

    def _options(self, options: Mapping[str, Any]) -> DetectConfig:
        # Without options for this call, those of the predictor can still be changed while it runs.
        return cast(DetectConfig, self.args.updated(options) if options else self.args)

    def _results(
        self, source: Any, model: Any, config: DetectConfig, choose: Callable[[Results], Results] = _identity
    ) -> Iterator[Results]:
        """Predict as `stream_inference` does; `choose` converts each image's result to the one that is returned."""
        if source is None:
            from ... import ASSETS

            warn_once(f"no source given; using {ASSETS}")
            source = ASSETS
        with self._lock:
            network = self._ready_network(model, config)
            task = network.architecture.task
            if config.task is None:
                config.task = task
            elif config.task != task:
                warn_once(f"task={config.task!r} has no effect: the network's task is {task}")
                config = config.updated({"task": task})
            with self._in_call(config):
                self.setup_source(source)
            assert self.dataset is not None
            items = self.dataset

        def run_batch(batch: list[Item], writer: ResultWriter | None) -> list[Results]:
            with self._in_call(config):
                self._begin_batch(batch)
                results_of_batch = [choose(result) for result in self._predict(network)]
                return self._end_batch(batch, results_of_batch, config, writer)

        return self._run_loop(items, config, run_batch)

    def setup_model(self, model: Any = None, verbose: bool = True) -> None:
        """Set the model to `model`, by default that of the options. `verbose` has no effect.

        A name or path is loaded onto the device of the options; the result of `load_network` and the module of a `YOLO`
        or `FastSAM` are taken as they are.
        """
        requested = self.args.model if model is None else model
        if requested is None:
            raise ValueError('no model: name one, as in overrides=dict(model="yolov8n.pt")')
        if isinstance(requested, str | os.PathLike):
            requested = load_network(requested, self.args.device)
        network = requested.network if isinstance(requested, LoadedNetwork) else requested
        if not isinstance(network, Network):
            raise TypeError(
                "model must be a checkpoint's name or path, or the attribute `model` of a YOLO or FastSAM, not "
                f"{type(network).__name__}"
            )
        with self._lock:
            self.model = network

    def _ready_network(self, model: Any, config: DetectConfig) -> Network:
        """Return the network on the options' device, after loading `model` if it isn't None or nothing is loaded."""
        with self._lock:
            if model is not None or self.model is None:
                self.setup_model(model)
            assert self.model is not None
            return self.model.to(select_device(config.device, current=self.device))

    @torch.no_grad()
    def _predict(self, network: Network) -> list[Results]:
        """Return the results of the images of `batch`."""
        assert self.batch is not None
        self._watch, images = Stopwatch(), self.batch[1]
        results: dict[int, Results] = {}
        for indices in group_by_input(images, self._options({}), self._input_size(network)):
            group = [images[index] for index in indices]
            pixels = self.preprocess(group)
            preds = self.inference(pixels)
            results_of_group = checked_results(self.postprocess(preds, pixels, group), len(group))
            self._last_input_hw = pixels.shape[2], pixels.shape[3]
            results.update(zip(indices, results_of_group, strict=True))
        speed = {phase: milliseconds / len(images) for phase, milliseconds in self._watch.speed.items()}
        for result in results.values():
            result.speed = dict(speed)
        return [results[index] for index in range(len(images))]

    @property
    def has_own_steps(self) -> bool:
        """Whether one of the following methods is overridden or replaced."""
        from ..fastsam import FastSAMPredictor

        owner = FastSAMPredictor if isinstance(self, FastSAMPredictor) else YoloPredictor
        return not has_original_methods(self, owner, *STEPS)

    # --- the steps one by one ---

    def preprocess(self, im: Any) -> Tensor:
        """Convert BGR images (H, W, 3) uint8, in a list, to the network's input (B, 3, h, w) float32 in [0, 1].

        They are scaled to fit `imgsz` and padded, and must get inputs of equal shapes.
        """
        network = self._ready_network(None, self._options({}))
        images = self.pre_transform(list(im))
        return to_input(network, images, self._options({}), self._input_size(network), self._watch)

    def pre_transform(self, im: list[Any]) -> list[Any]:
        """Return the images in a list, BGR uint8 (H, W, 3), as they are. Subclasses may change their pixels."""
        return im

    def inference(self, im: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the network, a `RawOutput`, for an input that `preprocess` returned."""
        network = self._ready_network(None, self._options({}))
        return run_network(network, im.to(next(network.parameters()).device), self._options({}), self._watch)

    def postprocess(self, preds: Any, img: Tensor, orig_imgs: Any) -> list[Results]:
        """Convert what `inference` returned for the input `img` of the images `orig_imgs`, in a list, to results."""
        network, config = self._ready_network(None, self._options({})), self._options({})
        input_hw = img.shape[2], img.shape[3]
        image_objects = to_objects(preds, orig_imgs, input_hw, config, self._input_size(network), self._watch)
        return [
            self.construct_result(objects, img, image, self._path_of(image) or f"image{index}.jpg")
            for index, (image, objects) in enumerate(zip(orig_imgs, image_objects, strict=True))
        ]

    def _input_size(self, network: Network) -> tuple[int, int]:
        size: tuple[int, int] = self.args.imgsz or DetectConfig(imgsz=network.imgsz).imgsz  # type: ignore[assignment]
        return size

    def construct_result(self, pred: ImageObjects, img: Tensor, orig_img: Any, img_path: str) -> Results:
        """Return the result of one image from its objects."""
        network = self._ready_network(None, self._options({}))
        masks = None
        if pred.rles:
            # uint8: OpenCV accepts it, and code written for these networks may compute with it, such as `1 - mask`.
            masks = Masks(pred.rles, orig_img.shape[:2], device=pred.rows.device, dtype=torch.uint8)
        return Results(orig_img, img_path, network.names, pred.rows, masks)

    def _input_shape(self, config: Config) -> str:
        return f"(1, 3, {self._last_input_hw[0]}, {self._last_input_hw[1]})"


watch_methods(YoloPredictor, names=STEPS)
