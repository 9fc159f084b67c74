"""Class names beside YOLO labels: the `names` of a data.yaml, or one name per line as in classes.txt."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import write_text
from . import _yaml
from ._reading import read_text
from .labels import validate_class_id

# Names of such files, in the order in which they are looked for.
FILE_NAMES = ("data.yaml", "dataset.yaml", "data_config.yaml", "data.yml", "classes.txt", "obj.names")
_HEADER = "# Class names of the labels in this folder. To train on them, add path, train and val."
# Control characters, line separators, the byte-order mark and lone surrogates.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_COUNT_KEY = re.compile(r"""(nc|"nc"|'nc')\s*:""")


def parse_names(names: Mapping[Any, Any] | Sequence[Any] | str | os.PathLike[str]) -> dict[int, str]:
    """Return names by class id from a dict, a list, or a file that `read` accepts. An empty name is none."""
    if isinstance(names, (str, os.PathLike)):
        return read(names)
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {validate_class_id(class_id): str(name) for class_id, name in pairs if str(name)}


def without_gaps(names: Mapping[int, str], last_class: int) -> dict[int, str]:
    """Return the names of the classes 0 to `last_class`; a class without a name is called by its number."""
    return {class_id: names.get(class_id, str(class_id)) for class_id in range(last_class + 1)}


def find(folder: Path, exclude: Collection[Path] = ()) -> dict[int, str]:
    """Return the class names found in a folder of labels or in the two above it; empty if there are none.

    exclude: files to skip. An image may have the same name as one of `FILE_NAMES`, and then its label file is no
    list of names.
    """
    for directory in (folder, *folder.resolve().parents[:2]):
        for name in FILE_NAMES:
            if (directory / name).is_file() and directory / name not in exclude:
                names = read(directory / name)
                if names:
                    return names
    return {}


def read(path: str | os.PathLike[str]) -> dict[int, str]:
    """Read the names in a .yaml or .yml file, or in a text file with one name per line.

    Of YAML, only a `names` at the top level is read: `[a, b]`, `{0: a}`, or one entry per line, `- a` or `0: a`.
    ValueError if it is written in another way; empty if there is no such key.
    """
    text = read_text(path)
    if Path(path).suffix.lower() not in (".yaml", ".yml"):
        return {index: line.strip() for index, line in enumerate(text.split("\n")) if line.strip()}
    try:
        return _parse_yaml(text.split("\n"))
    except ValueError as error:
        raise ValueError(
            f"{os.fspath(path)}: its names can't be read ({error}); write one `0: name` a line below `names:`, or pass "
            "names="
        ) from None


def write(
    path: str | os.PathLike[str], names: Mapping[int, str], previous: str | os.PathLike[str] | None = None
) -> None:
    """Write a data.yaml with these names; to train with it, the paths of the images must be added.

    previous: a file, by default the one at `path`, whose other entries are kept, such as those paths; the number of
    classes, `nc`, is adapted to the names. ValueError if it is not UTF-8 text.
    """
    previous = path if previous is None else previous
    entry = ["names:", *(f"  {class_id}: {_quoted(names[class_id])}" for class_id in sorted(names))]
    text = read_text(previous).rstrip("\n") if os.path.isfile(previous) else _HEADER
    lines = text.split("\n") if text else []
    lines = [f"nc: {len(names)}" if _COUNT_KEY.match(line) else line for line in lines]
    place = _yaml.entry_lines(lines, "names")
    write_text(path, "".join(f"{line}\n" for line in (*lines[: place.start], *entry, *lines[place.stop :])))


def _quoted(name: str) -> str:
    """Quote a name as in JSON, whose escapes YAML understands; also escape what JSON leaves and YAML doesn't take."""
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(name, ensure_ascii=False))


def _parse_yaml(lines: list[str]) -> dict[int, str]:
    value = _yaml.read_entry(lines, "names")
    if isinstance(value, dict):
        return {_parse_class_id(key): name for key, name in value.items() if name}
    if isinstance(value, str):
        raise ValueError(f"{value[:60]!r} is neither a list nor a mapping")
    return {index: name for index, name in enumerate(value) if name}


def _parse_class_id(text: str) -> int:
    text = text.strip().strip("\"'")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text[:60]!r} is not a class id")
    return validate_class_id(int(text))
