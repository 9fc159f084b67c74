"""Steps of a prediction one by one: `inference`, `generate` and others, which users may call or override."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import segment
from ._tensors import to_tensor
from .base_tensor import image_shape
from .encoded_image import EncodedImage
from .models.native import has_original_methods, watch_methods
from .predictor_output import everything_results, prompt_results
from .predictor_state import PredictorState, load_single_image
from .prompts import Prompts
from .results import Results
from .stopwatch import Stopwatch

# Methods that a call consists of if one of them is overridden; otherwise it takes a faster way to the same masks.
_STEPS = ("inference", "prompt_inference", "generate", "postprocess")


class PredictorSteps(PredictorState):
    """The part of `Predictor` with the steps that make results of an encoded image."""

    @property
    def has_own_steps(self) -> bool:
        """Whether one of the methods is overridden or replaced that make results of an encoded image."""
        return not has_original_methods(self, PredictorSteps, *_STEPS)

    def inference(
        self,
        im: Any = None,
        bboxes: Any = None,
        points: Any = None,
        labels: Any = None,
        masks: Any = None,
        multimask_output: bool = False,
        **options: Any,
    ) -> tuple[Tensor, ...]:
        """Call `prompt_inference` if there are prompts, else `generate`."""
        if bboxes is None and points is None and masks is None:
            Prompts.parse(labels=labels)  # logs that they have no effect
            return self.generate(im, **options)
        return self.prompt_inference(im, bboxes, points, labels, masks, multimask_output, **options)

    def prompt_inference(
        self,
        im: Any = None,
        bboxes: Any = None,
        points: Any = None,
        labels: Any = None,
        masks: Any = None,
        multimask_output: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return low-resolution logits (C, S / 4, S / 4) and predicted IoU (C,), float32, without filtering.

        C is the number of objects, or three times that with `multimask_output`, object by object. `im` is anything
        that `set_image` accepts, or the tensor that `preprocess` returned last; None means the image that is set.
        options: those of a call (`imgsz`, `device`, `dtype`, `half`).
        """
        prompts = Prompts.parse(bboxes, points, labels, masks)
        if prompts is None:
            raise ValueError("no prompt: give bboxes, points or masks; generate() segments everything")
        config = self.args.updated(options)
        with self._lock:
            image = self._resolve_image(im)
            model = self._ready_model(config)
            return segment.low_res_masks(model, image, prompts, multimask_output, config.dtype)

    def inference_features(
        self,
        features: Tensor,
        src_shape: Sequence[int],
        dst_shape: Sequence[int] | int | None = None,
        bboxes: Any = None,
        points: Any = None,
        labels: Any = None,
        masks: Any = None,
        multimask_output: bool = False,
    ) -> tuple[Tensor | None, Tensor]:
        """Decode prompts with an embedding that the caller supplies, without filtering.

        Args:
            features: the embedding, (1, C, S / 16, S / 16).
            src_shape: (height, width) of the original image; prompts are in its pixels.
            dst_shape: the model input size S at which the embedding was computed; default the current `imgsz`.
            bboxes: boxes; this and the following are as for `prompt_inference`.
            points: clicks.
            labels: labels of the clicks.
            masks: mask prompts.
            multimask_output: three masks per object instead of one.

        Returns:
            Masks (N, H, W) bool, or None for no objects, and boxes (N, 6): x1, y1, x2, y2, predicted IoU, index.
        """
        prompts = Prompts.parse(bboxes, points, labels, masks)
        if prompts is None:
            raise ValueError("no prompt: give bboxes, points or masks")
        height, width = image_shape(src_shape, "src_shape")
        with self._lock:
            config = self.args if dst_shape is None else self.args.updated({"imgsz": dst_shape})
            model = self._ready_model(config)
            model.prepare(features)  # only to raise ValueError for a wrong shape
            image = EncodedImage(None, "features", (height, width))
            image.features = features
            low_res, scores = segment.low_res_masks(model, image, prompts, multimask_output, config.dtype)
            result = prompt_results(model, image, low_res, scores)
        assert result.boxes is not None
        return None if result.masks is None else to_tensor(result.masks.data), to_tensor(result.boxes.data)

    def generate(self, im: Any = None, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Segment everything; return masks (N, H, W) bool, predicted IoU (N,) and boxes (N, 4) x1, y1, x2, y2.

        Masks and boxes are in pixels of the original image. options: those of segment everything, under the names of
        `Config` or Meta's. Calling the predictor gives the same masks as `Results`, which expand to pixels on demand.
        """
        config = self.args.updated(options)
        with self._lock:
            image = self._resolve_image(im)
            records = segment.generate_records(self._ready_model(config), image, config, Stopwatch(), config.verbose)
            result = Results.from_dicts(image.pixels, image.path, records, device=self._ready_model(config).device)
        assert result.boxes is not None
        height, width = image.original_hw
        boxes = to_tensor(result.boxes.data)
        masks = boxes.new_zeros((0, height, width), dtype=torch.bool)
        if result.masks is not None:
            masks = to_tensor(result.masks.data)
        return masks, boxes[:, 4], boxes[:, :4]

    def postprocess(self, preds: Sequence[Tensor], img: Any, orig_imgs: Any) -> list[Results]:
        """Convert the output of `prompt_inference` or `generate` to a list of one `Results`, filtered by `conf`.

        Subclasses may pass logits of another size than `prompt_inference` returns, and masks of the size of the model's
        input `img` instead of the image's. orig_imgs: the original image, or a list of one.
        """
        original = orig_imgs[0] if isinstance(orig_imgs, list) and len(orig_imgs) == 1 else orig_imgs
        path = self._path_of(original)
        image = load_single_image(original) if path is None else EncodedImage(original, path)
        preds = [to_tensor(part) for part in preds]
        if len(preds) not in (2, 3) or len({part.shape[:1] for part in preds}) > 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in preds)
            raise ValueError(f"preds must be what prompt_inference or generate returned, not tensors of {shapes}")
        with self._lock:
            model = self._ready_model(self.args)
            conf = self.args.conf_for(model)
            if len(preds) == 2:
                return [prompt_results(model, image, preds[0], preds[1], conf)]
            masks, scores, boxes = preds
            input_hw = None if img is None else (img.shape[2], img.shape[3])
            return [everything_results(model, image, masks, scores, boxes, conf, input_hw)]

    @staticmethod
    def remove_small_regions(masks: Tensor, min_area: float = 0, nms_thresh: float = 0.7) -> tuple[Tensor, Tensor]:
        """Fill holes and remove islands below `min_area` pixels in masks (N, H, W), then drop duplicates by box NMS.

        Returns the remaining masks (K, H, W) bool and their indices among the N, (K,) int64, unchanged masks first.
        """
        return segment.remove_small_regions(masks, min_area, nms_thresh)


watch_methods(PredictorSteps, names=_STEPS)
