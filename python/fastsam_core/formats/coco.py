"""COCO instance annotations, as pycocotools and its relatives read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from .yolo import MIN_POINTS

if TYPE_CHECKING:
    from ..results import Results


def annotation_dicts(
    results: Results,
    *,
    image_id: int = 1,
    first_id: int = 1,
    category_ids: int | Sequence[int] | None = None,
    polygons: bool = False,
) -> list[dict[str, Any]]:
    """One dict per object, JSON-ready: id, image_id, category_id, bbox, area, segmentation, iscrowd 0, score.

    `bbox` is x, y, width, height in pixels, as floats: the extent of the mask, so that a mask of one pixel is 1
    wide; without masks it is the box. `segmentation` is RLE with `counts` as `str`, exact; with `polygons=True`
    it is a list of flat x, y lists, one per part, which loses holes; a mask without a part of three points stays RLE.
    `category_ids` is one for all, or one per object. By default a result without class names (every SAM
    result) gives 1, and a result with class names its class + 1, because COCO counts from 1.
    """
    rows = results.rows()
    count = len(rows)
    categories = _category_ids(results, rows, category_ids)
    masks = results.masks
    rles = masks.rle if masks is not None else [None] * count
    areas: Any = masks.area.tolist() if masks is not None else (rows[:, 2:4] - rows[:, :2]).prod(1).tolist()
    corners = rows[:, :4].copy()
    if masks is not None:
        corners = masks.boxes.astype(np.float64)
        corners[:, 2:] += np.asarray(areas)[:, None] > 0
    extras = {"predicted_iou": results.predicted_iou, "stability_score": results.stability_score}
    written = []
    for i in range(count):
        x1, y1, x2, y2 = (float(number) for number in corners[i])
        annotation: dict[str, Any] = {
            "id": first_id + i,
            "image_id": image_id,
            "category_id": categories[i],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": areas[i],
            "iscrowd": 0,
            "score": float(rows[i, 4]),
        }
        if masks is not None:
            annotation["segmentation"] = (polygons and _flat_polygons(masks[i].polygons[0])) or rles[i]
        annotation.update({key: float(values[i]) for key, values in extras.items() if values is not None})
        written.append(annotation)
    return written


def dataset(
    results: Results | Iterable[Results],
    *,
    first_image_id: int = 1,
    first_id: int = 1,
    category_ids: int | Sequence[int] | None = None,
    polygons: bool = False,
) -> dict[str, Any]:
    """A whole COCO file, JSON-ready, for one or several results: `images`, `annotations`, `categories`.

    Images and annotations are numbered on from the given first ids. A picture without objects is listed too.
    """
    from ..results import Results

    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    for result in [results] if isinstance(results, Results) else results:
        image_id = first_image_id + len(images)
        height, width = result.orig_shape
        images.append({"id": image_id, "file_name": PurePath(result.path).name, "width": width, "height": height})
        found = annotation_dicts(
            result,
            image_id=image_id,
            first_id=first_id + len(objects),
            category_ids=category_ids,
            polygons=polygons,
        )
        objects += found
        if category_ids is None and not result.nameless:
            names.update({int(index) + 1: name for index, name in result.names.items()})
        else:
            names.update({one["category_id"]: names.get(one["category_id"], "object") for one in found})
    if not names:
        names[1] = "object"
    categories = [{"id": key, "name": names[key], "supercategory": ""} for key in sorted(names)]
    return {"images": images, "annotations": objects, "categories": categories}


def _category_ids(results: Results, rows: np.ndarray, given: int | Sequence[int] | None) -> list[int]:
    if given is None:
        return [1] * len(rows) if results.nameless else [int(row[5]) + 1 for row in rows]
    if isinstance(given, int):
        return [given] * len(rows)
    if len(given) != len(rows):
        raise ValueError(f"{len(given)} category_ids for {len(rows)} objects; give one per object, or one integer")
    return [int(category) for category in given]


def _flat_polygons(parts: Iterable[Any]) -> list[list[float]]:
    return [part.exterior.ravel().tolist() for part in parts if len(part.exterior) >= MIN_POINTS]
