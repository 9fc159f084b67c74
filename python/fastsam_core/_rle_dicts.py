"""Conversion between COCO RLE dicts and run lengths, with the checks and error messages for malformed ones."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ops
from .ops._inputs import MAX_PIXELS
from .ops._native import cpu_module

RLE = dict[str, Any]

HINT = (
    "Common causes: backslashes that JSON escaped twice, the text of a Python bytes literal (b'...') in place of the "
    "text itself, a string that was cut off, and a size given as [width, height]."
)

# The compiled module reads plain dicts directly: going through tensors and PyTorch's dispatcher would take many times
# as long as processing the mask.
native: Any = cpu_module


def call_native(function: str, *args: Any) -> Any:
    """Call the compiled module's fast path for plain dicts.

    Returns None if there is no compiled module or it doesn't take this input; the caller then runs the general path.
    """
    return None if native is None else getattr(native, function)(*args)


def unpack(rles: Any) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Check one RLE or a list of N and return their run lengths (R,), offsets (N + 1,) and sizes (height, width).

    Raises ValueError for malformed RLEs, naming the item in a list, and TypeError for anything but dicts.
    """
    native_runs = call_native("coco_runs", rles)
    if native_runs is not None:
        counts, offsets, heights, widths = native_runs
        return (
            torch.from_numpy(counts),
            torch.from_numpy(offsets),
            list(zip(heights.tolist(), widths.tolist(), strict=True)),
        )
    rle_dicts = [rles] if isinstance(rles, Mapping) else rles
    if not isinstance(rle_dicts, (list, tuple)):
        raise TypeError(f"expected an RLE dict or a list of them; got {type(rles).__name__}")
    sizes = [checked_size(item) for item in rle_dicts]
    texts = [counts_as_bytes(item) for item in rle_dicts]
    offsets = torch.tensor([0, *np.cumsum([len(text) for text in texts], dtype=np.int64).tolist()], device="cpu")
    joined = bytearray().join(texts)
    characters = (
        torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8, device="cpu")
    )
    pixels = torch.tensor([height * width for height, width in sizes], dtype=torch.int64, device="cpu")
    try:
        counts, run_offsets = ops.rle_from_string(characters, offsets, pixels)
    except ValueError as error:
        if len(rle_dicts) > 1:
            _raise_first_malformed(rle_dicts)
        raise ValueError(f"malformed RLE {str(rle_dicts[0])[:120]}: {error}. {HINT}") from None
    return counts, run_offsets, sizes


def _raise_first_malformed(items: Sequence[RLE]) -> None:
    """Raise the error of the first malformed item, with its index."""
    for number, item in enumerate(items):
        try:
            unpack(item)
        except ValueError as error:
            raise ValueError(f"item {number}: {error}") from None


def checked_size(rle: Any) -> tuple[int, int]:
    """Return the checked (height, width) of an RLE dict."""
    if not isinstance(rle, Mapping):
        raise TypeError(f"an RLE is a dict with 'size' and 'counts'; got {type(rle).__name__}")
    for key in ("size", "counts"):
        if key not in rle:
            raise ValueError(f"an RLE needs the keys 'size' and 'counts'; {key!r} is missing")
    size = rle["size"]
    is_list = isinstance(size, (list, tuple)) or (isinstance(size, np.ndarray) and size.ndim == 1)
    if not is_list or len(size) != 2:
        raise ValueError(f"an RLE's size must be [height, width]; got {str(size)[:80]}")
    height, width = checked_integer(size[0], "height"), checked_integer(size[1], "width")
    if height * width > MAX_PIXELS:
        raise ValueError(f"an RLE of {height} x {width} has more pixels than the limit of {MAX_PIXELS}")
    return height, width


def checked_integer(value: Any, name: str) -> int:
    """Return `value` as an integer in 0..MAX_PIXELS. Raises ValueError, which calls it `name`, for anything else."""
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be an integer, not {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, not {str(value)[:80]!r}") from None
    if not 0 <= number <= MAX_PIXELS:
        raise ValueError(f"{name} must be from 0 to {MAX_PIXELS}; got {str(number)[:40]}")
    return number


def counts_as_bytes(rle: Any) -> bytes:
    """Return the compressed counts of an RLE dict as bytes. Raises ValueError for anything but ASCII text."""
    counts = rle["counts"]
    if isinstance(counts, str):
        try:
            return counts.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError(f"an RLE's counts must be ASCII text; got {counts[:80]!r}. {HINT}") from None
    if isinstance(counts, (bytes, bytearray)):
        return bytes(counts)
    if isinstance(counts, (list, tuple, np.ndarray)):
        raise ValueError("this RLE is uncompressed: its counts are a list of run lengths; give it to frPyObjects first")
    raise ValueError(f"an RLE's counts must be str or bytes; got {type(counts).__name__}")


def compress_counts(counts: Tensor, offsets: Tensor) -> list[bytes]:
    """Compress the run lengths (R,) of N masks, with offsets (N + 1,), to one text per mask."""
    # On the CPU, because text encoding has no GPU implementation.
    characters, text_offsets = ops.rle_to_string(counts.cpu(), offsets.cpu())
    text = characters.numpy().tobytes()
    bounds = text_offsets.tolist()
    return [text[begin:end] for begin, end in pairwise(bounds)]


def common_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the common size of all masks, (0, 0) for none. Raises ValueError if sizes differ."""
    if len(set(sizes)) > 1:
        raise ValueError(f"the masks must all have the same size; got {sorted(set(sizes))[:4]}")
    return sizes[0] if sizes else (0, 0)
