"""Masks predicted from one click, from a box and from corrective clicks, and their IoU with the true masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import rle
from ..config import Config
from ..encoded_image import EncodedImage
from ..models.sam_model import SamModel
from ..prompts import Prompts
from ..segment import decode_prompts, make_resizer
from ..stopwatch import Stopwatch
from .clicks import Click, Mask, innermost_pixel, next_click
from .datasets import GroundTruthObject

MAX_CLICKS = 20

Box = tuple[int, int, int, int]


@dataclass
class OneClickResult:
    """Result of one click: of its three masks the one with the highest predicted IoU.

    click: (x, y). rle: the mask. low_res: its logits (S / 4, S / 4), where S is the side of the model's input.
    predicted_ious, true_ious: predicted and true IoU of all three masks, (3,).
    """

    click: Click
    rle: rle.RLE
    low_res: Tensor
    predicted_ious: NDArray[np.float64]
    true_ious: NDArray[np.float64]

    @property
    def best_index(self) -> int:
        """Index of the mask with the highest predicted IoU among the three; ties go to the first."""
        return int(self.predicted_ious.argmax())


class PromptedSegmenter:
    """An image and the model that segments it. Masks are thresholded at full resolution, as in prediction calls."""

    def __init__(self, model: SamModel, image: EncodedImage, config: Config) -> None:
        self.model, self.image, self._dtype = model, image, config.dtype
        self._resizer = make_resizer(model, image)

    def segment_clicks(self, objects: Sequence[GroundTruthObject]) -> list[OneClickResult]:
        """Return the masks for a click on each object's `innermost_pixel`."""
        clicks = [innermost_click(true_object) for true_object in objects]
        outputs = self._decode(Prompts.parse(points=_to_points([[click] for click in clicks])), True)
        masks: list[OneClickResult] = []
        for click, true_object, (logits, predicted) in zip(clicks, objects, outputs, strict=True):
            best, rles = int(predicted.argmax()), self._to_rles(logits)
            ious = _ious(rles, true_object.rle)
            masks.append(OneClickResult(click, rles[best], logits[best].clone(), predicted.double().numpy(), ious))
        return masks

    def segment_boxes(self, objects: Sequence[GroundTruthObject]) -> tuple[list[rle.RLE], NDArray[np.float64]]:
        """Return the single mask for each object's box, and the true IoU of each, (n,)."""
        boxes = np.array([bounding_box(true_object) for true_object in objects], np.float64).reshape(-1, 4)
        masks = [self._to_rles(logits)[0] for logits, _ in self._decode(Prompts.parse(bboxes=boxes), False)]
        ious = [_ious([mask], true_object.rle)[0] for mask, true_object in zip(masks, objects, strict=True)]
        return masks, np.array(ious, np.float64)

    def simulate_corrections(
        self,
        objects: Sequence[GroundTruthObject],
        first_results: Sequence[OneClickResult],
        target_iou: float,
        max_clicks: int = MAX_CLICKS,
        *,
        mask_feedback: bool = True,
    ) -> list[list[float]]:
        """Return the IoU of each object after each click, (clicks,) per object.

        Clicks end when the IoU reaches `target_iou`, after `max_clicks` clicks, or when no pixel is left to click. The
        first click and its mask are given by `first_results`. Each later click is `clicks.next_click` for the previous
        mask. The model then gets all clicks so far and, with `mask_feedback`, the previous mask's low-resolution
        logits, and predicts a single mask.
        """
        ious = [[float(mask.true_ious[mask.best_index])] for mask in first_results]
        clicks = [[mask.click] for mask in first_results]
        labels = [[1] for _ in first_results]
        masks, low_res = [mask.rle for mask in first_results], [mask.low_res for mask in first_results]
        active = list(range(len(objects)))
        while active := [index for index in active if ious[index][-1] < target_iou and len(clicks[index]) < max_clicks]:
            correctable = []
            for index in active:
                corner, truth, mask = _crop_to_union(objects[index].rle, masks[index])
                taken = [(x - corner[0], y - corner[1]) for x, y in clicks[index]]
                correction = next_click(truth, mask, taken)
                if correction is not None:
                    (x, y), positive = correction
                    clicks[index].append((x + corner[0], y + corner[1]))
                    labels[index].append(int(positive))
                    correctable.append(index)
            active = correctable
            if not active:
                break
            prompts = Prompts.parse(
                points=_to_points([clicks[index] for index in active]),
                labels=np.array([labels[index] for index in active]),
                masks=torch.stack([low_res[index] for index in active]) if mask_feedback else None,
            )
            for index, (logits, _) in zip(active, self._decode(prompts, False), strict=True):
                masks[index], low_res[index] = self._to_rles(logits)[0], logits[0]
                ious[index].append(float(_ious([masks[index]], objects[index].rle)[0]))
        return ious

    def _decode(self, prompts: Prompts | None, multimask_output: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (M, S / 4, S / 4) and predicted IoU (M,) for each object in turn, on the CPU."""
        assert prompts is not None
        parts = decode_prompts(self.model, self.image, prompts, multimask_output, self._dtype, Stopwatch())
        # Parts are grouped by their number of clicks. Here it is the same for all, so they come in order.
        for _, logits, predicted in parts:
            yield from zip(logits.cpu(), predicted.cpu(), strict=True)

    def _to_rles(self, logits: Tensor) -> list[rle.RLE]:
        return [record.rle for record in self._resizer.records(logits.to(self.model.device))]


def innermost_click(true_object: GroundTruthObject) -> Click:
    """Return the innermost pixel (x, y) of an object."""
    x1, y1, x2, y2 = bounding_box(true_object)
    object_mask = rle.decode(rle.crop(true_object.rle, [x1, y1, x2 + 1 - x1, y2 + 1 - y1])).astype(bool)
    click, _ = innermost_pixel(object_mask)
    assert click is not None, "an object without pixels"
    return click[0] + x1, click[1] + y1


def bounding_box(true_object: GroundTruthObject) -> Box:
    """Return x1, y1, x2, y2 of an object's outermost pixels, inclusive."""
    x, y, width, height = (int(side) for side in rle.toBbox(true_object.rle))
    return x, y, x + width - 1, y + height - 1


def _crop_to_union(first: rle.RLE, second: rle.RLE) -> tuple[tuple[int, int], Mask, Mask]:
    """Crop two masks to their common bounding box.

    Returns the box's corner (x, y) in the image and both parts, (h, w) bool.
    """
    boxes = [box for box in rle.toBbox([first, second]) if box[2]]
    x1, y1 = (int(min(box[axis] for box in boxes)) for axis in (0, 1))
    x2, y2 = (int(max(box[axis] + box[axis + 2] for box in boxes)) for axis in (0, 1))
    window = [x1, y1, x2 - x1, y2 - y1]
    cropped = [np.ascontiguousarray(rle.decode(rle.crop(mask, window))).astype(bool) for mask in (first, second)]
    return (x1, y1), cropped[0], cropped[1]


def _to_points(clicks: list[list[Click]]) -> NDArray[np.float64]:
    """Return clicks as an array (N, P, 2), or (0, 1, 2) for no objects."""
    return np.array(clicks, np.float64).reshape(len(clicks), -1 if clicks else 1, 2)


def _ious(masks: list[rle.RLE], truth: rle.RLE) -> NDArray[np.float64]:
    ious: NDArray[np.float64] = np.asarray(rle.iou(masks, [truth], [0]), np.float64)[:, 0]
    return ious
