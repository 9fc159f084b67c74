"""Selection, among the objects found in an image, of those that boxes, points or texts ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import rle
from .._log import warn_once
from ..prompts import Prompts, parse_texts
from ..results import Results

# Masks of fewer pixels are too small to compare with texts.
_MIN_AREA = 100


class Matcher(Protocol):
    """A callable that scores how well images fit texts."""

    def __call__(self, images: list[NDArray[np.uint8]], texts: list[str]) -> NDArray[np.float32]:
        """Return scores (T, N) of T texts and N BGR images (h, w, 3); higher is better."""
        ...


@dataclass(frozen=True)
class PromptSelector:
    """Prompts that select objects of an image; the result is the union of what boxes, points and texts select.

    boxes: (N, 4) float32; each selects the mask that fits it best. points: (P, 2) with labels (P,); they select the
    masks that contain at least one foreground point (label 1) and no background point (label 0). With background points
    alone they select all masks that contain none of them. texts: each selects the mask that fits it best.
    """

    boxes: NDArray[np.float32] | None = None
    points: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    texts: tuple[str, ...] = ()

    @classmethod
    def from_prompts(
        cls, bboxes: Any = None, points: Any = None, labels: Any = None, texts: Any = None
    ) -> PromptSelector | None:
        """Read prompts in the forms that `Prompts.parse` takes, and a text or a list of texts; None without any.

        Labels without points are no prompt. ValueError for invalid shapes and values, TypeError for anything but
        numbers or texts.
        """
        if points is None and labels is not None:
            warn_once("labels have no effect without points")
        if all(prompt is None for prompt in (bboxes, points, texts)):
            return None
        text_prompts = parse_texts(texts)
        box_prompts = Prompts.parse(bboxes)
        boxes = None if box_prompts is None or box_prompts.boxes is None else box_prompts.boxes.numpy()
        if points is None:
            return cls(boxes, texts=text_prompts)
        flat_points, point_labels = _flatten_points(points, labels)
        return cls(boxes, flat_points, point_labels, text_prompts)

    def select(self, result: Results, matcher: Matcher | None = None) -> Results:
        """Return the objects of `result` that the prompts select, in its order. Texts need a `matcher`."""
        if result.masks is None or not len(result):
            return result
        masks = result.masks.rle
        selected = np.zeros(len(masks), bool)
        if self.boxes is not None and len(self.boxes):
            selected[_best_masks_for_boxes(masks, self.boxes)] = True
        if self.points is not None and self.labels is not None and len(self.points):
            selected |= _selected_by_points(masks, self.points, self.labels)
        if self.texts:
            assert matcher is not None
            selected[_best_masks_for_texts(result, list(self.texts), matcher)] = True
        return result[selected]


def _flatten_points(points: Any, labels: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Flatten points given in any form to (P, 2), with their labels (P,)."""
    if _is_empty(points) and (labels is None or _is_empty(labels)):
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    # All points describe one thing, so a flat list of them is read as one object with many points.
    depth = _nesting_depth(points)
    points = [points] if depth == 2 else points
    if labels is not None and depth <= 2 and 1 <= _nesting_depth(labels) < 3:
        labels = [labels] if _nesting_depth(labels) == 1 else [[label for row in labels for label in row]]
    prompts = Prompts.parse(points=points, labels=labels)
    assert prompts is not None and prompts.points is not None and prompts.labels is not None
    is_real = np.arange(prompts.points.shape[1]) < np.array(prompts.counts, np.int64).reshape(-1, 1)  # not padding
    flat_labels: NDArray[np.int64] = prompts.labels.numpy()[is_real]
    if not np.isin(flat_labels, (0, 1)).all():
        raise ValueError(f"labels must be 1 (foreground) or 0 (background), not {flat_labels.tolist()}")
    return prompts.points.numpy()[is_real], flat_labels


def _is_empty(values: Any) -> bool:
    return not len(values) if isinstance(values, list | tuple) else 0 in getattr(values, "shape", ())


def _nesting_depth(values: Any) -> int:
    if isinstance(values, list | tuple):
        return 1 + (_nesting_depth(values[0]) if values else 0)
    return int(getattr(values, "ndim", 0))


def _best_masks_for_boxes(masks: list[dict[str, Any]], boxes: NDArray[np.float32]) -> list[int]:
    """Return, for each box that touches a mask, the mask of greatest IoU with the box, rounded to whole pixels."""
    height, width = masks[0]["size"]
    areas = np.asarray(rle.area(masks), np.float64)
    best = []
    for box in boxes:
        x1, y1, x2, y2 = np.round(np.clip(box, 0, [width, height, width, height])).astype(np.int64).tolist()
        window = [x1, y1, max(0, x2 - x1), max(0, y2 - y1)]
        intersections = np.asarray(rle.area(rle.crop(masks, window)), np.float64)
        unions = areas + window[2] * window[3] - intersections
        if intersections.any():
            best.append(int((intersections / unions).argmax()))
    return best


def _selected_by_points(
    masks: list[dict[str, Any]], points: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return (N,) which masks the points select, see `PromptSelector`."""
    pixels = np.floor(points).astype(np.int64)
    contains = np.array([np.asarray(rle.area(rle.crop(masks, [x, y, 1, 1]))) > 0 for x, y in pixels.tolist()])  # (P, N)
    excluded = contains[labels == 0].any(0)
    return ~excluded & (contains[labels == 1].any(0) if (labels == 1).any() else True)


def _best_masks_for_texts(result: Results, texts: list[str], matcher: Matcher) -> list[int]:
    """Return, for each text, the object whose crop on white fits it best; empty if all objects are tiny."""
    assert result.masks is not None
    large_indices = np.flatnonzero(result.masks.area.numpy() >= _MIN_AREA).tolist()
    if not large_indices:
        return []
    crops = []
    for index in large_indices:
        (x, y), mask = result.masks.crop(index)
        crop = result.orig_img[y : y + mask.shape[0], x : x + mask.shape[1]].copy()
        crop[~mask] = 255
        crops.append(crop)
    similarities = matcher(crops, texts)
    if similarities.shape != (len(texts), len(crops)):
        raise ValueError(
            f"the matcher must return shape {(len(texts), len(crops))} (texts, images); got {similarities.shape}"
        )
    return [large_indices[index] for index in similarities.argmax(1).tolist()]
