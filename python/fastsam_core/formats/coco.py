"""COCO instance annotations, as pycocotools and compatible readers expect them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ._writing import json_text, round_for_json
from .labels import ImageLabels, LabelledObject, to_int

if TYPE_CHECKING:
    from ..results import Results

# Decimals of polygon coordinates, as in COCO's own files.
DECIMALS = 2
# What describes a whole file. pycocotools 2.0.9 and 2.0.10 can't evaluate without `info`.
HEADER: dict[str, Any] = {"info": {"description": "Annotations written by fastsam_core"}, "licenses": []}


def annotation_dicts(
    results: Results,
    *,
    image_id: int | str = 1,
    first_id: int = 1,
    category_ids: int | Sequence[int] | None = None,
    polygons: bool = False,
) -> list[dict[str, Any]]:
    """Return one JSON-ready dict per object: id, image_id, category_id, bbox, area, segmentation, iscrowd 0, score.

    `bbox` is x, y, width, height in pixels, as floats: the extent of the mask, so that a mask of one pixel is 1
    wide; without masks it is the box. `segmentation` is RLE with `counts` as `str`, or with `polygons=True` a list of
    flat x, y lists, one per part: outlines along pixel edges with holes bridged, which COCO's rasteriser fills to
    exactly the mask; a mask without pixels stays RLE. SAM's results also have predicted_iou and stability_score.
    `category_ids` is one for all objects, or one per object. By default the category is 1 for a result without class
    names (every SAM result), and otherwise the class + 1, because COCO counts from 1.
    """
    if not isinstance(image_id, str):  # not in COCO's specification, but its readers accept strings
        image_id = to_int("image_id", image_id)
    first_id = to_int("first_id", first_id)
    labels = ImageLabels.from_results(results)
    categories = _category_ids(labels, category_ids)
    return [
        annotation(obj, first_id + i, image_id, categories[i], polygons=polygons)
        for i, obj in enumerate(labels.objects)
    ]


def annotation(
    obj: LabelledObject,
    annotation_id: int,
    image_id: int | str,
    category_id: int,
    *,
    polygons: bool = False,
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """Return one object's annotation, JSON-ready. Crowds are always RLE, as in COCO's own files."""
    x1, y1, x2, y2 = obj.xyxy()
    mask = obj.segmentation
    entry: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1) if mask is None else mask.area,
        "iscrowd": int(obj.iscrowd),
    }
    if obj.score is not None:
        entry["score"] = obj.score
    if mask is not None:
        rings = [_flatten(ring) for ring in mask.to_polygons(tolerance)] if polygons and not obj.iscrowd else []
        entry["segmentation"] = rings or mask.rle
    for name in ("predicted_iou", "stability_score"):
        if getattr(obj, name) is not None:
            entry[name] = getattr(obj, name)
    return entry


def image_dict(labels: ImageLabels, image_id: int) -> dict[str, Any]:
    """Return the image's entry, JSON-ready."""
    return {"id": image_id, "file_name": labels.file_name, "width": labels.width, "height": labels.height}


def category_dicts(names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the `categories` of these classes, JSON-ready: class k is category k + 1."""
    return [{"id": key + 1, "name": names[key], "supercategory": ""} for key in sorted(names)]


def dataset(
    results: Results | Iterable[Results],
    *,
    first_image_id: int = 1,
    first_id: int = 1,
    category_ids: int | Sequence[int] | None = None,
    polygons: bool = False,
) -> dict[str, Any]:
    """Return a whole COCO file, JSON-ready, for one or several results: `images`, `annotations`, `categories`.

    Images and annotations are numbered consecutively from the given first ids. Images without objects are included.
    `formats.CocoWriter` writes such a file image by image.
    """
    from ..results import Results

    first_image_id, first_id = to_int("first_image_id", first_image_id), to_int("first_id", first_id)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    for result in [results] if isinstance(results, Results) else results:
        image_id = first_image_id + len(images)
        labels = ImageLabels.from_results(result)
        images.append(image_dict(labels, image_id))
        categories = _category_ids(labels, category_ids)
        objects += [
            annotation(obj, first_id + len(objects) + i, image_id, categories[i], polygons=polygons)
            for i, obj in enumerate(labels.objects)
        ]
        if category_ids is None and labels.names:
            names.update({class_id + 1: name for class_id, name in labels.names.items()})
        else:
            names.update({key: names.get(key, "object") for key in categories})
    if not names:
        names[1] = "object"
    categories_of_all = category_dicts({key - 1: name for key, name in names.items()})
    return {**copy.deepcopy(HEADER), "images": images, "annotations": objects, "categories": categories_of_all}


def opening(key: str) -> str:
    """Return the text of a file up to the first entry of the list `key`."""
    return f'{json_text(HEADER)[:-1]},\n"{key}":['


def _category_ids(labels: ImageLabels, category_ids: int | Sequence[int] | None) -> list[int]:
    if category_ids is None:
        return [obj.class_id + 1 for obj in labels.objects]
    if not isinstance(category_ids, Sequence | np.ndarray | Tensor) or getattr(category_ids, "ndim", 1) == 0:
        return [to_int("category_ids", category_ids)] * len(labels.objects)
    if len(category_ids) != len(labels.objects):
        raise ValueError(
            f"{len(category_ids)} category_ids for {len(labels.objects)} objects; give one per object, or one integer"
        )
    return [to_int("category_ids", category) for category in category_ids]


def _flatten(ring: Any) -> list[float | int]:
    return [round_for_json(value, DECIMALS) for value in ring.ravel().tolist()]
