"""Parsers of options: each is called with the name and the value that the user gave, and returns the converted value.

Values of a wrong type raise TypeError, others that are not accepted ValueError.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._limits import MAX_INPUT_SIDE
from ._log import warn_once

if TYPE_CHECKING:
    import torch

Parser = Callable[[str, Any], Any]

_MAX_CLASS_ID = 2**31 - 1
_DTYPES = ("float32", "float16", "bfloat16")
_SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _type_error(key: str, value: Any, accepted: str) -> TypeError:
    return TypeError(f"{key} must be {accepted}, not {value!r} ({type(value).__name__})")


def boolean(key: str, value: Any) -> bool:
    is_bool = type(value).__name__ in ("bool", "bool_")  # Python's, and NumPy's
    if not is_bool and not (isinstance(value, numbers.Integral) and value in (0, 1)):
        hint = "; box prompts are called bboxes" if key == "show_boxes" else ""
        raise _type_error(key, value, f"True or False{hint}")
    return bool(value)


def to_float(value: Any) -> float:
    """Return a real number as a float; infinity for integers and fractions that are too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def number(low: float | None = None, high: float | None = None) -> Parser:
    """Return a parser of finite real numbers in [low, high]."""

    def parse(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise _type_error(key, value, "a number")
        number = to_float(value)
        if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
            if low is None:
                bounds = "" if high is None else f" of at most {high:g}"
            else:
                bounds = f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
            raise ValueError(f"{key} must be a finite number{bounds}, not {value!r}")
        return number

    return parse


def integer(low: int, high: int | None = None) -> Parser:
    """Return a parser of integers in [low, high]."""

    def parse(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _type_error(key, value, "an integer")
        number = int(value)
        if number < low or (high is not None and number > high):
            bound = f"at least {low}" if number < low else f"at most {high}"
            raise ValueError(f"{key} must be {bound}, not {value!r}")
        return number

    return parse


def string(key: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise _type_error(key, value, "text")
    return str(value)


def unchecked(key: str, value: Any) -> Any:
    return value


def device(key: str, value: Any) -> Any:
    import torch

    if isinstance(value, bool) or not isinstance(value, str | int | torch.device):
        raise _type_error(key, value, 'a device such as "cpu", "cuda", "cuda:1" or 0')
    return value


def dtype(key: str, value: Any) -> torch.dtype:
    import torch  # not at module level: the command line imports this module, and `fastsam help` needs no torch

    name = str(value).lower().removeprefix("torch.")
    name = _SHORT_DTYPES.get(name, name)
    if name not in _DTYPES:
        raise ValueError(f"{key} must be float32, float16 or bfloat16, not {value!r}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def dtype_from_bits(key: str, value: Any) -> torch.dtype | None:
    if value is None:
        return None
    if value not in (16, 32):
        raise ValueError(f"{key} must be 16 (half precision on a GPU) or 32 (the default), not {value!r}")
    return dtype(key, "float16" if value == 16 else "float32")


def _check_side(key: str, value: Any, sides: list[Any], smallest: int) -> None:
    """Raise ValueError unless sides are in 1..MAX_INPUT_SIDE. smallest: least size after rounding, for the message."""
    if min(sides) < 1 or max(sides) > MAX_INPUT_SIDE:
        bound = f"at least {smallest}" if min(sides) < 1 else f"at most {MAX_INPUT_SIDE}"
        raise ValueError(f"{key} must be {bound}, not {value!r}")


def image_size(key: str, value: Any) -> int:
    """Parse the side of a square input in pixels, rounded up to a multiple of 16, the patch size."""
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if any(isinstance(side, bool) or not isinstance(side, numbers.Integral) for side in sides):
        raise _type_error(key, value, "an integer, in pixels")
    if not 1 <= len(sides) <= 2 or len(set(sides)) != 1:
        raise ValueError(f"{key} must be one number or two equal ones (the model's input is square), not {value!r}")
    _check_side(key, value, sides, 16)
    size = -(-int(sides[0]) // 16) * 16
    if size != sides[0]:
        warn_once(f"{key}={sides[0]} is not a multiple of 16; using {size}")
    return size


def input_size(key: str, value: Any) -> tuple[int, int]:
    """Parse (height, width) in pixels, each rounded up to a multiple of 32, the largest stride of the three levels."""
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, numbers.Integral) for side in sides):
        raise _type_error(key, value, "an integer, in pixels, or (height, width)")
    _check_side(key, value, sides, 32)
    height, width = (-(-int(side) // 32) * 32 for side in sides)
    if [height, width] != sides:
        warn_once(f"{key}={value} is not a multiple of 32; using {height if height == width else (height, width)}")
    return height, width


def class_ids(key: str, value: Any) -> tuple[int, ...]:
    given = value.tolist() if hasattr(value, "tolist") else value  # an array or tensor
    values = list(given) if isinstance(given, list | tuple | set | frozenset | range) else [given]
    if any(
        isinstance(class_id, bool) or not isinstance(class_id, numbers.Integral) or class_id < 0 for class_id in values
    ):
        raise _type_error(key, value, "a class id, or a list of them")
    if values and max(values) > _MAX_CLASS_ID:
        raise ValueError(f"{key}: class ids are at most {_MAX_CLASS_ID}, not {max(values)}")
    return tuple(sorted({int(class_id) for class_id in values}))


def network_task(key: str, value: Any) -> str:
    if value not in ("detect", "segment"):
        raise ValueError(f"{key} must be detect or segment, not {value!r}")
    return str(value)


def task(key: str, value: Any) -> str:
    if value != "segment":
        warn_once(f"task={value!r} has no effect; Segment Anything models only do 'segment'")
    return "segment"
