"""Strict reading of label files: every error names the file and the line or field."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from .labels import validate_side
from .segmentation import Segmentation

Value = TypeVar("Value")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 file, with or without a byte-order mark, with any line ends. ValueError if it is not UTF-8."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: str | os.PathLike[str]) -> JsonNode:
    """Read a JSON file. ValueError for invalid JSON, which includes NaN and Infinity."""
    name, text = os.fspath(path), read_text(path)
    if not text.strip():
        raise ValueError(f"{name} is empty; a JSON file is needed")
    try:
        return JsonNode(json.loads(text, parse_constant=_reject_constant), None, name)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{name}: lists or objects are nested too deeply") from None
    except ValueError as error:  # NaN or Infinity, or an integer of thousands of digits
        raise ValueError(f"{name}: {error}") from None


def _reject_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


class FieldError(ValueError):
    """An invalid field of a file; the message says which."""


class JsonNode:
    """A value within a JSON file that knows its position, for error messages.

    All readers raise FieldError if the value is of another kind.
    """

    __slots__ = ("key", "parent", "value")

    def __init__(self, value: Any, parent: JsonNode | None, key: str | int) -> None:
        self.value = value
        self.parent = parent
        self.key = key

    @property
    def location(self) -> str:
        """Position of the value, such as `labels.json: annotations[3].bbox`."""
        if self.parent is None:
            return str(self.key)
        separator = ": " if self.parent.parent is None else "."
        return self.parent.location + (f"[{self.key}]" if isinstance(self.key, int) else f"{separator}{self.key}")

    def error(self, problem: object) -> FieldError:
        """Return an error to be raised, which names the position and the problem."""
        return FieldError(f"{self.location}: {problem}")

    def _short_text(self) -> str:
        return str(self.value)[:80] if isinstance(self.value, (int, float, str)) else type(self.value).__name__

    def get(self, key: str) -> JsonNode | None:
        """Return a field, or None if it is missing or null."""
        if not isinstance(self.value, dict):
            raise self.error(f"a JSON object is needed, not {self._short_text()!r}")
        value = self.value.get(key)
        return None if value is None else JsonNode(value, self, key)

    def __getitem__(self, key: str) -> JsonNode:
        node = self.get(key)
        if node is None:
            raise self.error(f"{key!r} is missing")
        return node

    def items(self) -> Iterator[JsonNode]:
        """Return an iterator over the elements of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"a list is needed, not {self._short_text()!r}")
        return (JsonNode(value, self, index) for index, value in enumerate(self.value))

    def text(self) -> str:
        """Return a non-empty string."""
        if not isinstance(self.value, str) or not self.value:
            raise self.error(f"text is needed, not {self._short_text()!r}")
        return self.value

    def integer(self) -> int:
        """Return an integer; it may be written as a float."""
        if isinstance(self.value, float) and self.value.is_integer():
            return int(self.value)
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error(f"an integer is needed, not {self._short_text()!r}")
        return self.value

    def identifier(self) -> int | str:
        """Return an integer or a non-empty string. The string "12" is the integer 12, as some tools mix the two."""
        if not isinstance(self.value, str):
            return self.integer()
        text = self.text()
        return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,17}", text) else text

    def boolean(self) -> bool:
        """Return a flag, written as 0, 1, false or true."""
        if not isinstance(self.value, (bool, int, float)) or self.value not in (0, 1):
            raise self.error(f"0 or 1 is needed, not {self._short_text()!r}")
        return bool(self.value)

    def number(self) -> float:
        """Return a finite number."""
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool) or not _is_finite(self.value):
            raise self.error(f"a finite number is needed, not {self._short_text()!r}")
        return float(self.value)

    def optional_number(self, key: str) -> float | None:
        """Return the number in a field, or None if the field is missing or null."""
        node = self.get(key)
        return None if node is None else node.number()

    def convert(self, read: Callable[[Any], Value]) -> Value:
        """Return `read(value)`; raise its TypeError or ValueError as an error of this position."""
        try:
            return read(self.value)
        except (TypeError, ValueError) as error:
            raise self.error(error) from None

    def side(self) -> int:
        """Return a number of pixels, as `validate_side` does."""
        return self.convert(lambda value: validate_side(str(self.key), value))

    def mask(self, size: tuple[int, int]) -> Segmentation:
        """Return the mask given by run lengths, compressed or not, of an image of `size` = (height, width)."""
        mask = self.convert(Segmentation.from_rle)
        if mask.size != size:
            raise self.error(f"its size is {list(mask.size)}, that of the image {list(size)} (height, width)")
        return mask

    def numbers(self, count: int | None = None) -> NDArray[np.float64]:
        """Return a flat list of finite numbers, with `count` elements if it is given."""
        expected = f"a list of {'' if count is None else f'{count} '}finite numbers"
        if not isinstance(self.value, list) or (count is not None and len(self.value) != count):
            size = f" of {len(self.value)}" if isinstance(self.value, list) else ""
            raise self.error(f"{expected} is needed, not {self._short_text()!r}{size}")
        try:
            array = np.array(self.value, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self.error(f"{expected} is needed") from None
        # NumPy would accept the string "1" and true as numbers.
        if (
            array.ndim != 1
            or not np.isfinite(array).all()
            or any(type(element) not in (int, float) for element in self.value)
        ):
            raise self.error(f"{expected} is needed")
        return array


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
