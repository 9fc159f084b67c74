"""Batches of rows, as data frames and streaming engines pass them: images in, labels out."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..sources.arrays import from_array
from ..sources.decode import decode_image, read_image
from .loading import Load, Loaded
from .pipeline import Pipeline
from .rendering import Renderer

if TYPE_CHECKING:
    from ..results import Results
    from .annotator import Annotator

Columns = dict[str, Sequence[Any]]
_PIXELS = ("image", "bytes")
_WHOLE = ("width", "height", "objects")


def open_batch(batch: Any) -> tuple[Columns, Callable[[dict[str, list[Any]]], Any]]:
    """Return the columns of a batch, and a function that makes a batch of the same type from other columns.

    TypeError for a batch or column of another type; ValueError if `path` is missing or columns differ in length.
    """
    if isinstance(batch, Mapping):
        columns: Columns = dict(batch)
        rebuild: Callable[[dict[str, list[Any]]], Any] = _arrays
    elif _is(batch, "pandas", "DataFrame"):
        columns, rebuild = {name: batch[name].tolist() for name in batch.columns}, type(batch)
    elif _is(batch, "pyarrow", "Table"):
        columns, rebuild = {name: batch[name].to_pylist() for name in batch.column_names}, type(batch).from_pydict
    else:
        raise TypeError(
            f"a batch is a dict of columns, a pandas DataFrame or a pyarrow Table, not {type(batch).__name__}"
        )
    if "path" not in columns:
        raise ValueError(f"a batch needs the column path, and has {', '.join(map(str, columns)) or 'none'}")
    lengths = {name: _length(name, columns[name]) for name in ("path", *_PIXELS) if name in columns}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"the columns of a batch must be of one length: {shown}")
    return columns, rebuild


def _length(name: str, column: Any) -> int:
    if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
        raise TypeError(f"the column {name} must be a list or an array, not {type(column).__name__}")
    return len(column)


def label(annotator: Annotator, columns: Columns) -> dict[str, list[Any]]:
    """Return the columns that `Annotator.__call__` returns for those of a batch."""
    config = annotator.config
    count = len(columns["path"])
    render = Renderer(config.formats)
    made: dict[str, list[Any]] = {"path": [str(path) for path in columns["path"]]}
    for name in _WHOLE:
        made[name] = [0] * count
    made["error"] = [""] * count
    for form in config.formats:
        made[form] = [b"" if form == "png" else ""] * count
    pixels = next((columns[name] for name in _PIXELS if name in columns), None)

    def groups() -> Iterator[list[Load]]:
        for first in range(0, count, config.batch):
            yield [
                partial(load_row, str(row), made["path"][row], None if pixels is None else pixels[row])
                for row in range(first, min(first + config.batch, count))
            ]

    def write(outcome: tuple[Loaded, Results | str]) -> None:
        loaded, found = outcome
        row = int(loaded.key)
        if not isinstance(found, str):
            try:
                rendered = render(found, loaded.file_name, loaded.name)
            except ValueError as error:  # labels that can't be written, such as those of an image without a name
                found = f"ValueError: {error}"
        if isinstance(found, str):
            made["error"][row] = found
            return
        made["height"][row], made["width"][row] = found.orig_shape
        made["objects"][row] = len(found)
        for form, content in rendered.items():
            made[form][row] = content if form == "png" else content.decode()

    with Pipeline(groups(), write, workers=config.workers, batch=config.batch) as pipeline:
        for group in pipeline:
            images = [(one.image, one.file_name) for one in group if one.image is not None]
            labelled = iter(annotator.label([image for image, _ in images], [name for _, name in images]))
            for one in group:
                found = one.error if one.image is None else next(labelled)
                shown = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else found
                pipeline.write((one, shown))
    return made


def load_row(key: str, path: str, given: Any) -> Loaded:
    """Load the image of one row, or return the reason why that fails.

    key: identifies the row. path: the image's path or name. given: its pixels or encoded bytes; None reads `path`.
    """
    name = posixpath.splitext(path)[0]
    try:
        return Loaded(key, name, path, _image(path, given))
    except (ValueError, TypeError, OSError, MemoryError) as error:
        return Loaded(key, name, path, None, str(error) or type(error).__name__)


def _image(path: str, given: Any) -> NDArray[np.uint8]:
    if isinstance(given, Mapping):
        given = given.get("bytes")
    if given is None:
        return read_image(path)
    if isinstance(given, (bytes, bytearray, memoryview)):
        return decode_image(given)
    image = from_array(np.asarray(given))
    return np.ascontiguousarray(image[..., ::-1])  # RGB, as data sets hold it, to BGR


def _arrays(columns: dict[str, list[Any]]) -> dict[str, NDArray[Any]]:
    made = {}
    for name, values in columns.items():
        # A fixed-width bytes array would lose trailing zero bytes.
        made[name] = np.array(values, dtype=np.int64 if name in _WHOLE else object)
    return made


def _is(value: Any, package: str, name: str) -> bool:
    """Return whether `value` is an instance of `package`.`name`; never imports the package."""
    kind = getattr(sys.modules.get(package), name, None)
    return kind is not None and isinstance(value, kind)
