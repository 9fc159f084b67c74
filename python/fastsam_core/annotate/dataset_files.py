"""Files that cover all images, written at the end of a run: the COCO file, class names, the contact sheet."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .._files import atomic_path
from ..formats import class_names, coco
from ..formats._writing import json_text
from ..formats.coco_file import write_footer
from .files import LabelFiles, label_path
from .manifest import History
from .preview import PREVIEW_FILE, Preview

COCO_FILE = "coco.json"
NAMES_FILE = "data.yaml"


def write_dataset_files(labels: LabelFiles, history: History, label_names: Iterable[str], preview: Preview) -> None:
    """Write the files that cover all images into the folder of labels.

    label_names: names of all images' label files, in the order in which images are numbered. The files do not depend on
    the order in which the images were labelled.
    """
    folder, classes = labels.folder, names_of_classes(history)
    if "coco" in labels.formats:
        with atomic_path(folder / COCO_FILE, labels.scratch) as temporary:
            write_coco(temporary, (folder / label_path("coco", name) for name in label_names), classes)
    if "yolo" in labels.formats and classes:
        with atomic_path(folder / NAMES_FILE, labels.scratch) as temporary:
            names = class_names.without_gaps(classes, max(classes))
            class_names.write(temporary, names, previous=folder / NAMES_FILE)
    sheet = preview.contact_sheet(folder)
    if sheet is not None:
        labels.write([(PREVIEW_FILE, sheet)])


def names_of_classes(history: History) -> dict[int, str]:
    """Return the names of the detector's classes, and of all that were found.

    If one id has several names, the alphabetically first is used.
    """
    classes: dict[int, str] = {}
    for class_id, name in sorted(history.names | history.class_counts.keys()):
        classes.setdefault(class_id, name)
    return classes


def write_coco(target: Path, parts: Iterable[Path], names: Mapping[int, str]) -> None:
    """Write one COCO file from per-image parts, numbered in their order; only one part is in memory at a time.

    Class k is category k + 1. All classes up to the largest are listed, so that all readers derive the same numbers.
    ValueError if a part is damaged or missing.
    """
    with (
        open(target, "w", encoding="ascii", newline="\n") as file,
        # Image entries are collected in an unnamed file: they follow the annotations in the output.
        tempfile.TemporaryFile("w+", dir=target.parent, encoding="ascii") as images,
    ):
        file.write(coco.opening("annotations"))
        _append_parts(file, images, parts)
        write_footer(file, images, names, max(names, default=0))


def _append_parts(file: IO[str], images: IO[str], parts: Iterable[Path]) -> None:
    separator = "\n"
    annotation_id = 0
    for image_id, (image, objects) in enumerate(_read_parts(parts), 1):
        image["id"] = image_id
        images.write(("\n" if image_id == 1 else ",\n") + json_text(image))
        for annotation in objects:
            annotation_id += 1
            annotation["id"], annotation["image_id"] = annotation_id, image_id
            file.write(separator + json_text(annotation))
            separator = ",\n"


def _read_parts(parts: Iterable[Path]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for path in parts:
        try:
            part = json.loads(path.read_bytes())
            yield part["image"], part["annotations"]
        except FileNotFoundError:
            raise ValueError(f"{path} is missing; run the shard of its image again to restore it") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it and run again to restore it") from None
