"""Batches of rows, as data frames and streaming engines pass them: images in, labels out."""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..sources.arrays import from_array, from_pil, is_pil
from ..sources.decode import decode_image, read_image
from .loading import ImageLoader, LoadedImage
from .pipeline import Pipeline
from .rendering import Renderer

if TYPE_CHECKING:
    from ..results import Results
    from .annotator import Annotator

Columns = dict[str, Sequence[Any]]
_IMAGE_COLUMNS = ("image", "bytes")
_INTEGER_COLUMNS = ("width", "height", "objects")


def unpack_batch(batch: Any) -> tuple[Columns, Callable[[dict[str, list[Any]]], Any]]:
    """Return the columns of a batch, and a function that makes a batch of the same type from other columns.

    TypeError for a batch or column of another type; ValueError if `path` is missing or columns differ in length.
    """
    if isinstance(batch, Mapping):
        columns: Columns = dict(batch)
        rebuild: Callable[[dict[str, list[Any]]], Any] = _to_arrays
    elif _is_instance_of(batch, "pandas", "DataFrame"):
        columns, rebuild = {name: batch[name].tolist() for name in batch.columns}, type(batch)
    elif _is_instance_of(batch, "pyarrow", "Table"):
        columns, rebuild = {name: batch[name].to_pylist() for name in batch.column_names}, type(batch).from_pydict
    else:
        raise TypeError(
            f"a batch is a dict of columns, a pandas DataFrame or a pyarrow Table, not {type(batch).__name__}"
        )
    if "path" not in columns:
        raise ValueError(f"a batch needs the column path, and has {', '.join(map(str, columns)) or 'none'}")
    lengths = {name: _length(name, columns[name]) for name in ("path", *_IMAGE_COLUMNS) if name in columns}
    if len(set(lengths.values())) > 1:
        lengths_text = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"the columns of a batch must be of one length: {lengths_text}")
    return columns, rebuild


def _length(name: str, column: Any) -> int:
    if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
        raise TypeError(f"the column {name} must be a list or an array, not {type(column).__name__}")
    return len(column)


def label(annotator: Annotator, columns: Columns) -> dict[str, list[Any]]:
    """Return the columns that `Annotator.__call__` returns for those of a batch."""
    config = annotator.config
    count = len(columns["path"])
    renderer = Renderer(config.formats)
    output: dict[str, list[Any]] = {"path": [str(path) for path in columns["path"]]}
    for name in _INTEGER_COLUMNS:
        output[name] = [0] * count
    output["error"] = [""] * count
    for fmt in config.formats:
        output[fmt] = [b"" if fmt == "png" else ""] * count
    pixels = next((columns[name] for name in _IMAGE_COLUMNS if name in columns), None)

    def batches() -> Iterator[list[ImageLoader]]:
        for start in range(0, count, config.batch):
            yield [
                partial(load_row, str(row), output["path"][row], None if pixels is None else pixels[row])
                for row in range(start, min(start + config.batch, count))
            ]

    def write(outcome: tuple[LoadedImage, Results | str]) -> None:
        loaded, result = outcome
        row = int(loaded.key)
        if not isinstance(result, str):
            try:
                rendered = renderer(result, loaded.file_name, loaded.label_name)
            except ValueError as error:  # labels that can't be written, such as those of an image without a name
                result = f"ValueError: {error}"
        if isinstance(result, str):
            output["error"][row] = result
            return
        output["height"][row], output["width"][row] = result.orig_shape
        output["objects"][row] = len(result)
        for fmt, content in rendered.items():
            output[fmt][row] = content if fmt == "png" else content.decode()

    with Pipeline(batches(), write, num_workers=config.workers, batch_size=config.batch) as pipeline:
        for batch in pipeline:
            images = [(loaded.image, loaded.file_name) for loaded in batch if loaded.image is not None]
            labelled = iter(annotator.label([image for image, _ in images], [name for _, name in images]))
            for loaded in batch:
                found = loaded.error if loaded.image is None else next(labelled)
                result = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else found
                pipeline.write((loaded, result))
    return output


def load_row(key: str, path: str, content: Any) -> LoadedImage:
    """Load the image of one row, or return the reason why that fails.

    key: identifies the row. path: the image's path or name. content: its pixels or encoded bytes; None reads `path`.
    """
    label_name = posixpath.splitext(path)[0]
    try:
        return LoadedImage(key, label_name, path, _decode(path, content))
    except (ValueError, TypeError, OSError, MemoryError) as error:
        return LoadedImage(key, label_name, path, None, str(error) or type(error).__name__)


def _decode(path: str, content: Any) -> NDArray[np.uint8]:
    if isinstance(content, Mapping):
        # In data sets of Hugging Face that refer to files, `path` alone is set.
        path = path if os.path.isfile(path) else content.get("path") or path
        content = content.get("bytes")
    if content is None:
        return read_image(path)
    if is_pil(content):
        return from_pil(content)
    if isinstance(content, (bytes, bytearray, memoryview)):
        return decode_image(content)
    image = from_array(np.asarray(content))
    return np.ascontiguousarray(image[..., ::-1])  # RGB, as data sets hold it, to BGR


def _to_arrays(columns: dict[str, list[Any]]) -> dict[str, NDArray[Any]]:
    arrays = {}
    for name, values in columns.items():
        # A fixed-width bytes array would lose trailing zero bytes.
        arrays[name] = np.array(values, dtype=np.int64 if name in _INTEGER_COLUMNS else object)
    return arrays


def _is_instance_of(value: Any, package: str, name: str) -> bool:
    """Return whether `value` is an instance of `package`.`name`; never imports the package."""
    cls = getattr(sys.modules.get(package), name, None)
    return cls is not None and isinstance(value, cls)
