"""The records through which all label formats are read and written: objects of one image, and a set of images."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sources.paths import last_part
from .segmentation import Segmentation

if TYPE_CHECKING:
    from ..results import Results

# Larger class ids are mistakes, and would flood formats that list all classes up to the largest.
MAX_CLASS_ID = 999_999
# About the side of the largest rasters that exist; a file that claims more would only exhaust the memory.
MAX_IMAGE_SIDE = 1_000_000

Box = tuple[float, float, float, float]


@dataclass
class LabelledObject:
    """One object of an image.

    class_id: 0 or greater. segmentation: its mask, or None if only a box is known. box: x1, y1, x2, y2 in pixels, along
    pixel edges, as a file or a detector gave it; None for the extent of the mask. score: confidence in [0, 1] or any
    other finite number. iscrowd: COCO's flag for a region of many objects. predicted_iou, stability_score, point_coords
    (x, y pairs) and crop_box (x, y, width, height): as SAM gives them.

    Raises ValueError for a class id out of range, numbers that aren't finite, a box whose corners are swapped, or
    neither mask nor box.
    """

    class_id: int
    segmentation: Segmentation | None = None
    box: Box | None = None
    score: float | None = None
    iscrowd: bool = False
    predicted_iou: float | None = None
    stability_score: float | None = None
    point_coords: list[list[float]] | None = None
    crop_box: list[float] | None = None

    def __post_init__(self) -> None:
        self.class_id = validate_class_id(self.class_id)
        if self.segmentation is None and self.box is None:
            raise ValueError("an object needs a segmentation or a box")
        if self.box is not None:
            x1, y1, x2, y2 = self.box = _finite_numbers("box", self.box, 4)
            if x2 < x1 or y2 < y1:
                raise ValueError(f"the box {list(self.box)} has its second corner left of or above the first")
        for name in ("score", "predicted_iou", "stability_score"):
            if getattr(self, name) is not None:
                setattr(self, name, _finite_numbers(name, [getattr(self, name)], 1)[0])
        if self.point_coords is not None:
            self.point_coords = [list(_finite_numbers("point_coords", point, 2)) for point in self.point_coords]
        if self.crop_box is not None:
            self.crop_box = list(_finite_numbers("crop_box", self.crop_box, 4))

    def xyxy(self) -> Box:
        """Return x1, y1, x2, y2: the given box, or by default the extent of the mask."""
        if self.box is not None:
            return self.box
        assert self.segmentation is not None
        return self.segmentation.bounding_box

    @property
    def score_or_predicted_iou(self) -> float | None:
        """The score, or the predicted IoU of an object without score, as in SA-1B's labels."""
        return self.predicted_iou if self.score is None else self.score

    @property
    def is_empty(self) -> bool:
        """Whether the object has a mask without pixels."""
        return self.segmentation is not None and self.segmentation.area == 0


