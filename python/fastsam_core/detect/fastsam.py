"""`FastSAM`: a YOLOv8 segmentation network that finds everything, and prompts that choose among what it found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._tensors import to_tensor
from ..models.native import watch_methods
from ..results import Results
from .prompt_selection import Matcher, PromptSelector
from .yolo.model import YOLO
from .yolo.predictor import STEPS, YoloPredictor

# Box sides within _BORDER_MARGIN pixels of the image's border are moved onto it. If the IoU of the box with the whole
# image is then above _WHOLE_IMAGE_IOU, it becomes the whole image.
_BORDER_MARGIN = 20
_WHOLE_IMAGE_IOU = 0.9


class FastSAMPredictor(YoloPredictor):
    """A `YoloPredictor` whose calls take prompts.

    `matcher` compares images with texts. If it is None, CLIP is loaded when the first text comes.
    """

    matcher: Matcher | None = None

    def stream_inference(
        self,
        source: Any = None,
        model: Any = None,
        bboxes: Any = None,
        points: Any = None,
        labels: Any = None,
        texts: Any = None,
        **kwargs: Any,
    ) -> Iterator[Results]:
        """Predict as `YoloPredictor` does; the prompts apply to every image, see `FastSAM`."""
        config = self._options(kwargs)
        selector = PromptSelector.from_prompts(bboxes, points, labels, texts)  # raises now for invalid prompts
        self._matcher(selector, config.device)

        def choose(result: Results) -> Results:
            return self.prompt([result], bboxes, points, labels, texts)[0]

        return self._results(source, model, config, choose)

    def postprocess(self, preds: Any, img: Tensor, orig_imgs: Any) -> list[Results]:
        """Convert what `inference` returned to results, whose boxes are moved onto the border if they are near it."""
        return [_snap_to_border(result) for result in super().postprocess(preds, img, orig_imgs)]

    def prompt(
        self, results: Any, bboxes: Any = None, points: Any = None, labels: Any = None, texts: Any = None
    ) -> list[Results]:
        """Choose objects by prompts among those of earlier results, without running the network again."""
        selector = PromptSelector.from_prompts(bboxes, points, labels, texts)
        result_list = [results] if isinstance(results, Results) else list(results)
        if selector is None:
            return result_list
        matcher = self._matcher(selector, self.args.device)
        return [selector.select(result, matcher) for result in result_list]

    def _matcher(self, selector: PromptSelector | None, device: Any) -> Matcher | None:
        if selector is None or not selector.texts:
            return None
        if self.matcher is None:
            from .clip import ClipMatcher

            self.matcher = ClipMatcher(device=device)
        return self.matcher


watch_methods(FastSAMPredictor, names=STEPS)


class FastSAM(YOLO):
    """FastSAM: segments everything in one pass of a YOLOv8 network.

    model: "FastSAM-s.pt" or "FastSAM-x.pt", which are downloaded if necessary, or a checkpoint's path.

    A call takes prompts in pixels of the original image, which apply to every image; without prompts all objects are
    returned. Each box chooses the mask that fits it best. The points act together: they choose the masks that contain a
    point with label 1 (the default) and none with label 0. Each text chooses the mask that fits it best, by CLIP (extra
    `text`; `predictor.matcher` replaces it). Prompts of several kinds choose the union.
    """

    _predictor_class = FastSAMPredictor

    def __init__(self, model: str | os.PathLike[str] = "FastSAM-x.pt") -> None:
        if isinstance(model, str | os.PathLike) and Path(model).suffix in (".yaml", ".yml"):
            raise ValueError(f"FastSAM needs a checkpoint, as in FastSAM('FastSAM-s.pt'), not a description: {model}")
        super().__init__(model)
        if self.task != "segment":
            raise ValueError(f"{self.model_name} is a detection model, but FastSAM needs a segmentation model")

    def predict(
        self,
        source: Any = None,
        stream: bool = False,
        bboxes: Any = None,
        points: Any = None,
        labels: Any = None,
        texts: Any = None,
        *,
        predictor: Any = None,
        **kwargs: Any,
    ) -> list[Results] | Iterator[Results]:
        """Return the results of every image of `source`, in order, as `YOLO` does. A call does the same.

        bboxes, points, labels, texts: see the class. kwargs: options of `config.DetectConfig`, for this call.
        """
        prompts = {"bboxes": bboxes, "points": points, "labels": labels, "texts": texts}
        given = {key: value for key, value in prompts.items() if value is not None}
        return self._run(predictor, source, stream, {**given, **kwargs})

    if TYPE_CHECKING:
        __call__ = predict


def _snap_to_border(result: Results) -> Results:
    """Move box sides near the border onto it, and make boxes of nearly the whole image the whole. Masks stay."""
    assert result.boxes is not None
    rows = to_tensor(result.boxes.data).clone()
    height, width = result.orig_shape
    boxes = rows[:, :4]
    boxes[:, :2] = torch.where(boxes[:, :2] < _BORDER_MARGIN, 0, boxes[:, :2])
    bottom_right = torch.tensor([width, height], dtype=rows.dtype, device=rows.device)
    boxes[:, 2:] = torch.where(boxes[:, 2:] > bottom_right - _BORDER_MARGIN, bottom_right, boxes[:, 2:])
    iou = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) / (width * height)  # the IoU with the whole image
    boxes[iou > _WHOLE_IMAGE_IOU] = torch.cat([torch.zeros_like(bottom_right), bottom_right])
    result.update(boxes=rows)
    return result
