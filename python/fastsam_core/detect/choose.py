"""Which of the objects found in a picture are meant by boxes, points or words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import rle
from ..prompts import Prompts
from ..results import Results

# Masks of fewer pixels are too small to be described by words.
_MIN_AREA = 100


class Matcher(Protocol):
    """Says how well pictures fit texts."""

    def __call__(self, images: list[NDArray[np.uint8]], texts: list[str]) -> NDArray[np.float32]:
        """BGR pictures (h, w, 3) and texts -> (T, N), higher is better."""
        ...


@dataclass(frozen=True)
class Choice:
    """What objects of a picture are wanted, all of it together.

    boxes: (N, 4) float32; each chooses the mask that fits it best. points: (P, 2) with labels (P,): masks that some
    foreground point hits and no background point; with background points alone, all masks that none of them hits.
    texts: each chooses the mask that fits it best.
    """

    boxes: NDArray[np.float32] | None = None
    points: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    texts: tuple[str, ...] = ()

    @classmethod
    def read(cls, bboxes: Any = None, points: Any = None, labels: Any = None, texts: Any = None) -> Choice | None:
        """From the forms that `Prompts` reads, and a text or a list of them; None when nothing is prompted.

        ValueError for shapes and values that don't fit, TypeError for what isn't numbers or texts.
        """
        words = read_texts(texts)
        prompts = Prompts.read(bboxes, points, labels)
        if prompts is None:
            return cls(texts=words) if texts is not None else None
        boxes = None if prompts.boxes is None else prompts.boxes.numpy()
        if prompts.points is None or prompts.labels is None:
            return cls(boxes, texts=words)
        own = np.arange(prompts.points.shape[1]) < np.array(prompts.counts, np.int64).reshape(-1, 1)  # not padding
        marks = prompts.labels.numpy()[own]
        if not np.isin(marks, (0, 1)).all():
            raise ValueError(f"labels must be 1 (foreground) or 0 (background), not {marks.tolist()}")
        return cls(boxes, prompts.points.numpy()[own], marks, words)

    def among(self, result: Results, matcher: Matcher | None = None) -> Results:
        """The objects of `result` that are meant, in its order. `matcher` is needed for texts."""
        if result.masks is None or not len(result):
            return result
        masks = result.masks.rle
        chosen = np.zeros(len(masks), bool)
        if self.boxes is not None and len(self.boxes):
            chosen[_best_for_boxes(masks, self.boxes)] = True
        if self.points is not None and self.labels is not None and len(self.points):
            chosen |= _hit(masks, self.points, self.labels)
        if self.texts:
            assert matcher is not None
            chosen[_best_for_texts(result, list(self.texts), matcher)] = True
        return result[chosen]


def read_texts(texts: Any) -> tuple[str, ...]:
    """A text or several -> all of them; TypeError for something else, ValueError for an empty one."""
    if texts is None:
        return ()
    words = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, list | tuple) else None
    if words is None or not all(isinstance(word, str) for word in words):
        raise TypeError(f"texts must be a text or a list of them, not {texts!r}")
    if not all(word.strip() for word in words):
        raise ValueError("texts must not be empty: say what to look for, as in texts=['a dog']")
    return tuple(word.strip() for word in words)


def _best_for_boxes(masks: list[dict[str, Any]], boxes: NDArray[np.float32]) -> list[int]:
    """For each box that touches a mask, the mask of the greatest IoU with its area; it is rounded to whole pixels."""
    height, width = masks[0]["size"]
    areas = np.asarray(rle.area(masks), np.float64)
    best = []
    for box in boxes:
        x1, y1, x2, y2 = np.round(np.clip(box, 0, [width, height, width, height])).astype(np.int64).tolist()
        window = [x1, y1, max(0, x2 - x1), max(0, y2 - y1)]
        shared = np.asarray(rle.area(rle.crop(masks, window)), np.float64)
        union = areas + window[2] * window[3] - shared
        if shared.any():
            best.append(int((shared / union).argmax()))
    return best


def _hit(masks: list[dict[str, Any]], points: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which masks the points mean, see `Choice`."""
    pixels = np.floor(points).astype(np.int64)
    hits = np.array([np.asarray(rle.area(rle.crop(masks, [x, y, 1, 1]))) > 0 for x, y in pixels.tolist()])  # (P, N)
    outside = hits[labels == 0].any(0)
    return ~outside & (hits[labels == 1].any(0) if (labels == 1).any() else True)


def _best_for_texts(result: Results, texts: list[str], matcher: Matcher) -> list[int]:
    """For each text the object whose crop, its surroundings in white, fits it best; none if all are tiny."""
    assert result.masks is not None
    large = np.flatnonzero(result.masks.area.numpy() >= _MIN_AREA).tolist()
    if not large:
        return []
    crops = []
    for index in large:
        (x, y), mask = result.masks.crop(index)
        shown = result.orig_img[y : y + mask.shape[0], x : x + mask.shape[1]].copy()
        shown[~mask] = 255
        crops.append(shown)
    fits = matcher(crops, texts)
    if fits.shape != (len(texts), len(crops)):
        raise ValueError(f"the matcher gave {fits.shape} for {len(texts)} texts and {len(crops)} pictures")
    return [large[index] for index in fits.argmax(1).tolist()]
