"""COCO files: writing them one image at a time, and reading them."""

from __future__ import annotations

import bisect
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import IO, Any, TypeVar

from .. import option_parsers as parse
from .._files import atomic_path
from . import class_names, coco, image_files
from ._reading import FieldError, JsonNode, read_json
from ._writing import LabelWriter, json_text
from .labels import ImageLabels, LabelledObject, LabelSet
from .segmentation import Segmentation

Id = TypeVar("Id", int, int | str)

# What some converters of boxes write as `segmentation` if there is no mask.
_NO_MASK: tuple[Any, ...] = ([], [[]])


class CocoWriter(LabelWriter):
    """A writer of one JSON file with `annotations`, `images` and `categories`, filled as the images come.

    Memory does not grow with the masks: annotations are written at once, and only the ids that images bring are
    remembered. The file appears under its name, complete, when it is closed. Class k is category k + 1. All classes up
    to the largest are listed, so that reading gives the same class ids; a class without a name is called by its number.
    Images keep their `image_id`; those without one are numbered from the largest id so far + 1.

    polygons: write outlines along pixel edges instead of RLE, which COCO's rasteriser fills to exactly the mask: a list
    per part, holes bridged, coordinates with two decimals. tolerance: see `YoloWriter`. first_id: id of the first
    annotation. Objects without a mask are written without a `segmentation`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, polygons: bool = False, tolerance: float = 0.0, first_id: int = 1
    ) -> None:
        super().__init__()
        self.path = Path(path)
        if self.path.suffix.lower() != ".json" or self.path.is_dir():
            raise ValueError(f"a COCO file is one .json file, not {os.fspath(path)!r}")
        self.polygons = parse.boolean("polygons", polygons)
        self.tolerance = parse.number(0)("tolerance", tolerance)
        self._next_id = parse.integer(0)("first_id", first_id)
        self._largest_image_id = 0
        self._explicit_ids: set[int] = set()
        self._assigned_ranges: list[list[int]] = []  # (first, last) id of runs of images that brought no id, ascending
        self._largest_class = -1
        with ExitStack() as stack:
            # Entered first, since its errors name the requested file.
            temporary = stack.enter_context(atomic_path(self.path))
            # Image entries are collected in an unnamed file: they follow the annotations in the output.
            self._images: IO[str] = stack.enter_context(
                tempfile.TemporaryFile("w+", dir=self.path.parent, encoding="utf-8")
            )
            self._file: IO[str] = stack.enter_context(open(temporary, "w", encoding="utf-8", newline="\n"))
            self._file.write(coco.opening("annotations"))
            self._stack = stack.pop_all()
        self._separators: dict[IO[str], str] = {self._file: "\n", self._images: "\n"}

    def _write(self, labels: ImageLabels) -> int:
        image_id = self._largest_image_id + 1 if labels.image_id is None else labels.image_id
        if image_id in self._explicit_ids or self._is_assigned(image_id):
            raise ValueError(f"two images have the id {image_id}; the second one is {labels.file_name}")
        annotations: list[dict[str, Any]] = []
        for obj in labels.objects:
            annotations.append(
                coco.annotation(
                    obj,
                    self._next_id + len(annotations),
                    image_id,
                    obj.class_id + 1,
                    polygons=self.polygons,
                    tolerance=self.tolerance,
                )
            )
            self._largest_class = max(self._largest_class, obj.class_id)
        for annotation in annotations:
            self._append(self._file, annotation)
        self._append(self._images, coco.image_dict(labels, image_id))
        self._next_id += len(annotations)
        if labels.image_id is not None:
            self._explicit_ids.add(image_id)
        elif self._assigned_ranges and self._assigned_ranges[-1][1] == image_id - 1:
            self._assigned_ranges[-1][1] = image_id
        else:
            self._assigned_ranges.append([image_id, image_id])
        self._largest_image_id = max(self._largest_image_id, image_id)
        return len(annotations)

    def _is_assigned(self, image_id: int) -> bool:
        index = bisect.bisect(self._assigned_ranges, image_id, key=lambda span: span[0]) - 1
        return index >= 0 and image_id <= self._assigned_ranges[index][1]

    def _append(self, file: IO[str], entry: dict[str, Any]) -> None:
        file.write(self._separators[file] + json_text(entry))
        self._separators[file] = ",\n"

    def close(self) -> None:
        if self._file.closed:
            return
        last_class = max([0, self._largest_class, *self.names])
        with self._stack:
            write_footer(
                self._file, self._images, self.names if self.names or last_class else {0: "object"}, last_class
            )

    def discard(self) -> None:
        # `atomic_path` removes the temporary file only if it sees an exception.
        reason = RuntimeError("discarded")
        self._stack.__exit__(type(reason), reason, None)


def write_footer(file: IO[str], images: IO[str], names: Mapping[int, str], last_class: int) -> None:
    """Write what follows the annotations: the image entries in `images`, and the classes 0 to `last_class`."""
    file.write('\n],\n"images":[')
    images.seek(0)
    shutil.copyfileobj(images, file)
    categories = coco.category_dicts(class_names.without_gaps(names, last_class))
    lines = ",\n".join(map(json_text, categories))
    file.write(f'\n],\n"categories":[\n{lines}\n]}}\n')


def read(
    source: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    on_error: Callable[[ValueError], None] | None = None,
) -> LabelSet:
    """Read the annotations in a COCO file; images come in the file's order.

    images: the folder of the images, from which sizes are read that the file lacks. Names that are absolute, or begin
        with that folder, become relative to it.
    on_error: called with the error of each invalid object, which is left out; by default it is raised.

    Class ids number the categories by ascending category id, as common converters do: COCO's own 80, whose ids have
    gaps, become 0 to 79. `segmentation` may be RLE, compressed or not, or polygons, whose coordinates are kept (but for
    points and lines among them, which enclose nothing); without one an object is its box. An image's id may be text,
    which is not kept. Raises ValueError that names the field.
    """
    file = CocoFile(source, images)
    report = None if on_error is None else lambda position, error: on_error(error)
    return LabelSet(
        lambda: (file.labels(image_id, report) for image_id in file.image_ids), len(file.image_ids), file.names
    )


class CocoFile:
    """A COCO file in memory; the labels of an image are parsed when they are asked for. See `read`.

    names: class names by class id. image_ids: in the file's order. ValueError if the lists of the file don't refer to
    each other correctly; errors within one image or object are raised when that is asked for.
    """

    def __init__(self, source: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> None:
        if os.path.isdir(source):
            raise IsADirectoryError(f"{os.fspath(source)} is a folder; COCO labels are one .json file")
        root = read_json(source)
        self._folder = folder
        self._class_of_category: dict[int, int] = {}
        self.names: dict[int, str] = {}
        categories = sorted(_index_by_id(root["categories"], "category", JsonNode.integer).items())
        for class_id, (category_id, category) in enumerate(categories):
            self._class_of_category[category_id] = class_id
            self.names[class_id] = category["name"].text()
        self._images = _index_by_id(root["images"], "image", JsonNode.identifier)
        self.image_ids = list(self._images)
        self._annotations: dict[int | str, list[JsonNode]] = {image_id: [] for image_id in self.image_ids}
        for annotation in root["annotations"].items():
            image_id = annotation["image_id"].identifier()
            if image_id not in self._annotations:
                raise annotation["image_id"].error(f"no image has the id {image_id!r}")
            self._annotations[image_id].append(annotation)

    def name(self, image_id: int | str) -> str:
        """Return an image's file name. ValueError if it has none.

        In files of LVIS it is that of the `coco_url`, with the folder: `train2017/000000000009.jpg`.
        """
        image = self._images[image_id]
        url = image.get("coco_url")
        if image.get("file_name") is None and url is not None:
            return "/".join(url.text().split("/")[-2:])
        return image["file_name"].text()

    def path(self, image_id: int | str, folder: str | os.PathLike[str]) -> Path:
        """Return the path of an image in `folder`, to which its name is relative.

        If there is no such file, a name may begin with the folder: `images/a.jpg` is also `a.jpg` in a folder called
        images. So may an absolute path of another machine; otherwise it means the file of its last part, unless several
        images have that part.
        """
        name = self.name(image_id).replace("\\", "/")  # which tools on Windows write
        direct = Path(folder, name)
        if direct.is_file():
            return direct
        parts, folder_parts, is_absolute = name.split("/"), Path(os.path.abspath(folder)).parts, _is_absolute(name)
        for count in range(1, len(parts)):
            common = 1 if is_absolute else count
            if parts[count - common : count] == list(folder_parts[-common:]) and Path(folder, *parts[count:]).is_file():
                return Path(folder, *parts[count:])
        moved = Path(folder, parts[-1])
        return moved if is_absolute and self._last_parts[parts[-1]] == 1 and moved.is_file() else direct

    @cached_property
    def _last_parts(self) -> Counter[str]:
        """The number of images by the last part of their names."""
        return Counter(PureWindowsPath(self.name(image_id)).name for image_id in self.image_ids)

    def has_masks(self, image_id: int | str) -> bool:
        """Return whether an image has an object, other than a crowd, with a `segmentation`, be it valid or not."""
        return any(
            getattr(annotation.get("segmentation"), "value", []) not in _NO_MASK
            and getattr(annotation.get("iscrowd"), "value", 0) != 1
            for annotation in self._annotations[image_id]
        )

    def labels(self, image_id: int | str, on_error: Callable[[str, ValueError], None] | None = None) -> ImageLabels:
        """Return the objects of one image.

        on_error: called for each invalid object with its position in the file and the error, which by default is
        raised.
        """
        size = self._size(image_id)
        objects = []
        for annotation in self._annotations[image_id]:
            try:
                objects.append(_object(annotation, size, self._class_of_category))
            except ValueError as error:
                if on_error is None:
                    raise
                on_error(f"annotations[{annotation.key}]", error)
        number = image_id if isinstance(image_id, int) else None
        return ImageLabels(self._relative_name(image_id), size[1], size[0], objects, self.names, number)

    def _relative_name(self, image_id: int | str) -> str:
        """Return an image's name, or if its file is found elsewhere in the folder of the images, the path there."""
        name = self.name(image_id)
        if self._folder is None:
            return name
        path = self.path(image_id, self._folder)
        if not _is_absolute(name) and path == Path(self._folder, name.replace("\\", "/")):
            return name
        relative = os.path.relpath(path, self._folder)
        return name if relative.startswith("..") else Path(relative).as_posix()

    def _size(self, image_id: int | str) -> tuple[int, int]:
        """Return (height, width) of an image, read from its file if neither is given."""
        image = self._images[image_id]
        if image.get("height") is not None or image.get("width") is not None:
            return image["height"].side(), image["width"].side()
        if self._folder is None:
            raise image.error("'height' and 'width' are missing; give images=<the folder of the images>")
        return image_files.size_of(self.path(image_id, self._folder))


