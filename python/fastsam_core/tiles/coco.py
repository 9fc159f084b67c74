"""COCO files of a raster's objects: one image, and an RLE of the whole raster per object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .._files import atomic_path
from ..formats import coco
from ..formats._writing import json_text

if TYPE_CHECKING:
    from .objects import RasterObjects


def write(objects: RasterObjects, path: Path) -> None:
    """Write a COCO file with one annotation per line. See `RasterObjects.save`."""
    image = {"id": 1, "file_name": objects.name, "width": objects.width, "height": objects.height}
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(coco.opening("images") + json_text(image))
        file.write('],\n"categories":[{"id":1,"name":"object","supercategory":""}],\n')
        file.write('"annotations":[')
        separator = "\n"
        for annotation_id, (obj, raster_rle) in enumerate(zip(objects, objects.rles(), strict=True), 1):
            x1, y1, x2, y2 = obj.box.tolist()
            annotation = {
                "id": annotation_id,
                "image_id": 1,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": obj.area,
                "iscrowd": 0,
                "score": obj.predicted_iou,
                "predicted_iou": obj.predicted_iou,
                "stability_score": obj.stability,
                "segmentation": raster_rle,
            }
            file.write(separator + json_text(annotation))
            separator = ",\n"
        file.write("\n]}\n")
