"""Label maps: one PNG per image, in which each pixel is the number of an object or of a class."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np

from .. import rle
from ..sources.decode import open_image
from ._writing import FolderWriter
from .labels import ImageLabels, LabelledObject

VALUES = ("object", "class")
ORDERS = ("area", "score", "index")
_MAX_VALUE = 65_535
# Text in each file, by which label maps, which may be replaced, differ from grey images of the same name.
_MARK = "Software", "fastsam_core"


class LabelMapWriter(FolderWriter):
    """A writer of a greyscale `<image>.png` per image: 0 is background, n the n-th object of the image, from 1 on.

    The numbers are positions in the image's list of objects, independent of the drawing order, so that number n is also
    the n-th entry of its COCO, SA-1B or YOLO labels (if none was left out there). values="class" writes class ids plus
    1 instead. A file has 8 bits per pixel if its largest number is at most 255, else 16; numbers beyond 65,535 raise
    ValueError.

    order: which of overlapping objects is on top: "area", the smaller one; "score", the one with the higher score, or
    predicted IoU if it has no score; "index", the later one. Ties go to the smaller, then to the later one. An object
    completely covered by others has no pixel. Objects without a mask, and crowds, are not drawn, but keep their
    numbers. An image that isn't such a file is not replaced: ValueError.
    """

    suffix = ".png"

    def __init__(self, folder: str | os.PathLike[str], *, values: str = "object", order: str = "area") -> None:
        if values not in VALUES:
            raise ValueError(f"values must be one of {', '.join(VALUES)}, not {values!r}")
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        super().__init__(folder)
        self.values = values
        self.order = order

    def _write(self, labels: ImageLabels) -> int:
        target = self.path_for(labels.file_name)
        if _is_other_image(target):
            raise ValueError(
                f"{target} is an image that no LabelMapWriter wrote, perhaps the source image; write to another folder"
            )
        return super()._write(labels)

    def render(self, labels: ImageLabels, target: Path) -> tuple[bytes, int]:
        from PIL import Image, PngImagePlugin

        pixels, num_drawn = label_map(labels, values=self.values, order=self.order)
        content, mark = BytesIO(), PngImagePlugin.PngInfo()
        mark.add_text(*_MARK)
        Image.fromarray(pixels).save(content, format="PNG", pnginfo=mark)
        return content.getvalue(), num_drawn


def _is_other_image(path: Path) -> bool:
    """Return whether the file is an image without the mark of label maps."""
    name, text = _MARK
    try:
        # Unlike Pillow's own `open`, this has no limit on the number of pixels.
        with open(path, "rb") as file:
            return bool(open_image(file)[1].info.get(name) != text)
    except (OSError, ValueError):  # no such file, or not an image
        return False


def label_map(labels: ImageLabels, *, values: str = "object", order: str = "area") -> tuple[np.ndarray, int]:
    """Return the map (H, W), uint8 or uint16, and the number of objects drawn. See `LabelMapWriter`."""
    drawn = [index for index, obj in enumerate(labels.objects) if obj.segmentation is not None and not obj.iscrowd]
    numbers = {index: (labels.objects[index].class_id if values == "class" else index) + 1 for index in drawn}
    largest = max(numbers.values(), default=0)
    if largest > _MAX_VALUE:
        raise ValueError(f"{labels.file_name}: a label map's numbers go up to {_MAX_VALUE}, but {largest} is needed")
    pixels = np.zeros(labels.size, np.uint8 if largest <= 255 else np.uint16)
    for index in sorted(drawn, key=lambda index: _stacking_key(labels.objects[index], index, order)):
        mask = labels.objects[index].segmentation
        assert mask is not None
        x1, y1, x2, y2 = (int(side) for side in mask.bounding_box)
        inside = rle.decode(rle.crop(mask.rle, [x1, y1, x2 - x1, y2 - y1])).view(bool)
        pixels[y1:y2, x1:x2][inside] = numbers[index]
    return pixels, len(drawn)


def _stacking_key(obj: LabelledObject, index: int, order: str) -> tuple[float, float, int]:
    """Return the sort key of an object; that with the largest key is on top."""
    assert obj.segmentation is not None
    score = obj.score_or_predicted_iou
    primary = 0.0 if order == "area" else (index if order == "index" else (-np.inf if score is None else score))
    return float(primary), -obj.segmentation.area, index