def _is_absolute(name: str) -> bool:
    return name.startswith("/") or PureWindowsPath(name).is_absolute()


def _index_by_id(entries: JsonNode, kind: str, read_id: Callable[[JsonNode], Id]) -> dict[Id, JsonNode]:
    entries_by_id: dict[Id, JsonNode] = {}
    for entry in entries.items():
        entry_id = read_id(entry["id"])
        if entry_id in entries_by_id:
            raise entry["id"].error(f"another {kind} has the id {entry_id!r} too")
        entries_by_id[entry_id] = entry
    return entries_by_id


def _object(annotation: JsonNode, size: tuple[int, int], class_of_category: dict[int, int]) -> LabelledObject:
    category = annotation["category_id"]
    if category.integer() not in class_of_category:
        raise category.error(f"no category has the id {category.integer()}")
    box: Any = None
    bbox = annotation.get("bbox")
    if bbox is not None and bbox.value != []:
        x, y, width, height = bbox.numbers(4).tolist()
        box = x, y, x + width, y + height
    crowd = annotation.get("iscrowd")
    try:
        return LabelledObject(
            class_of_category[category.integer()],
            _segmentation(annotation.get("segmentation"), size),
            box,
            annotation.optional_number("score"),
            crowd is not None and crowd.boolean(),
            predicted_iou=annotation.optional_number("predicted_iou"),
            stability_score=annotation.optional_number("stability_score"),
        )
    except FieldError:
        raise
    except ValueError as error:
        raise annotation.error(error) from None


def _segmentation(node: JsonNode | None, size: tuple[int, int]) -> Segmentation | None:
    if node is None or node.value in _NO_MASK:
        return None
    if isinstance(node.value, dict):
        return node.mask(size)
    # Some tools write a single polygon without the list around it.
    is_flat = isinstance(node.value, list) and isinstance(node.value[0], (int, float))
    polygons = []
    degenerate: FieldError | None = None
    for polygon in [node] if is_flat else node.items():
        numbers = polygon.numbers()
        if len(numbers) % 2 or len(numbers) < 6:
            error = polygon.error(f"{len(numbers)} numbers; a polygon has an even number of them, at least 6")
            if len(numbers) % 2:
                raise error
            degenerate = error  # a point or a line, as contours of single pixels are
        else:
            polygons.append(numbers.reshape(-1, 2))
    if degenerate is not None and not polygons:
        raise degenerate
    return node.convert(lambda _: Segmentation.from_polygons(polygons, size))
