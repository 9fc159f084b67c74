"""`Predictor`: a model with its current image, called with prompts, texts, or neither to segment everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch

from . import edges, proposals, saving, segment
from . import option_parsers as parse
from ._log import warn_once
from .config import GENERATE_OPTIONS, PROMPT_KEYS, Config
from .encoded_image import EncodedImage, encode_batch
from .prediction_loop import Callback, checked_results
from .predictor_steps import PredictorSteps
from .prompts import Prompts, parse_texts
from .results import Results
from .sources import Item, Source
from .stopwatch import Stopwatch
from .text_prompts import TextDetectorCache, segment_texts

# Methods of Ultralytics' predictor that calls do not go through.
_BYPASSED = (
    *("_prepare_prompts", "_inference_features", "remove_small_regions"),
    *("construct_results", "save_predicted_images", "show"),
)


@dataclass(frozen=True)
class _Request:
    """Options and prompts of one call. With neither prompts nor texts, everything is segmented.

    arguments: those of `Predictor.inference`, as they were given.
    """

    config: Config
    prompts: Prompts | None
    multimask_output: bool
    arguments: dict[str, Any]
    texts: tuple[str, ...] | None = None


class Predictor(PredictorSteps):
    """Predictor that segments the objects of an image by prompts, or everything; `set_image` encodes an image once.

    cfg, overrides: options by name (see `config.Config`); `overrides` takes precedence, and neither is modified. The
    option `model` is a checkpoint name or path, or a `SamModel`; it is loaded on first use.
    _callbacks: lists of functions by event name, each called with this predictor.

    Calls from several threads take turns. Predictors that share a `SamModel` can run concurrently, also with different
    `imgsz`. Masks, boxes and scores are plain tensors on the model's device.

    Subclasses may override `get_model`, `pre_transform`, `preprocess`, `get_im_features`, `inference`,
    `prompt_inference`, `generate`, `postprocess`, `write_results`, `stream_inference` and `run_callbacks`. If
    `inference` or one of the three that follow it are overridden, results have no `point_coords` and no crops.
    """

    stride = 16

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if bypassed := [name for name in _BYPASSED if getattr(cls, name, None) is not getattr(Predictor, name, None)]:
            warn_once(
                f"{cls.__name__} has its own {', '.join(bypassed)}, which calls of a predictor do not go through: "
                "change results in a callback (on_predict_postprocess_end), or call the steps one by one"
            )

    def __init__(
        self,
        cfg: Config | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        _callbacks: dict[str, list[Callback]] | None = None,
    ) -> None:
        for name, options in (("cfg", None if isinstance(cfg, Config) else cfg), ("overrides", overrides)):
            if options is not None and not isinstance(options, Mapping):
                raise TypeError(f"{name} must be options by name, as in dict(model='sam_b.pt'), not {options!r}")
        base = cfg if isinstance(cfg, Config) else Config().updated(cfg or {})
        super().__init__(base.updated(overrides or {}), _callbacks)
        self.prompts: dict[str, Any] = {}
        self._text_detectors = TextDetectorCache()

    # --- calls ---

    @overload
    def __call__(
        self, source: Any = ..., model: Any = ..., stream: Literal[False] = ..., **kwargs: Any
    ) -> list[Results]: ...

    @overload
    def __call__(
        self, source: Any = ..., model: Any = ..., *, stream: Literal[True], **kwargs: Any
    ) -> Iterator[Results]: ...

    @overload
    def __call__(
        self, source: Any = ..., model: Any = ..., stream: bool = ..., **kwargs: Any
    ) -> list[Results] | Iterator[Results]: ...

    def __call__(
        self, source: Any = None, model: Any = None, stream: bool = False, **kwargs: Any
    ) -> list[Results] | Iterator[Results]:
        """Segment every image of `source` and return one `Results` per image, in order.

        Args:
            source: anything that `SAM.__call__` accepts; None means the image given to `set_image`.
            model: a checkpoint name or path, or a `SamModel`, to load first.
            stream: return an iterator that processes images as it is consumed, instead of a list. With the option
                `batch` above 1, that many images are read and encoded before the first of their results; everything
                else is done image by image.
            kwargs: prompts in pixels of the original image, applied to every image (`bboxes`, `points`, `labels`,
                `masks`; see `prompts.py`), or `texts` to look for with an open-vocabulary detector (class i is text
                i); `multimask_output` for three masks per object instead of one; and options for this call. Without
                prompts or texts everything is segmented.

        Raises:
            TypeError, ValueError: invalid arguments, or a single image that can't be decoded (ValueError).
            FileNotFoundError, ConnectionError: a single image that can't be read. Of several images, those that can't
                be read are logged and skipped.
        """
        results = self.stream_inference(source, model, **kwargs)
        return results if stream else self.collect(results, source)

    def stream_inference(self, source: Any = None, model: Any = None, **kwargs: Any) -> Iterator[Results]:
        """Return the iterator over results that a call with `stream=True` returns; see `__call__`."""
        request = self._read_request(kwargs)
        with self._in_call(request.config):
            if model is not None:
                self.setup_model(model)
            current_image: EncodedImage | None = None
            items: Source | list[Item]
            if source is None:
                current_image = self._require_image()
                items = [Item(current_image.pixels, current_image.path, total=1)]
            else:
                self.setup_source(source)
                assert self.dataset is not None
                items = self.dataset
        return self._run_loop(
            items, request.config, lambda batch, writer: self._run_batch(batch, writer, current_image, request)
        )

    def predict_cli(self, source: Any = None, model: Any = None) -> None:
        """Run for the files and log messages only; results are discarded one by one."""
        for _ in self(source, model, stream=True):
            pass

    def set_prompts(self, prompts: Mapping[str, Any]) -> None:
        """Set prompts for the next call, by argument name, or in a callback for the image that follows.

        Prompts given to that call itself take precedence, but not over those of callbacks.
        """
        unknown = set(prompts) - set(PROMPT_KEYS)
        if unknown:
            raise TypeError(f"prompts are {', '.join(PROMPT_KEYS)}, not {', '.join(sorted(unknown))}")
        self.prompts = dict(prompts)

    def _read_request(self, kwargs: Mapping[str, Any]) -> _Request:
        prompt_kwargs = {**self.prompts, **{key: kwargs[key] for key in PROMPT_KEYS if kwargs.get(key) is not None}}
        options = {key: value for key, value in kwargs.items() if key not in PROMPT_KEYS}
        # Without options for this call, those of the predictor can still be changed while it runs.
        config = self.args.updated(options) if options else self.args
        arguments = dict(prompt_kwargs)
        multimask_output = parse.boolean("multimask_output", prompt_kwargs.pop("multimask_output", False))
        texts = prompt_kwargs.pop("texts", None)
        if texts is not None and prompt_kwargs:
            raise ValueError(f"texts find their own boxes: give them alone, without {', '.join(prompt_kwargs)}")
        prompts = Prompts.parse(**prompt_kwargs)
        if prompts is None:
            arguments |= {key: value for key, value in options.items() if key in GENERATE_OPTIONS}
        request = _Request(config, prompts, multimask_output, arguments, None if texts is None else parse_texts(texts))
        self.prompts = {}
        return request

    def _run_batch(
        self,
        batch: list[Item],
        writer: saving.ResultWriter | None,
        current_image: EncodedImage | None,
        request: _Request,
    ) -> Iterator[Results]:
        """Yield the results of a batch of items, which are encoded together and decoded one by one.

        current_image: the image that is set, for a call without source; None otherwise.
        """
        encoder = self._own_encoder()
        images = [current_image or EncodedImage(item.image, item.path, own_encoder=encoder) for item in batch]
        with self._in_call(request.config):
            elapsed = self._encode_batch(images, request)
        for item in batch:
            with self._in_call(request.config):
                self._begin_batch([item])
                image = images.pop(0)
                if self.batch is not None and self.batch[1][0] is not item.image:  # a callback has replaced it
                    image = EncodedImage(self.batch[1][0], self.batch[0][0], own_encoder=encoder)
                asked = request
                if self.prompts:  # a callback has set them
                    asked = self._read_request({**request.arguments, **self.prompts})
                results = self._segment(image, asked, elapsed)
                (result,) = self._end_batch([item], results, request.config, writer)
            yield result

    def _encode_batch(self, images: list[EncodedImage], request: _Request) -> dict[str, float]:
        """Encode several images in one pass, unless no embedding is needed.

        Returns milliseconds per phase, divided by the number of images.
        """
        watch = Stopwatch()
        has_objects = request.texts != () and (request.prompts is None or len(request.prompts) > 0)
        if len(images) > 1 and has_objects:
            encode_batch(self._ready_model(request.config), images, request.config.dtype, watch)
        return {phase: elapsed / len(images) for phase, elapsed in watch.speed.items()}

    def _segment(self, image: EncodedImage, request: _Request, elapsed: Mapping[str, float]) -> list[Results]:
        """Segment one image. elapsed: milliseconds per phase that were already spent on it."""
        config, watch = request.config, Stopwatch(elapsed)
        model = self._ready_model(config)
        if self.has_own_steps:
            if request.texts is None:
                return self._segment_by_steps(image, request, watch)
            warn_once(f"texts do not go through the methods of {type(self).__name__} for inference and postprocessing")
        if request.texts == ():  # same result as for empty bboxes, without loading a detector
            no_prompts = Prompts(boxes=torch.zeros(0, 4, device="cpu"))
            result = segment.segment_prompts(model, image, no_prompts, request.multimask_output, config, watch)
        elif request.texts is not None:
            detector = self._text_detectors.get(config, model.device)
            result = segment_texts(model, image, request.texts, detector, request.multimask_output, config, watch)
        elif request.prompts is None:
            result = segment.segment_everything(model, image, config, watch, progress=config.verbose)
        else:
            result = segment.segment_prompts(model, image, request.prompts, request.multimask_output, config, watch)
        result.speed = dict(watch.speed)
        return [result]

    def segment_by_own_steps(
        self, image: EncodedImage, config: Config, prompts: Prompts | None, arguments: dict[str, Any]
    ) -> Results:
        """Segment one image by the methods that a subclass overrides. arguments: those of `inference`."""
        with self._in_call(config):
            self.batch = [image.path], [image.pixels], [""]
            return self._segment_by_steps(image, _Request(config, prompts, False, arguments), Stopwatch())[0]

    @torch.no_grad()
    def _segment_by_steps(self, image: EncodedImage, request: _Request, watch: Stopwatch) -> list[Results]:
        """Segment one image by the methods that subclasses override, with the arguments that Ultralytics passes."""
        device = self._ready_model(request.config).device
        with watch.phase("preprocess", device):
            pixels = self._remember_input(self.preprocess([image.pixels]), image)
        with watch.phase("inference", device):
            preds = self.inference(pixels, **request.arguments)
        with watch.phase("postprocess", device):
            results = checked_results(self.postprocess(preds, pixels, [image.pixels]), 1)
        for result in results:
            result.speed = dict(watch.speed)
        return results

    def _ready(self, config: Config) -> None:
        self._ready_model(config)

    def _describe_result(self, result: Results) -> str:
        return f"{len(result)} mask{'s' * (len(result) != 1)}"

    def _input_shape(self, config: Config) -> str:
        size = config.imgsz or (self.model and self.model.default_image_size)
        return f"(1, 3, {size}, {size})" if size else ""

    # --- other results ---

    def edges(
        self, im: Any = None, *, points_stride: int = 16, nms_thresh: float = 0.7, thin: bool = True, **options: Any
    ) -> np.ndarray:
        """Return the edge map of `im`, or of the image that is set: (H, W) float32 in [0, 1].

        Edges are the outlines of the masks from a grid of `points_stride` x `points_stride` clicks, without training
        for edge detection; see `edges.py`. Of masks whose boxes have an IoU above `nms_thresh`, only the one with the
        highest predicted IoU counts. thin: reduce edges to a width of one pixel. options: those of a call (`imgsz`,
        `device`, `points_batch_size`, `half`).
        """
        config = self.args.updated(options)
        with self._lock:
            image = self._resolve_image(im)
            model = self._ready_model(config)
            return edges.edge_map(
                model,
                image,
                points_stride=points_stride,
                points_batch_size=config.points_per_batch(model),
                nms_thresh=nms_thresh,
                thin=thin,
                dtype=config.dtype,
            )

    def proposals(self, im: Any = None, n: int = 1000, *, nms_thresh: float = 0.9, **options: Any) -> Results:
        """Return up to `n` object proposals of `im`, or of the image that is set: boxes, masks and scores, best first.

        The score, `boxes.conf`, is the mean of predicted IoU and stability score. Nothing is filtered by quality. Of
        two masks whose boxes have an IoU above `nms_thresh`, the lower-ranked one is dropped. Masks whose boxes have
        an IoU of at most 0.7 with each other come first, by score; the others follow, by score. With `sam_nano` the
        rank also depends on how many points agree on a mask.

        options: those of segment everything. A grid of 32 x 32 points gives up to 3,072 candidates, `points_stride=64`
        four times as many. The thresholds `conf_thres`, `stability_score_thresh`, `iou` and `crop_nms_thresh` are
        ignored.
        """
        config = self.args.updated(options)
        with self._lock:
            image = self._resolve_image(im)
            watch = Stopwatch()
            results = proposals.propose(self._ready_model(config), image, n, config, watch, nms_thresh=nms_thresh)
            results.speed = dict(watch.speed)
            return results
