"""The list of dicts that Meta's automatic mask generator returns, one per mask: writing and reading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._tensors import to_tensor
from ..masks import Masks

if TYPE_CHECKING:
    from ..results import Results

SEGMENTATIONS = ("rle", "mask")

# Arguments of `Results`, and their keys in the dicts.
_FIELDS = {
    "predicted_iou": "predicted_iou",
    "stability_score": "stability_score",
    "point_coords": "point_coords",
    "crop_boxes": "crop_box",
}


def records(results: Results, segmentation: str = "rle") -> list[dict[str, Any]]:
    """Return dicts with segmentation, area, bbox, predicted_iou, point_coords, stability_score, crop_box.

    `segmentation` is "rle" for `{"size": [H, W], "counts": str}` or "mask" for a bool array (H, W). `bbox` and
    `crop_box` are x, y, width, height. As in Meta's dicts, `bbox` is as wide and high as the distance from the first to
    the last pixel. A stability score that was not computed is None, missing points are [], and the default crop is the
    whole image. Without masks the list is empty.
    """
    if segmentation not in SEGMENTATIONS:
        raise ValueError(f"segmentation must be one of {', '.join(SEGMENTATIONS)}, not {segmentation!r}")
    masks = results.masks
    if masks is None:
        return []
    height, width = results.orig_shape
    rows = results.rows()
    areas = masks.area.tolist()
    rles = masks.rle if segmentation == "rle" else None
    dicts = []
    for i, row in enumerate(rows):
        x1, y1, x2, y2 = (float(number) for number in row[:4])
        dicts.append(
            {
                "segmentation": rles[i] if rles is not None else masks.pixels(i),
                "area": areas[i],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "predicted_iou": _to_float(results.predicted_iou, i, float(row[4])),
                "point_coords": _to_list(results.point_coords, i, []),
                "stability_score": _to_float(results.stability_score, i, None),
                "crop_box": _to_list(results.crop_boxes, i, [0.0, 0.0, float(width), float(height)]),
            }
        )
    return dicts


def read(records: Sequence[Mapping[str, Any]], orig_shape: Sequence[int], device: torch.device | str) -> dict[str, Any]:
    """Return the arguments of `Results` that the dicts provide; the class of a mask is its position in the list.

    `orig_shape` is the image's (height, width). A field other than mask, box and predicted IoU is left out for all if
    some dict lacks it. ValueError for a dict without mask, box or predicted IoU, TypeError for anything but dicts.
    """
    rows = []
    for i, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise TypeError(f"record {i} must be one of SAM's dicts, not {type(record).__name__}")
        missing = [key for key in ("segmentation", "bbox", "predicted_iou") if key not in record]
        if missing:
            raise ValueError(f"record {i} has no {' and no '.join(missing)}; SAM's dicts have all three")
        x, y, width, height = record["bbox"]
        rows.append([x, y, x + width, y + height, record["predicted_iou"], i])
    boxes = torch.tensor(rows, dtype=torch.float32, device=device).reshape(-1, 6)
    if not records:
        return {"boxes": boxes}
    segmentations: Any = [record["segmentation"] for record in records]
    if not isinstance(segmentations[0], Mapping):
        segmentations = np.stack(segmentations)
    optional: dict[str, Any] = {}
    for field, key in _FIELDS.items():
        values = [record.get(key) for record in records]
        if all(value is not None for value in values):
            # Points stay a list, because masks may have different numbers of them. Crop boxes keep their integers.
            dtype = torch.float32 if field.endswith(("iou", "score")) else None
            optional[field] = values if key == "point_coords" else torch.tensor(values, dtype=dtype, device=device)
    return {"boxes": boxes, "masks": Masks(segmentations, orig_shape, device=device), **optional}


def _to_float(values: Any, row: int, default: float | None) -> float | None:
    return default if values is None else float(values[row])


def _to_list(values: Any, row: int, default: list[Any]) -> list[Any]:
    if values is None:
        return default
    return to_tensor(values[row]).double().tolist()
