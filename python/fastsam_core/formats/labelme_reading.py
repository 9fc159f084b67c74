"""Reading LabelMe files, such as labels that were corrected by hand."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import rle
from ..sources.decode import decode_image
from . import class_names, image_files
from ._reading import FieldError, JsonNode, read_json
from .labels import MAX_CLASS_ID, MAX_IMAGE_SIDE, ImageLabels, LabelledObject, LabelSet
from .segmentation import Segmentation

OnError = Callable[[ValueError], None]

# Largest distance between a circle and the polygon that it is read as, in pixels.
_CIRCLE_TOLERANCE = 0.05
_NO_AREA = ("point", "points", "line", "linestrip")


def read(
    source: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    names: Mapping[int, str] | Sequence[str] | str | os.PathLike[str] | None = None,
    on_error: OnError | None = None,
) -> LabelSet:
    """Read the LabelMe files in a folder and its sub-folders, or one such file.

    Shapes with the same label and `group_id` are the parts of one object. Polygons, circles and masks become masks; a
    rectangle alone is a box. An image's name is the last part of `imagePath` in the folder of its label file.

    images: the folder of the images, for files without `imageHeight` and `imageWidth`. names: class names by id, a list
    of them, or a file that has them; other labels are errors then. By default they are those of a data.yaml or
    classes.txt in the folder or above it; other labels get the next class ids as they appear, and a label that is a
    number is a class id. on_error: called with the error of each malformed object, which is left out; by default it is
    raised.

    FileNotFoundError if there is no .json file. While iterating, ValueError that names the file and field.
    """
    source = Path(source)
    folder = source.parent if source.is_file() else source
    files = [source.name] if source.is_file() else list(image_files.walk(source, {".json"}))
    if not files:
        raise FileNotFoundError(f"no .json file in the folder {source} or below it")
    given = None if names is None else class_names.parse_names(names)
    classes = _Classes(class_names.find(folder) if given is None else given, extend=given is None)

    def iterate() -> Iterator[ImageLabels]:
        for file in files:
            yield _read_file(folder, PurePosixPath(file), None if images is None else Path(images), classes, on_error)

    return LabelSet(iterate, len(files), classes.names)


class _Classes:
    """Class ids by label. extend: whether to give ids to labels without one."""

    def __init__(self, names: dict[int, str], extend: bool) -> None:
        self.names, self._extend = names, extend
        self._ids = {name: class_id for class_id, name in sorted(names.items(), reverse=True)}

    def id_of(self, label: str) -> int:
        """Return the class id of a label. ValueError if it has none, or if there are too many classes."""
        if label in self._ids:
            return self._ids[label]
        if not self._extend:
            raise ValueError(f"{label[:60]!r} is none of the given class names")
        is_free_id = re.fullmatch(r"[0-9]{1,6}", label) and int(label) not in self.names
        # Recorded also for a number, so that no later label gets the same id.
        class_id = int(label) if is_free_id else max(self.names, default=-1) + 1
        if class_id > MAX_CLASS_ID:
            raise ValueError(f"more than {MAX_CLASS_ID + 1} classes")
        self.names[class_id], self._ids[label] = label, class_id
        return class_id


def _read_file(
    folder: Path, file: PurePosixPath, images: Path | None, classes: _Classes, on_error: OnError | None
) -> ImageLabels:
    root = read_json(folder / file)
    image_path = root["imagePath"].text().replace("\\", "/")
    name = file.parent / PurePosixPath(image_path).name
    size = _size(root, [images / name] if images else [folder / file.parent / image_path])
    objects = []
    for shapes in _groups(root["shapes"]):
        try:
            objects.append(_object(shapes, size, classes))
        except ValueError as error:
            if on_error is None:
                raise
            on_error(error)
    return ImageLabels(str(name), size[1], size[0], objects, classes.names)


def _size(root: JsonNode, paths: Sequence[Path]) -> tuple[int, int]:
    """Return (height, width) of the image, read from the first of `paths` that exists if the file has neither."""
    if root.get("imageHeight") is not None or root.get("imageWidth") is not None:
        return root["imageHeight"].side(), root["imageWidth"].side()
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise root.error(f"'imageHeight' and 'imageWidth' are missing, and there is no {paths[0]}")
    return image_files.size_of(path)


def _groups(shapes: JsonNode) -> Iterator[list[JsonNode]]:
    """Yield the shapes of each object, in the order of their first ones."""
    groups: dict[Any, list[JsonNode]] = {}
    for index, shape in enumerate(shapes.items()):
        # Malformed shapes are reported when the object is read.
        fields = shape.value if isinstance(shape.value, dict) else {}
        group_id = fields.get("group_id")
        is_grouped = isinstance(group_id, (int, str))
        groups.setdefault((str(fields.get("label")), group_id) if is_grouped else index, []).append(shape)
    yield from groups.values()


def _object(shapes: list[JsonNode], size: tuple[int, int], classes: _Classes) -> LabelledObject:
    first = shapes[0]
    shape_types = [_shape_type(shape) for shape in shapes]
    score = next((score for shape in shapes if (score := shape.optional_number("score")) is not None), None)
    try:
        class_id = first["label"].convert(lambda _: classes.id_of(first["label"].text()))
        if shape_types == ["rectangle"]:
            (x1, y1), (x2, y2) = _corners(first)
            return LabelledObject(class_id, box=(x1, y1, x2, y2), score=score)
        polygons = [_polygon(shape, kind) for shape, kind in zip(shapes, shape_types, strict=True) if kind != "mask"]
        masks = [_mask(shape, size) for shape, kind in zip(shapes, shape_types, strict=True) if kind == "mask"]
        if not masks:
            return LabelledObject(class_id, Segmentation.from_polygons(polygons, size), score=score)
        if polygons:
            masks.append(Segmentation.from_polygons(polygons, size).rle)
        return LabelledObject(class_id, Segmentation.from_rle(rle.merge(masks)), score=score)
    except FieldError:
        raise
    except ValueError as error:
        raise first.error(error) from None


def _shape_type(shape: JsonNode) -> str:
    node = shape.get("shape_type")
    kind = "polygon" if node is None else node.text()
    if kind in _NO_AREA:
        raise shape.error(f"a {kind} has no area")
    if kind not in ("polygon", "rectangle", "oriented_rectangle", "circle", "mask"):
        raise shape.error(f"unknown shape_type {kind[:60]!r}")
    return kind


def _polygon(shape: JsonNode, kind: str) -> NDArray[np.float64]:
    if kind == "rectangle":
        (x1, y1), (x2, y2) = _corners(shape)
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    points = _points(shape)
    if kind != "circle":
        return points
    if len(points) != 2:
        raise shape["points"].error(f"{len(points)} points; a circle has 2: its centre and a point on it")
    radius = math.dist(*points)
    if not 0 < radius <= 1e6:
        raise shape["points"].error(f"the circle's radius is {radius:g}")
    step = math.acos(1 - min(_CIRCLE_TOLERANCE / radius, 1))
    angles = np.linspace(0, 2 * math.pi, max(8, math.ceil(math.pi / step)), endpoint=False)
    return points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _mask(shape: JsonNode, size: tuple[int, int]) -> Any:
    """Return the run lengths of a mask, which the file holds as a PNG of the rectangle between its two points."""
    corner = _corners(shape)[0]
    if np.abs(corner).max() > MAX_IMAGE_SIDE:
        raise shape["points"].error(f"the mask is farther from the image than {MAX_IMAGE_SIDE} pixels")
    x, y = np.floor(corner).astype(int).tolist()
    pixels = shape["mask"].convert(lambda text: decode_image(base64.b64decode(text)))[..., 0] > 0
    return rle.paste(rle.from_masks(pixels[None])[0], (x, y), size)


def _corners(shape: JsonNode) -> NDArray[np.float64]:
    """Return the upper left and the lower right corner, from two opposite corners or all four."""
    points = _points(shape)
    if len(points) not in (2, 4):
        raise shape["points"].error(f"{len(points)} points; a rectangle has 2, opposite corners, or 4")
    return np.stack([points.min(0), points.max(0)])


def _points(shape: JsonNode) -> NDArray[np.float64]:
    return np.array([point.numbers(2) for point in shape["points"].items()]).reshape(-1, 2)
