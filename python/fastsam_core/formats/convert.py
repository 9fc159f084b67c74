"""Converting label files from one format to another: `convert_labels`, and `fastsam convert`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._arguments import UsageError, check_keys
from .._log import format_count, logger
from .._progress import progress_bar
from . import class_names, coco_file, labelme_reading, sa1b, yolo_folder
from ._writing import FolderWriter, LabelWriter
from .label_map import LabelMapWriter
from .labelme import LabelMeWriter
from .labels import LabelSet

READERS: dict[str, Callable[..., LabelSet]] = {
    "yolo": yolo_folder.read,
    "coco": coco_file.read,
    "sa1b": sa1b.read,
    "labelme": labelme_reading.read,
}
WRITERS: dict[str, Callable[..., LabelWriter]] = {
    "yolo": yolo_folder.YoloWriter,
    "coco": coco_file.CocoWriter,
    "sa1b": sa1b.Sa1bWriter,
    "labelme": LabelMeWriter,
    "labelmap": LabelMapWriter,
}
ON_ERROR = ("raise", "skip")
_MAX_LOGGED_ERRORS = 10


@dataclass(frozen=True)
class Conversion:
    """Counts of a conversion.

    images, objects: those written. left_out: objects that the new format could not hold. invalid: malformed objects
    that were skipped.
    """

    images: int
    objects: int
    left_out: int
    invalid: int = 0


def read_labels(source: str | os.PathLike[str], format: str, **options: Any) -> LabelSet:
    """Read the labels at `source`, one image at a time.

    format: "yolo" (a folder; options `images` and `names`), "coco" (a JSON file; option `images`), "sa1b" (a folder or
    a file) or "labelme" (a folder or a file; options `images` and `names`). ValueError, which names the file and the
    line or field, for invalid labels; some are found only while iterating. With the option `on_error`, a function,
    invalid objects are left out, and it is called with their errors.
    """
    return _look_up(READERS, "from_", format, options)(source, **options)


def open_writer(target: str | os.PathLike[str], format: str, **options: Any) -> LabelWriter:
    """Open a writer of labels; use it as a context manager and pass it an `ImageLabels` per image.

    format: "yolo", "sa1b", "labelme" or "labelmap" for a folder, or "coco" for a JSON file; see their writers for
    options.
    """
    return _look_up(WRITERS, "to", format, options)(target, **options)


def convert_labels(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    from_: str,
    to: str,
    images: str | os.PathLike[str] | None = None,
    names: Any = None,
    on_error: str = "raise",
    progress: bool | None = None,
    **options: Any,
) -> Conversion:
    """Read labels in one format and write them in another, one image at a time.

    source, from_: see `read_labels`. target, to: see `open_writer`, which also takes the options. images: the folder of
    the images, which YOLO's reader and LabelMe's writer use, and the readers of COCO and LabelMe for what their files
    lack. names: class names that replace those of the labels, by class id, as a list, or as a file that has them; for
    LabelMe, the ids of its labels. on_error: "skip" leaves out malformed objects, logs the first of them and counts
    all; "raise" stops at the first. progress: show a progress bar; None shows it on a terminal only.

    Masks given as RLE, or as polygons along pixel edges, stay exact whichever formats they go through (except label
    maps). Other polygons keep their points as long as they stay polygons, to two decimals of a pixel in JSON and six
    significant digits of the fraction of the image's side in YOLO's text. Objects that a format can't hold are left out
    and counted: crowds and masks without pixels in formats of polygons, boxes in formats of masks, boxes outside the
    image in YOLO's text. With YOLO labels, an image that can't be read is logged and left out.

    Raises ValueError for invalid options, for malformed files, naming the file and the line or field, and if labels or
    images that are read would be overwritten; FileNotFoundError for missing images.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r}; accepted: {', '.join(ON_ERROR)}")
    errors = _Errors()
    reader_options: dict[str, Any] = {} if on_error == "raise" else {"on_error": errors}
    writer_options = dict(options)
    for name, value in (("images", images), ("names", names)):
        if value is not None and name in _option_names(READERS.get(from_)):
            reader_options[name] = value
    if images is not None and "images" in _option_names(WRITERS.get(to)):
        writer_options["images"] = images
    label_set = read_labels(source, from_, **reader_options)
    inputs = _InputPaths(source, from_, images)
    inputs.check_target(target, to)
    num_images = num_read = num_written = 0
    given_names = {} if names is None or "names" in reader_options else class_names.parse_names(names)
    with open_writer(target, to, **writer_options) as writer:
        writer.names.update(given_names)
        for labels in progress_bar(label_set, desc=f"{from_} to {to}", unit="image", show=progress):
            num_images, num_read = num_images + 1, num_read + len(labels.objects)
            if given_names:
                labels.names = dict(labels.names) | given_names
            if isinstance(writer, FolderWriter):
                inputs.check_target(writer.path_for(labels.file_name), to)
            num_written += writer.write(labels)
    return Conversion(num_images, num_written, num_read - num_written, errors.count)


