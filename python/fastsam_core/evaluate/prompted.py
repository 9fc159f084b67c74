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
from .clicks import Click, Mask, innermost, next_click
from .truth import TrueObject

LIMIT = 20

Box = tuple[int, int, int, int]


@dataclass
class FirstMask:
    """Result of one click: of its three masks the one with the highest predicted IoU.

    click: (x, y). rle: the mask. low_res: its logits (S / 4, S / 4), where S is the side of the model's input.
    predicted, true: predicted and true IoU of all three masks, (3,).
    """

    click: Click
    rle: rle.RLE
    low_res: Tensor
    predicted: NDArray[np.float64]
    true: NDArray[np.float64]

    @property
    def chosen(self) -> int:
        """Index of the mask with the highest predicted IoU among the three; ties go to the first."""
        return int(self.predicted.argmax())


class Prompted:
    """An image and the model that segments it. Masks are thresholded at full resolution, as in prediction calls."""

    def __init__(self, model: SamModel, picture: EncodedImage, config: Config) -> None:
        self.model, self.picture, self._dtype = model, picture, config.dtype
        self._resizer = make_resizer(model, picture)

    def one_click(self, objects: Sequence[TrueObject]) -> list[FirstMask]:
        """Return the masks for a click on each object's `innermost` pixel."""
        clicks = [click_of(found) for found in objects]
        decoded = self._decode(Prompts.parse(points=_points([[click] for click in clicks])), True)
        masks: list[FirstMask] = []
        for click, found, (logits, predicted) in zip(clicks, objects, decoded, strict=True):
            chosen, rles = int(predicted.argmax()), self._rles(logits)
            ious = _ious(rles, found.rle)
            masks.append(FirstMask(click, rles[chosen], logits[chosen].clone(), predicted.double().numpy(), ious))
        return masks

    def box(self, objects: Sequence[TrueObject]) -> tuple[list[rle.RLE], NDArray[np.float64]]:
        """Return the single mask for each object's box, and the true IoU of each, (n,)."""
        boxes = np.array([box_of(found) for found in objects], np.float64).reshape(-1, 4)
        masks = [self._rles(logits)[0] for logits, _ in self._decode(Prompts.parse(bboxes=boxes), False)]
        ious = [_ious([mask], found.rle)[0] for mask, found in zip(masks, objects, strict=True)]
        return masks, np.array(ious, np.float64)

    def corrected(
        self,
        objects: Sequence[TrueObject],
        first: Sequence[FirstMask],
        goal: float,
        limit: int = LIMIT,
        *,
        mask_feedback: bool = True,
    ) -> list[list[float]]:
        """Return the IoU of each object after each click, (clicks,) per object.

        Clicks end when the IoU reaches `goal`, after `limit` clicks, or when no pixel is left to click. The first
        click and its mask are given by `first`. Each later click is `clicks.next_click` for the previous mask. The
        model then gets all clicks so far and, with `mask_feedback`, the previous mask's low-resolution logits, and
        predicts a single mask.
        """
        ious = [[float(mask.true[mask.chosen])] for mask in first]
        clicks = [[mask.click] for mask in first]
        labels = [[1] for _ in first]
        masks, low_res = [mask.rle for mask in first], [mask.low_res for mask in first]
        active = list(range(len(objects)))
        while active := [place for place in active if ious[place][-1] < goal and len(clicks[place]) < limit]:
            going = []
            for place in active:
                corner, truth, mask = _together(objects[place].rle, masks[place])
                taken = [(x - corner[0], y - corner[1]) for x, y in clicks[place]]
                chosen = next_click(truth, mask, taken)
                if chosen is not None:
                    (x, y), positive = chosen
                    clicks[place].append((x + corner[0], y + corner[1]))
                    labels[place].append(int(positive))
                    going.append(place)
            active = going
            if not active:
                break
            prompts = Prompts.parse(
                points=_points([clicks[place] for place in active]),
                labels=np.array([labels[place] for place in active]),
                masks=torch.stack([low_res[place] for place in active]) if mask_feedback else None,
            )
            for place, (logits, _) in zip(active, self._decode(prompts, False), strict=True):
                masks[place], low_res[place] = self._rles(logits)[0], logits[0]
                ious[place].append(float(_ious([masks[place]], objects[place].rle)[0]))
        return ious

    def _decode(self, prompts: Prompts | None, multimask_output: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (M, S / 4, S / 4) and predicted IoU (M,) for each object in turn, on the CPU."""
        assert prompts is not None
        parts = decode_prompts(self.model, self.picture, prompts, multimask_output, self._dtype, Stopwatch())
        # Parts are grouped by their number of clicks. Here it is the same for all, so they come in order.
        for _, logits, predicted in parts:
            yield from zip(logits.cpu(), predicted.cpu(), strict=True)

    def _rles(self, logits: Tensor) -> list[rle.RLE]:
        return [record.rle for record in self._resizer.records(logits.to(self.model.device))]


def click_of(found: TrueObject) -> Click:
    """Return the innermost pixel (x, y) of an object."""
    x1, y1, x2, y2 = box_of(found)
    inside = rle.decode(rle.crop(found.rle, [x1, y1, x2 + 1 - x1, y2 + 1 - y1])).astype(bool)
    click, _ = innermost(inside)
    assert click is not None, "an object without pixels"
    return click[0] + x1, click[1] + y1


def box_of(found: TrueObject) -> Box:
    """Return x1, y1, x2, y2 of an object's outermost pixels, inclusive."""
    x, y, width, height = (int(side) for side in rle.toBbox(found.rle))
    return x, y, x + width - 1, y + height - 1


def _together(first: rle.RLE, second: rle.RLE) -> tuple[tuple[int, int], Mask, Mask]:
    """Crop two masks to their common bounding box.

    Returns the box's corner (x, y) in the image and both parts, (h, w) bool.
    """
    boxes = [box for box in rle.toBbox([first, second]) if box[2]]
    x1, y1 = (int(min(box[axis] for box in boxes)) for axis in (0, 1))
    x2, y2 = (int(max(box[axis] + box[axis + 2] for box in boxes)) for axis in (0, 1))
    window = [x1, y1, x2 - x1, y2 - y1]
    inside = [np.ascontiguousarray(rle.decode(rle.crop(mask, window))).astype(bool) for mask in (first, second)]
    return (x1, y1), inside[0], inside[1]


def _points(clicks: list[list[Click]]) -> NDArray[np.float64]:
    """Return clicks as an array (N, P, 2), or (0, 1, 2) for no objects."""
    return np.array(clicks, np.float64).reshape(len(clicks), -1 if clicks else 1, 2)


def _ious(masks: list[rle.RLE], truth: rle.RLE) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.asarray(rle.iou(masks, [truth], [0]), np.float64)[:, 0]
    return found
