"""YOLO label folders: a text file per image, `class x1 y1 x2 y2 ...` or `class xc yc w h`, all in [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import option_parsers as parse
from .._log import logger
from ..sources.paths import IMAGE_SUFFIXES
from . import class_names, image_files, yolo
from ._reading import read_text
from ._writing import FolderWriter
from .labels import ImageLabels, LabelledObject, LabelSet, validate_class_id
from .segmentation import Segmentation

# Rounding in other writers takes coordinates up to this far outside [0, 1]; those farther outside are errors.
_TOLERANCE = 0.01
_MAX_PATH_LENGTH = 4096
# SAM's predicted IoU, which prediction files of `Results.save_txt` hold, may be a little above 1.
_MAX_SCORE = 1.1


class YoloWriter(FolderWriter):
    """A writer of `<image>.txt` per image, empty without objects, and finally a data.yaml if there are class names.

    A mask is one polygon along pixel edges, divided by width and height, so 0 and 1 are the image's borders as they
    are for boxes. Its parts and holes are joined by bridges, pairs of edges that run there and back; any reader that
    tests pixel centres fills it correctly. Six significant digits reproduce the mask exactly for images of up to
    200,000 pixels a side. An object without a mask becomes a box line, which Ultralytics refuses in a file that has
    polygons too. Crowds, masks without pixels, and boxes outside the image are left out. The data.yaml names all
    classes up to the largest, as Ultralytics needs it; a class without a name is called by its number.

    tolerance: outlines may lose vertices that lie at most this many pixels from the rest. scores: append the score, or
    without one the predicted IoU, to each line, clipped to [0, 1], as in prediction files; training code rejects such
    files.
    """

    suffix = ".txt"

    def __init__(self, folder: str | os.PathLike[str], *, tolerance: float = 0.0, scores: bool = False) -> None:
        self.tolerance = parse.number(0)("tolerance", tolerance)
        self.scores = parse.boolean("scores", scores)
        super().__init__(folder)
        self._largest_class = -1

    def render(self, labels: ImageLabels, target: Path) -> tuple[bytes, int]:
        lines: list[str] = []
        image_size = np.array([labels.width, labels.height], np.float64)
        for obj in labels.objects:
            score = obj.score_or_predicted_iou if self.scores else None
            conf = None if score is None else [min(max(score, 0), 1)]
            if obj.iscrowd or obj.is_empty:
                continue
            self._largest_class = max(self._largest_class, obj.class_id)
            if obj.segmentation is not None:
                polygon = obj.segmentation.to_single_polygon(self.tolerance).clip(0, image_size) / image_size
                lines += yolo.lines([polygon], [obj.class_id], conf=conf)
            else:
                left, top, right, bottom = obj.xyxy()
                x1, y1, x2, y2 = np.clip(obj.xyxy(), 0, [*image_size, *image_size])
                if (x2 - x1 <= 0 < right - left) or (y2 - y1 <= 0 < bottom - top):
                    continue
                box = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / [*image_size, *image_size]
                lines += yolo.box_lines([box], [obj.class_id], conf=conf)
        return "".join(f"{line}\n" for line in lines).encode(), len(lines)

    def close(self) -> None:
        if self.names:
            last_class = max(self._largest_class, *self.names)
            class_names.write(self.folder / "data.yaml", class_names.without_gaps(self.names, last_class))


def read(
    source: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    names: Mapping[int, str] | Sequence[str] | str | os.PathLike[str] | None = None,
    on_error: Callable[[ValueError], None] | None = None,
) -> LabelSet:
    """Read the labels in a folder and its sub-folders.

    source: a folder of label files, or one that holds `labels` and `images`. images: the folder of the images, whose
    sizes are needed; by default the one whose path has `images` in place of `labels`, or without it the labels' own.
    Every image counts: one without a label file has no objects. names: class names by id, a list of them, or the
    data.yaml or text file that has them; by default those of a data.yaml or classes.txt in the folder or above it.
    on_error: called with the error of each malformed line, which is left out; by default it is raised.

    Raises FileNotFoundError if there are no images, or a label file has none. While iterating, an image that can't be
    read is logged and left out; ValueError if none can be read, and for malformed lines. A class id followed by four or
    five numbers is a box, the fifth its score; by more numbers, a polygon, the last one its score if their count is
    odd.
    """
    labels, images = find_folders(Path(source), None if images is None else Path(images))
    labelled_images = pair_files(labels, images)
    if not labelled_images:
        raise FileNotFoundError(f"no image in {images} or below it")
    files = [file for _, file in labelled_images if file is not None]
    found_names = class_names.find(labels, files) if names is None else class_names.parse_names(names)

    def iterate() -> Iterator[ImageLabels]:
        failures: list[ValueError] = []
        for name, file in labelled_images:
            try:
                height, width = image_files.size_of(images / name)
            except ValueError as error:
                failures.append(error)
                logger.warning("skipped %s", error)
                continue
            objects = [] if file is None else read_file(file, (height, width), on_error)
            yield ImageLabels(name, width, height, objects, found_names)
        if len(failures) == len(labelled_images):
            raise failures[0]

    return LabelSet(iterate, len(labelled_images), found_names)


def pair_files(
    labels: Path, images: Path, on_error: Callable[[str, Exception], None] | None = None
) -> list[tuple[str, Path | None]]:
    """Return the images below one folder, sorted, each with its label file below the other, or None if it has none.

    Their paths are equal but for the suffix, or for `images` in place of `labels`, as in `train/labels/a.txt`.
    FileNotFoundError for a label file without an image, ValueError for one that may belong to several, or the second
    of one image. Lists of class names or of images, and README files, are left out.
    on_error: called for each such file with its path below `labels` and the error, which by default is raised.
    """
    stems = image_files.by_stem(images)
    files: dict[str, Path] = {}
    for name in image_files.walk(labels, {".txt"}):
        stem = os.path.splitext(name)[0]
        if stem not in stems:
            parts = stem.split("/")
            stem = next((other for other in _with_one_replaced(parts, "labels", "images") if other in stems), stem)
        if stem not in stems and _is_no_label_file(labels / name):
            continue
        error: Exception | None = None
        if stem not in stems:
            error = FileNotFoundError(f"no image {stem}.* in {images} for {labels / name}; give images=<their folder>")
        elif len(stems[stem]) > 1:
            error = ValueError(f"{labels / name} may belong to any of {', '.join(stems[stem])} in {images}")
        elif stem in files:
            error = ValueError(f"{files[stem]} and {labels / name} both belong to {images / stems[stem][0]}")
        if error is None:
            files[stem] = labels / name
        elif on_error is None:
            raise error
        else:
            on_error(name, error)
    return sorted((name, files.get(stem)) for stem, names in stems.items() for name in names)


def _with_one_replaced(parts: Sequence[str], name: str, replacement: str) -> Iterator[str]:
    """Yield the path of these parts with one folder called `name` replaced, the last one first."""
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == name:
            yield "/".join([*parts[:index], replacement, *parts[index + 1 :]])


def _is_no_label_file(path: Path) -> bool:
    is_named_so = path.name in class_names.FILE_NAMES or path.name.lower().startswith("readme")
    return is_named_so or _lists_images(path)


def _lists_images(path: Path) -> bool:
    """Return whether the first line of a file is the path of an image, as in the train.txt of Darknet's data sets."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return os.path.splitext(file.readline(_MAX_PATH_LENGTH).strip())[1].lower() in IMAGE_SUFFIXES
    except (OSError, UnicodeDecodeError):
        return False