class _Errors:
    """Logs and counts the errors that it is called with."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: ValueError) -> None:
        self.count += 1
        if self.count <= _MAX_LOGGED_ERRORS:
            more = "; further errors are only counted" if self.count == _MAX_LOGGED_ERRORS else ""
            logger.warning("skipped %s%s", error, more)


class _InputPaths:
    """Paths that a conversion must not overwrite: labels, and images, which may have the names of label maps."""

    def __init__(self, source: str | os.PathLike[str], from_: str, images: str | os.PathLike[str] | None) -> None:
        folder, image_folder = Path(source), None if images is None else Path(images)
        self._suffix = ".json"
        if from_ == "yolo":
            folder, image_folder = yolo_folder.find_folders(folder, image_folder)
            self._suffix = ".txt"
        self._source = os.path.realpath(source)
        self._labels = {self._source, os.path.realpath(folder)}
        self._images = None if image_folder is None else os.path.realpath(image_folder)

    def check_target(self, target: str | os.PathLike[str], to: str) -> None:
        """Raise ValueError if writing new labels to `target`, a folder or file, would overwrite what is read."""
        path = os.path.realpath(target)
        if path == self._source:
            raise ValueError(f"source and target are both {os.fspath(target)}; give another target")
        below = any(Path(path).is_relative_to(labels) for labels in self._labels)
        if path in self._labels or (below and os.path.isfile(path) and path.lower().endswith(self._suffix)):
            raise ValueError(f"{os.fspath(target)} is among the labels to convert; give another target")
        if to == "labelmap" and path == self._images:
            raise ValueError(f"label maps can't go into {os.fspath(target)}, the folder of the images")


def _look_up(
    table: dict[str, Callable[..., Any]], argument: str, format: str, options: dict[str, Any]
) -> Callable[..., Any]:
    if format not in table:
        raise ValueError(f"{argument}={format!r}; accepted: {', '.join(table)}")
    accepted = _option_names(table[format])
    for name in options:
        if name not in accepted:
            raise TypeError(f"{format} has no option {name!r}; accepted: {', '.join(accepted) or 'none'}")
    return table[format]


def _option_names(function: Callable[..., Any] | None) -> list[str]:
    """Return the names of the keyword-only arguments."""
    if function is None:
        return []
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]


_ALIASES = {"source": "data", "target": "output", "output_dir": "output"}


def run(values: dict[str, Any]) -> None:
    """Run `fastsam convert data=labels/ from=yolo to=coco output=labels.json`, from its key=value pairs."""
    # Many shells don't expand a ~ behind the =.
    values = {
        _ALIASES.get(key, key): os.path.expanduser(value) if isinstance(value, str) else value
        for key, value in values.items()
    }
    for key in ("data", "output", "from", "to"):
        if values.get(key) is None:
            raise UsageError(
                f"convert needs {key}=...; for labels: data=labels/ from=yolo to=coco output=labels.json "
                f"(from: {', '.join(READERS)}; to: {', '.join(WRITERS)})"
            )
    data, output, from_, to = (str(values.pop(key)) for key in ("data", "output", "from", "to"))
    for key, name, table in (("from", from_, READERS), ("to", to, WRITERS)):
        if name not in table:
            raise UsageError(f"{key}={name}; accepted: {', '.join(table)}")
    check_keys(
        values, list(dict.fromkeys(["images", "names", "on_error", *_option_names(WRITERS[to])])), f"convert to={to}"
    )
    conversion = convert_labels(data, output, from_=from_, to=to, **values)
    skipped = "".join(
        f"; {format_count(count, 'object')} skipped, {reason}"
        for count, reason in (
            (conversion.left_out, f"not representable in {to}"),
            (conversion.invalid, "malformed"),
        )
        if count
    )
    print(
        f"{format_count(conversion.images, 'image')}, {format_count(conversion.objects, 'object')}{skipped}; "
        f"saved to {Path(output)}"
    )
