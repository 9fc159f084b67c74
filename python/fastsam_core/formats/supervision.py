"""`supervision.Detections`, for Roboflow's annotators, trackers and zones."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..results import Results


def detections(results: Results, compact: bool = True) -> Any:
    """A `supervision.Detections` with boxes, masks, confidence, class and track ids, and class names.

    With `compact`, masks become a `CompactMask` straight from run lengths, where the installed version has it
    (0.28 and later), and no (N, H, W) array is made; otherwise they are a bool array (N, H, W).
    Raises ImportError when supervision is not installed.
    """
    try:
        supervision = importlib.import_module("supervision")
    except ImportError as error:
        raise ImportError("to_supervision() needs the supervision package: pip install supervision") from error
    rows = results.rows()
    masks: Any = results.masks
    if masks is not None:
        maker = getattr(getattr(supervision, "CompactMask", None), "from_coco_rle", None) if compact else None
        if maker is not None:
            # Scoped by the masks' own extents: a prompt's or a detector's box may be smaller than the mask.
            masks = maker(masks.rle, masks.boxes, results.orig_shape)
        else:
            masks = masks.numpy().data.astype(bool)
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
        tracker_id=None if ids is None else np.array([int(one) for one in ids]),
        data=data,
    )
