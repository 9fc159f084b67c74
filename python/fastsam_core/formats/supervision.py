"""`supervision.Detections`, for Roboflow's annotators, trackers and zones."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import rle

if TYPE_CHECKING:
    from ..masks import Masks
    from ..results import Results


def detections(results: Results, compact: bool = True) -> Any:
    """Return a `supervision.Detections` with boxes, masks, confidence, class and track ids, and class names.

    With `compact`, masks become a `CompactMask` made directly from run lengths if the installed version has it (0.28
    and later), so that no (N, H, W) array is allocated; otherwise they are a bool array (N, H, W).
    Raises ImportError if supervision is not installed.
    """
    try:
        supervision = importlib.import_module("supervision")
    except ImportError as error:
        raise ImportError("to_supervision() needs the supervision package: pip install supervision") from error
    rows = results.rows()
    masks: Any = results.masks
    if masks is not None:
        compact_masks = _compact_mask(getattr(supervision, "CompactMask", None), masks) if compact else None
        masks = masks.numpy().data.astype(bool) if compact_masks is None else compact_masks
    ids = results.boxes.id if results.boxes is not None else None
    names = [results.name_of(class_id) for class_id in rows[:, 5]]
    data: dict[str, Any] = {"class_name": np.array(names, dtype=str)}
    if results.stability_score is not None:
        data["stability_score"] = np.array([float(score) for score in results.stability_score])
    return supervision.Detections(
        xyxy=rows[:, :4].astype(np.float32),
        mask=masks,
        confidence=rows[:, 4].astype(np.float32),
        class_id=rows[:, 5].astype(int),
        tracker_id=None if ids is None else np.array([int(track_id) for track_id in ids]),
        data=data,
    )


def _compact_mask(mask_class: Any, masks: Masks) -> Any:
    """Return a `CompactMask` of these masks; None if the installed version has none that takes run lengths.

    Each mask is cropped to its own extent: the box of a prompt or a detector may be smaller than the mask.
    """
    height, width = masks.orig_shape
    # Its own reader splits the runs in Python, column by column, which is slow; the native code crops them instead.
    if _takes_column_runs(mask_class) and height * width <= np.iinfo(np.int32).max:
        boxes = masks.boxes  # inclusive of the last pixels; an empty mask's zeros give one background pixel
        shapes = boxes[:, [3, 2]] - boxes[:, [1, 0]] + 1  # (N, 2) height, width
        runs = rle.crop_runs(masks.rle, np.concatenate([boxes[:, :2], shapes[:, ::-1]], 1))
        return mask_class(
            [counts.astype(np.int32) for counts in runs],
            shapes.astype(np.int32),
            boxes[:, :2].astype(np.int32),
            (height, width),
        )
    from_coco_rle = getattr(mask_class, "from_coco_rle", None)
    return None if from_coco_rle is None else from_coco_rle(masks.rle, masks.boxes, (height, width))


def _takes_column_runs(mask_class: Any) -> bool:
    """Return whether this `CompactMask` stores runs along the columns of crops; earlier versions had rows."""
    if not isinstance(mask_class, type):
        return False
    try:
        mask: Any = mask_class(
            [np.array([1, 2, 3], np.int32)], np.array([[2, 3]], np.int32), np.array([[1, 0]], np.int32), (2, 4)
        )
        return np.asarray(mask).tolist() == [[[False, False, True, False], [False, True, False, False]]]
    except (AttributeError, TypeError, ValueError):
        return False