@dataclass
class ImageLabels:
    """The objects of one image.

    file_name: the image's path below the folder of all images, with forward slashes; label files mirror it. width,
    height: in pixels. names: class names by class id; it may lack some, and may be shared by all images of a set.
    image_id: the number that a file gave the image, if any.

    Raises ValueError for an invalid size, masks of another size, or an empty file_name; TypeError for an image_id that
    is no integer.
    """

    file_name: str
    width: int
    height: int
    objects: list[LabelledObject] = field(default_factory=list)
    names: Mapping[int, str] = field(default_factory=dict)
    image_id: int | None = None

    def __post_init__(self) -> None:
        self.width, self.height = validate_side("width", self.width), validate_side("height", self.height)
        if not isinstance(self.file_name, str) or not self.file_name:
            raise ValueError(f"file_name must be the image's relative path, not {self.file_name!r}")
        if self.image_id is not None:
            self.image_id = to_int("image_id", self.image_id)
        for index, obj in enumerate(self.objects):
            mask = obj.segmentation
            if mask is not None and mask.size != (self.height, self.width):
                raise ValueError(
                    f"object {index} has a mask of {mask.size[0]} x {mask.size[1]}, but {self.file_name} is "
                    f"{self.height} x {self.width} (height x width)"
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def name_of(self, class_id: int) -> str:
        """Return the name of a class, or its number if it has none."""
        return self.names.get(class_id, str(class_id))

    @classmethod
    def from_results(
        cls,
        results: Results,
        *,
        file_name: str | None = None,
        class_ids: Sequence[int] | None = None,
        names: Mapping[int, str] | None = None,
        image_id: int | None = None,
    ) -> ImageLabels:
        """Convert a prediction's results.

        file_name: default the last part of `results.path`, a path or an address. class_ids: one per object, numbering
        `names`; by default those of the results, or 0 for all if the results have no class names, as SAM's do.
        """
        rows = results.rows()
        if class_ids is None:
            class_ids = [0] * len(rows) if results.nameless else [int(row[5]) for row in rows]
        if names is None:
            names = {} if results.nameless else results.names
        if len(class_ids) != len(rows):
            raise ValueError(f"{len(class_ids)} class_ids for {len(rows)} objects")
        height, width = results.orig_shape
        rles: list[Any] = results.masks.rle if results.masks is not None else [None] * len(rows)
        objects = [
            LabelledObject(
                class_id,
                None if rles[i] is None else Segmentation.from_rle(rles[i]),
                None if rles[i] is not None else tuple(rows[i, :4].tolist()),
                float(rows[i, 4]),
                predicted_iou=_number(results.predicted_iou, i),
                stability_score=_number(results.stability_score, i),
                point_coords=_point_list(results.point_coords, i),
                crop_box=None if results.crop_boxes is None else [float(side) for side in results.crop_boxes[i]],
            )
            for i, class_id in enumerate(class_ids)
        ]
        return cls(
            last_part(results.path) if file_name is None else file_name,
            width,
            height,
            objects,
            names,
            image_id,
        )


class LabelSet:
    """The labels of many images, read one image at a time; may be iterated any number of times.

    names: class names by class id. In some formats they come with the objects, and are complete only at the end of an
    iteration. `len()` is the number of images.
    """

    def __init__(self, read: Callable[[], Iterator[ImageLabels]], count: int, names: Mapping[int, str]) -> None:
        self._read = read
        self._count = count
        self.names = names

    def __iter__(self) -> Iterator[ImageLabels]:
        return self._read()

    def __len__(self) -> int:
        return self._count


def validate_class_id(value: Any) -> int:
    """Return an integer from 0 to 999,999 as a plain int; ValueError for anything else."""
    number = _to_int(value)
    if not 0 <= number <= MAX_CLASS_ID:
        raise ValueError(f"a class id is an integer from 0 to {MAX_CLASS_ID}, not {repr(value)[:40]}")
    return number


def validate_side(name: str, value: Any) -> int:
    """Return a number of pixels, an integer from 1 to 1,000,000, as a plain int; ValueError for anything else."""
    number = _to_int(value)
    if not 1 <= number <= MAX_IMAGE_SIDE:
        raise ValueError(
            f"{name} must be an integer number of pixels from 1 to {MAX_IMAGE_SIDE}, not {str(value)[:40]!r}"
        )
    return number


def to_int(name: str, value: Any) -> int:
    """Return an integer, also one of NumPy or PyTorch, as a plain int, which JSON can represent; else TypeError."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {repr(value)[:40]}") from None


def _to_int(value: Any) -> int:
    """Return an integer, which may be written as a float, as a plain int; -1 for anything else."""
    if isinstance(value, bool):
        return -1
    try:
        return operator.index(value)
    except TypeError:
        return int(value) if isinstance(value, float) and value.is_integer() else -1


def _finite_numbers(name: str, values: Any, count: int) -> Any:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be {count} finite numbers, not {str(values)[:80]}") from None
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be {count} finite numbers, not {str(values)[:80]}")
    return numbers


def _number(values: Any, row: int) -> float | None:
    return None if values is None else float(values[row])


def _point_list(values: Any, row: int) -> list[list[float]] | None:
    if values is None:
        return None
    points: list[list[float]] = np.asarray(values[row], dtype=np.float64).reshape(-1, 2).tolist()
    return points