def read_file(
    path: str | os.PathLike[str], size: Sequence[int], on_error: Callable[[ValueError], None] | None = None
) -> list[LabelledObject]:
    """Read the objects of one label file, whose image is of `size` = (height, width).

    on_error: called with the error of each malformed line, by default raised: a ValueError that names the line.
    """
    objects = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                objects.append(_object(line.split(), (int(size[0]), int(size[1]))))
            except ValueError as error:
                located = ValueError(f"{os.fspath(path)}, line {number}: {error}")
                if on_error is None:
                    raise located from None
                on_error(located)
    return objects


def _object(words: list[str], size: tuple[int, int]) -> LabelledObject:
    try:
        class_id, *values = (float(word) for word in words)
    except ValueError as error:
        raise ValueError(f"{error}; a line is a class id and numbers") from None
    # float() also accepts 1_000, and digits of all scripts.
    invalid = next((word for word in words if "_" in word or not word.isascii()), None)
    if invalid is not None:
        raise ValueError(f"{invalid[:40]!r} is not a number; a line is a class id and numbers")
    validate_class_id(class_id)
    is_box, has_score = len(values) in (4, 5), len(values) % 2 == 1
    score = values.pop() if has_score else None
    if len(values) < 4:
        raise ValueError(f"{len(words)} numbers; a box has 5, a polygon 7 or more")
    points = np.array(values, np.float64).reshape(-1, 2)
    # NaN fails these comparisons too.
    if not ((points >= -_TOLERANCE) & (points <= 1 + _TOLERANCE)).all():
        outside = next(value for value in values if not -_TOLERANCE <= value <= 1 + _TOLERANCE)
        raise ValueError(f"{outside:g} lies outside [0, 1]; coordinates are fractions of the image's width and height")
    if score is not None and not 0 <= score <= _MAX_SCORE:
        raise ValueError(
            f"{len(words)} numbers, the last of which is not a score: {score:g} lies outside [0, {_MAX_SCORE:g}]"
        )
    height, width = size
    if not is_box:
        polygon = points.clip(0, 1) * [width, height]
        return LabelledObject(int(class_id), Segmentation.from_polygons([polygon], size), score=score)
    (x, y), (box_width, box_height) = points
    if box_width < 0 or box_height < 0:
        raise ValueError(f"the box is {box_width:g} wide and {box_height:g} high")
    sides = np.array([x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2]).clip(0, 1)
    box: Any = tuple((sides * [width, height, width, height]).tolist())
    return LabelledObject(int(class_id), box=box, score=score)


def find_folders(source: Path, images: Path | None) -> tuple[Path, Path]:
    """Return the folders of labels and of images. NotADirectoryError if `source` is not a folder."""
    if not source.is_dir():
        raise NotADirectoryError(f"no such folder: {source}; YOLO labels are a folder of text files")
    if (source / "labels").is_dir() and (source / "images").is_dir():
        return source / "labels", images or source / "images"
    if images is not None:
        return source, images
    return source, sibling_folder(source, "labels", "images") or source


def sibling_folder(folder: Path, name: str, replacement: str) -> Path | None:
    """Return the folder whose path has `replacement` in place of the last `name`; None if there is none."""
    parts = folder.absolute().parts
    for index in range(len(parts) - 1, 0, -1):
        if parts[index] == name:
            sibling = Path(*parts[:index], replacement, *parts[index + 1 :])
            if sibling.is_dir():
                return sibling
    return None
