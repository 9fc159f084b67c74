"""Label formats, read and written through one record per image, `ImageLabels`; and conversions of `Results`.

| format   | on disk               | masks                                       | written by       | read by       |
| -------- | --------------------- | ------------------------------------------- | ---------------- | ------------- |
| yolo     | a text file per image | one polygon per object, or boxes            | `YoloWriter`     | `read_labels` |
| coco     | one JSON file         | RLE, or a polygon per part                  | `CocoWriter`     | `read_labels` |
| sa1b     | a JSON file per image | RLE                                         | `Sa1bWriter`     | `read_labels` |
| labelme  | a JSON file per image | a polygon per part                          | `LabelMeWriter`  | `read_labels` |
| labelmap | a PNG per image       | the numbers of objects, or of their classes | `LabelMapWriter` |               |

RLE is exact. Polygons run along pixel edges and fill to exactly the mask, by COCO's rasteriser or any that tests pixel
centres. A label map keeps only the topmost object of each pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .coco_file import CocoWriter
    from .convert import Conversion, convert_labels, open_writer, read_labels
    from .label_map import LabelMapWriter
    from .labelme import LabelMeWriter
    from .labels import ImageLabels, LabelledObject, LabelSet
    from .sa1b import Sa1bWriter
    from .segmentation import Segmentation
    from .yolo_folder import YoloWriter

__all__ = [
    "CocoWriter",
    "Conversion",
    "ImageLabels",
    "LabelMapWriter",
    "LabelMeWriter",
    "LabelSet",
    "LabelledObject",
    "Sa1bWriter",
    "Segmentation",
    "YoloWriter",
    "convert_labels",
    "open_writer",
    "read_labels",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CocoWriter": "coco_file",
        "Conversion": "convert",
        "ImageLabels": "labels",
        "LabelMapWriter": "label_map",
        "LabelMeWriter": "labelme",
        "LabelSet": "labels",
        "LabelledObject": "labels",
        "Sa1bWriter": "sa1b",
        "Segmentation": "segmentation",
        "YoloWriter": "yolo_folder",
        "convert_labels": "convert",
        "open_writer": "convert",
        "read_labels": "convert",
    },
)
