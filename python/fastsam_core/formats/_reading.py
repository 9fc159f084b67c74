"""Strict reading of label files: every error names the file and the line or field."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from .labels import checked_side
from .segmentation import Segmentation

Read = TypeVar("Read")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 file, with or without a byte-order mark, with any line ends. ValueError if it is not UTF-8."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: str | os.PathLike[str]) -> Node:
    """Read a JSON file. ValueError for invalid JSON, which includes NaN and Infinity."""
    name, text = os.fspath(path), read_text(path)
    if not text.strip():
        raise ValueError(f"{name} is empty; a JSON file is needed")
    try:
        return Node(json.loads(text, parse_constant=_refuse_constant), None, name)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{name}: lists or objects are nested too deeply") from None
    except ValueError as error:  # NaN or Infinity, or an integer of thousands of digits
        raise ValueError(f"{name}: {error}") from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


class FieldError(ValueError):
    """An invalid field of a file; the message says which."""


class Node:
    """A value within a JSON file that knows its position, for error messages.

    All readers raise FieldError if the value is of another kind.
    """

    __slots__ = ("key", "parent", "value")

    def __init__(self, value: Any, parent: Node | None, key: str | int) -> None:
        self.value = value
        self.parent = parent
        self.key = key

    @property
    def where(self) -> str:
        """Position of the value, such as `labels.json: annotations[3].bbox`."""
        if self.parent is None:
            return str(self.key)
        joint = ": " if self.parent.parent is None else "."
        return self.parent.where + (f"[{self.key}]" if isinstance(self.key, int) else f"{joint}{self.key}")

    def error(self, problem: object) -> FieldError:
        """Return an error to be raised, which names the position and the problem."""
        return FieldError(f"{self.where}: {problem}")

    def _shown(self) -> str:
        return str(self.value)[:80] if isinstance(self.value, (int, float, str)) else type(self.value).__name__

    def get(self, key: str) -> Node | None:
        """Return a field, or None if it is missing or null."""
        if not isinstance(self.value, dict):
            raise self.error(f"a JSON object is needed, not {self._shown()!r}")
        value = self.value.get(key)
        return None if value is None else Node(value, self, key)

    def __getitem__(self, key: str) -> Node:
        found = self.get(key)
        if found is None:
            raise self.error(f"{key!r} is missing")
        return found

    def items(self) -> Iterator[Node]:
        """Return an iterator over the elements of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"a list is needed, not {self._shown()!r}")
        return (Node(value, self, place) for place, value in enumerate(self.value))

    def text(self) -> str:
        """Return a non-empty string."""
        if not isinstance(self.value, str) or not self.value:
            raise self.error(f"text is needed, not {self._shown()!r}")
        return self.value

    def integer(self) -> int:
        """Return an integer; it may be written as a float."""
        if isinstance(self.value, float) and self.value.is_integer():
            return int(self.value)
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error(f"an integer is needed, not {self._shown()!r}")
        return self.value

    def flag(self) -> bool:
        """Return a flag, written as 0, 1, false or true."""
        if not isinstance(self.value, (bool, int, float)) or self.value not in (0, 1):
            raise self.error(f"0 or 1 is needed, not {self._shown()!r}")
        return bool(self.value)

    def number(self) -> float:
        """Return a finite number."""
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool) or not _is_finite(self.value):
            raise self.error(f"a finite number is needed, not {self._shown()!r}")
        return float(self.value)

    def number_of(self, key: str) -> float | None:
        """Return the number in a field, or None if the field is missing or null."""
        found = self.get(key)
        return None if found is None else found.number()

    def checked(self, read: Callable[[Any], Read]) -> Read:
        """Return `read(value)`; raise its TypeError or ValueError as an error of this position."""
        try:
            return read(self.value)
        except (TypeError, ValueError) as error:
            raise self.error(error) from None

    def side(self) -> int:
        """Return a number of pixels, as `checked_side` does."""
        return self.checked(lambda value: checked_side(str(self.key), value))

    def mask(self, size: tuple[int, int]) -> Segmentation:
        """Return the mask given by run lengths, compressed or not, of an image of `size` = (height, width)."""
        mask = self.checked(Segmentation.from_rle)
        if mask.size != size:
            raise self.error(f"its size is {list(mask.size)}, that of the image {list(size)} (height, width)")
        return mask

    def numbers(self, count: int | None = None) -> NDArray[np.float64]:
        """Return a flat list of finite numbers, with `count` elements if it is given."""
        wanted = f"a list of {'' if count is None else f'{count} '}finite numbers"
        if not isinstance(self.value, list) or (count is not None and len(self.value) != count):
            size = f" of {len(self.value)}" if isinstance(self.value, list) else ""
            raise self.error(f"{wanted} is needed, not {self._shown()!r}{size}")
        try:
            found = np.array(self.value, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self.error(f"{wanted} is needed") from None
        # NumPy would accept the string "1" and true as numbers.
        if found.ndim != 1 or not np.isfinite(found).all() or any(type(one) not in (int, float) for one in self.value):
            raise self.error(f"{wanted} is needed")
        return found


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
