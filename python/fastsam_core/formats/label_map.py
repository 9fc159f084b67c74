"""Label maps: one PNG per image, in which each pixel is the number of an object or of a class."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np

from .. import rle
from ._writing import FolderWriter
from .labels import ImageLabels, LabelledObject

VALUES = ("object", "class")
ORDERS = ("area", "score", "index")
_MOST = 65_535


class LabelMapWriter(FolderWriter):
    """A writer of a greyscale `<image>.png` per image: 0 is background, n the n-th object of the image, from 1 on.

    The numbers are positions in the image's list of objects, independent of the drawing order, so that number n is also
    the n-th entry of its COCO, SA-1B or YOLO labels (if none was left out there). values="class" writes class ids plus
    1 instead. A file has 8 bits per pixel if its largest number is at most 255, else 16; numbers beyond 65,535 raise
    ValueError.

    order: which of overlapping objects is on top: "area", the smaller one; "score", the one with the higher score, or
    predicted IoU if it has no score; "index", the later one. Ties go to the smaller, then to the later one. An object
    completely covered by others has no pixel. Objects without a mask, and crowds, are not drawn, but keep their
    numbers.
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
        if _is_in_colour(target):
            raise ValueError(f"{target} is a colour image, perhaps the source image; write to another folder")
        return super()._write(labels)

    def render(self, labels: ImageLabels, target: Path) -> tuple[bytes, int]:
        from PIL import Image

        drawn, written = label_map(labels, values=self.values, order=self.order)
        content = BytesIO()
        Image.fromarray(drawn).save(content, format="PNG")
        return content.getvalue(), written


def _is_in_colour(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.mode not in ("1", "L", "P", "I", "I;16", "I;16B")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # no such file, or not an image
        return False


def label_map(labels: ImageLabels, *, values: str = "object", order: str = "area") -> tuple[np.ndarray, int]:
    """Return the map (H, W), uint8 or uint16, and the number of objects drawn. See `LabelMapWriter`."""
    shown = [
        place for place, found in enumerate(labels.objects) if found.segmentation is not None and not found.iscrowd
    ]
    numbers = {place: (labels.objects[place].class_id if values == "class" else place) + 1 for place in shown}
    largest = max(numbers.values(), default=0)
    if largest > _MOST:
        raise ValueError(f"{labels.file_name}: a label map's numbers go up to {_MOST}, but {largest} is needed")
    drawn = np.zeros(labels.size, np.uint8 if largest <= 255 else np.uint16)
    for place in sorted(shown, key=lambda place: _height(labels.objects[place], place, order)):
        mask = labels.objects[place].segmentation
        assert mask is not None
        x1, y1, x2, y2 = (int(side) for side in mask.extent)
        inside = rle.decode(rle.crop(mask.rle, [x1, y1, x2 - x1, y2 - y1])).view(bool)
        drawn[y1:y2, x1:x2][inside] = numbers[place]
    return drawn, len(shown)


def _height(found: LabelledObject, place: int, order: str) -> tuple[float, float, int]:
    """Return the sort key of an object; that with the largest key is on top."""
    assert found.segmentation is not None
    score = found.score if found.score is not None else found.predicted_iou
    first = 0.0 if order == "area" else (place if order == "index" else (-np.inf if score is None else score))
    return float(first), -found.segmentation.area, place
