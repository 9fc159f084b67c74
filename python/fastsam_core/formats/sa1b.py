"""Files of the SA-1B dataset: one JSON object per image. Datumaro reads them as `segment_anything`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import image_files
from ._reading import FieldError, JsonNode, read_json
from ._writing import FolderWriter, json_text
from .labels import ImageLabels, LabelledObject, LabelSet, to_int, validate_class_id

if TYPE_CHECKING:
    from ..results import Results


def image_record(results: Results, *, image_id: int | str = 1, first_id: int = 1) -> dict[str, Any]:
    """Return a JSON-ready `{"image": {image_id, width, height, file_name}, "annotations": [...]}`.

    Each annotation is SAM's dict with RLE segmentation plus an `id`, counted from `first_id`; objects without a mask
    have none. As in Meta's files, `bbox` is as wide and high as the distance from the first to the last pixel.
    """
    if not isinstance(image_id, str):  # not in Meta's files, but readers may accept strings
        image_id = to_int("image_id", image_id)
    return record(ImageLabels.from_results(results), image_id=image_id, first_id=to_int("first_id", first_id))


def record(labels: ImageLabels, *, image_id: int | str = 1, first_id: int = 1) -> dict[str, Any]:
    """Return the same for any labels, with `class_id` if it isn't 0 or has a name, and `class_name` if it has one."""
    masked = [obj for obj in labels.objects if obj.segmentation is not None]
    return {
        "image": {
            "image_id": image_id,
            "width": labels.width,
            "height": labels.height,
            "file_name": PurePosixPath(labels.file_name.replace("\\", "/")).name,
        },
        "annotations": [_annotation(obj, labels, first_id + i) for i, obj in enumerate(masked)],
    }


def _annotation(obj: LabelledObject, labels: ImageLabels, annotation_id: int) -> dict[str, Any]:
    mask = obj.segmentation
    assert mask is not None
    x1, y1, x2, y2 = mask.bounding_box
    entry = {
        "segmentation": mask.rle,
        "area": mask.area,
        "bbox": [x1, y1, max(x2 - x1 - 1, 0.0), max(y2 - y1 - 1, 0.0)],
        "predicted_iou": obj.score if obj.predicted_iou is None else obj.predicted_iou,
        "point_coords": obj.point_coords or [],
        "stability_score": obj.stability_score,
        "crop_box": obj.crop_box or [0.0, 0.0, float(labels.width), float(labels.height)],
        "id": annotation_id,
    }
    if obj.class_id or obj.class_id in labels.names:
        entry["class_id"] = obj.class_id
    if obj.class_id in labels.names:
        entry["class_name"] = labels.names[obj.class_id]
    return entry


class Sa1bWriter(FolderWriter):
    """A writer of `<image>.json` per image.

    Objects without a mask are left out, and a score replaces a missing predicted IoU. Images are numbered from 1 in the
    order in which they come, unless they have an `image_id`; annotations are numbered within each image.
    """

    suffix = ".json"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self._last_image_id = 0

    def render(self, labels: ImageLabels, target: Path) -> tuple[bytes, int]:
        self._last_image_id = self._last_image_id + 1 if labels.image_id is None else labels.image_id
        content = record(labels, image_id=self._last_image_id)
        return (json_text(content) + "\n").encode(), len(content["annotations"])


def read(source: str | os.PathLike[str], *, on_error: Callable[[ValueError], None] | None = None) -> LabelSet:
    """Read the annotations in a folder of SA-1B files and its sub-folders, or in one such file.

    Boxes and areas are computed from the masks; those in the file are ignored. Classes are 0 unless there is a
    `class_id`. FileNotFoundError if there is no such file. While iterating, ValueError that names the file and field.
    on_error: called with the error of each invalid object, which is left out; by default it is raised.
    """
    source = Path(source)
    base = source.parent if source.is_file() else source
    files = [source.name] if source.is_file() else list(image_files.walk(source, {".json"}))
    if not files:
        raise FileNotFoundError(f"no .json file in the folder {source} or below it")
    names: dict[int, str] = {}

    def iterate() -> Iterator[ImageLabels]:
        for file in files:
            yield _read_file(base / file, PurePosixPath(file).parent, names, on_error)

    return LabelSet(iterate, len(files), names)


def _read_file(
    path: Path, folder: PurePosixPath, names: dict[int, str], on_error: Callable[[ValueError], None] | None
) -> ImageLabels:
    root = read_json(path)
    image = root["image"]
    size = image["height"].side(), image["width"].side()
    id_node = image.get("image_id")
    image_id = None if id_node is None else id_node.identifier()
    objects = []
    for annotation in root["annotations"].items():
        try:
            objects.append(_object(annotation, size))
        except FieldError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        name = annotation.get("class_name")
        if name is not None and names.setdefault(objects[-1].class_id, name.text()) != name.text():
            raise name.error(
                f"class {objects[-1].class_id} is {name.text()!r} here, but elsewhere {names[objects[-1].class_id]!r}"
            )
    return ImageLabels(
        str(folder / image["file_name"].text()),
        size[1],
        size[0],
        objects,
        names,
        image_id if isinstance(image_id, int) else None,
    )


def _object(annotation: JsonNode, size: tuple[int, int]) -> LabelledObject:
    class_id, points, crop_box = annotation.get("class_id"), annotation.get("point_coords"), annotation.get("crop_box")
    try:
        return LabelledObject(
            0 if class_id is None else class_id.convert(validate_class_id),
            annotation["segmentation"].mask(size),
            predicted_iou=annotation.optional_number("predicted_iou"),
            stability_score=annotation.optional_number("stability_score"),
            # Datumaro writes [[]] for an object without points.
            point_coords=None if points is None else [p.numbers(2).tolist() for p in points.items() if p.value != []],
            crop_box=None if crop_box is None else crop_box.numbers(4).tolist(),
        )
    except FieldError:
        raise
    except ValueError as error:
        raise annotation.error(error) from None
