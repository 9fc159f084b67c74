"""`YoloPredictor`: runs a YOLO network on any source, in the prediction loop that all predictors share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..._log import warn_once
from ...config import Config, DetectConfig
from ...device import select_device
from ...masks import Masks
from ...prediction_loop import Callback, PredictionLoop
from ...results import Results
from ...saving import ResultWriter
from ...sources import Item
from ...stopwatch import Stopwatch
from .load import LoadedNetwork, load_network
from .network import Network
from .runner import ImageObjects, detect_objects


def _identity(result: Results) -> Results:
    return result


class YoloPredictor(PredictionLoop):
    """A predictor that finds objects in images with a network of YOLOv8, YOLO11, YOLO12 or YOLO26.

    cfg, overrides: options by name (see `config.DetectConfig`), of which `overrides` takes precedence; neither is
    modified. The option `model` is an official name, a checkpoint's path, or the result of `load_network`; it is loaded
    on first use. _callbacks: functions by event, each called with this predictor.

    `model` is the network, None before it is loaded. Calls from several threads take turns.
    """

    args: DetectConfig
    model: Network | None

    def __init__(
        self,
        cfg: DetectConfig | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        _callbacks: dict[str, list[Callback]] | None = None,
    ) -> None:
        base = cfg if isinstance(cfg, DetectConfig) else DetectConfig().updated(cfg or {})
        super().__init__(base.updated(overrides or {}), _callbacks)
        self.model = None
        self._last_input_hw = 0, 0  # for the log

    def __call__(
        self, source: Any = None, model: Any = None, stream: bool = False, **kwargs: Any
    ) -> list[Results] | Iterator[Results]:
        """Return the results of every image of `source`, in order; None means the sample images of the package.

        model: replaces that of the options. stream: return an iterator that works as it is consumed, instead of a list.
        kwargs: options for this call.

        Of several images, one that can't be read is logged and left out. Raises TypeError and ValueError for invalid
        arguments, and ValueError, FileNotFoundError or ConnectionError if the only image can't be read.
        """
        return self._results(source, model, stream, self.args.updated(kwargs))

    def _results(
        self,
        source: Any,
        model: Any,
        stream: bool,
        config: DetectConfig,
        postprocess: Callable[[Results], Results] = _identity,
    ) -> list[Results] | Iterator[Results]:
        """Predict as `__call__` does; `postprocess` converts each image's result to the one that is returned."""
        if source is None:
            from ... import ASSETS

            warn_once(f"no source given; using {ASSETS}")
            source = ASSETS
        with self._lock:
            network = self._ready_network(model, config)
            task = network.architecture.task
            if config.task not in (None, task):
                warn_once(f"task={config.task!r} has no effect: the network's task is {task}")
            config = config.updated({"task": task})
            source_items = self.setup_source(source, config)
        if not stream and source_items.kind in ("video", "stream", "iterator"):
            warn_once("the results of all frames are kept in memory; stream=True gives them one by one")

        def run_batch(batch: list[Item], writer: ResultWriter | None) -> list[Results]:
            with self._lock:
                self._begin_batch(batch)
                results_of_batch = [postprocess(result) for result in self._predict(batch, network, config)]
                return self._end_batch(batch, results_of_batch, config, writer)

        results = self._run_loop(source_items, config, run_batch)
        return results if stream else list(results)

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

    def _predict(self, batch: Sequence[Item], network: Network, config: DetectConfig) -> list[Results]:
        watch = Stopwatch()
        images = [item.image for item in batch if item.image is not None]
        size = config.imgsz or DetectConfig(imgsz=network.imgsz).imgsz
        image_objects = detect_objects(network, images, config, size, watch)
        self._last_input_hw = image_objects[-1].input_hw
        speed = {phase: milliseconds / len(batch) for phase, milliseconds in watch.speed.items()}
        return [
            self._to_result(image, item.path, objects, network.names, speed)
            for image, item, objects in zip(images, batch, image_objects, strict=True)
        ]

    def _to_result(
        self, image: Any, path: str, objects: ImageObjects, names: dict[int, str], speed: Mapping[str, float]
    ) -> Results:
        masks = None
        if objects.rles:
            # uint8: OpenCV accepts it, and code written for these networks may compute with it, such as `1 - mask`.
            masks = Masks(objects.rles, image.shape[:2], device=objects.rows.device, dtype=torch.uint8)
        return Results(image, path, names, objects.rows, masks, speed=speed)

    def _input_shape(self, config: Config) -> str:
        return f"(1, 3, {self._last_input_hw[0]}, {self._last_input_hw[1]})"
