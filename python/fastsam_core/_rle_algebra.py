"""Set operations on RLE masks, and windows of them; pixels are never made. `fastsam_core.rle` offers them.

Each function takes one RLE dict or a list of them and gives the same back; `counts` is str where the first mask's is,
else bytes. Lists of pairs go item by item. Broken RLEs raise as everywhere in `fastsam_core.rle`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops
from ._rle_dicts import RLE, integer, texts_of, unpack
from ._tensors import tensor_of
from .ops._inputs import MAX_PIXELS

UNION, INTERSECTION, DIFFERENCE, SYMMETRIC_DIFFERENCE = 14, 8, 2, 6


def union(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Pixels of `a`, of `b`, or of both. For the union of all masks of one list see `merge`.

    Raises:
        ValueError: lists of different lengths, or masks of different sizes.
    """
    return _combine(a, b, UNION)


def intersection(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Pixels of both `a` and `b`. Raises as `union`."""
    return _combine(a, b, INTERSECTION)


def difference(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Pixels of `a` that are not of `b`. Raises as `union`."""
    return _combine(a, b, DIFFERENCE)


def symmetric_difference(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Pixels of `a` or of `b`, but not of both. Raises as `union`."""
    return _combine(a, b, SYMMETRIC_DIFFERENCE)


def complement(rles: RLE | Sequence[RLE]) -> Any:
    """Pixels that are not of the mask."""
    counts, offsets, sizes = unpack(rles)
    n = len(sizes)
    full = torch.tensor([[0, height * width] for height, width in sizes], dtype=torch.int64, device="cpu").reshape(-1)
    found = ops.rle_combine(counts, offsets, full, torch.arange(n + 1, device="cpu") * 2, SYMMETRIC_DIFFERENCE)
    return _packed(*found, sizes, rles)


def crop(rles: RLE | Sequence[RLE], windows: Any) -> Any:
    """What a window shows of each mask: masks of the windows' sizes, the picture's other pixels left out.

    Args:
        rles: masks, of any sizes.
        windows: x, y, width, height of one window for all masks, (4,), or of each mask, (N, 4); integers. A window may
            leave the mask; there it shows background.

    Raises:
        ValueError: windows of another shape, or of a negative size.
    """
    counts, offsets, sizes = unpack(rles)
    return _cut(counts, offsets, sizes, _integers("windows", windows, len(sizes), 4), rles)


def crop_runs(rles: Sequence[RLE], windows: Any) -> list[NDArray[np.int64]]:
    """As `crop`, but the run lengths themselves, down the columns and from background on: (R,) int64 of each mask."""
    counts, offsets, sizes = unpack(rles)
    heights = torch.tensor([height for height, _ in sizes], dtype=torch.int64, device="cpu")
    cut, ends = ops.rle_crop(counts, offsets, heights, _integers("windows", windows, len(sizes), 4))
    return np.split(cut.numpy(), ends[1:-1].tolist()) if sizes else []


def paste(rles: RLE | Sequence[RLE], corners: Any, size: Sequence[int]) -> Any:
    """Masks put into an empty picture, `crop` undone: the mask's upper left pixel comes to the corner.

    Args:
        rles: masks, of any sizes.
        corners: x, y of one corner for all masks, (2,), or of each mask, (N, 2); integers, which may be negative. What
            lies outside the picture is cut off.
        size: height and width of the picture.

    Raises:
        ValueError: corners of another shape, or a size that isn't two numbers from 0 on.
    """
    counts, offsets, sizes = unpack(rles)
    if len(size) != 2:
        raise ValueError(f"size must be height and width; got {len(size)} numbers")
    height, width = integer(size[0], "height"), integer(size[1], "width")
    if height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {height} x {width} has more pixels than can be counted here ({MAX_PIXELS})")
    at = _integers("corners", corners, len(sizes), 2)
    sides = torch.tensor([[width, height]], dtype=torch.int64, device="cpu").expand(len(sizes), 2)
    return _cut(counts, offsets, sizes, torch.cat([-at, sides], 1), rles)


def translate(rles: RLE | Sequence[RLE], shifts: Any) -> Any:
    """Masks moved within their picture, by x to the right and y down; what leaves it is cut off.

    Args:
        rles: masks, of any sizes.
        shifts: x, y of all masks, (2,), or of each mask, (N, 2); integers.

    Raises:
        ValueError: shifts of another shape.
    """
    counts, offsets, sizes = unpack(rles)
    by = _integers("shifts", shifts, len(sizes), 2)
    sides = torch.tensor(sizes, dtype=torch.int64, device="cpu").reshape(-1, 2).flip(1)
    return _cut(counts, offsets, sizes, torch.cat([-by, sides], 1), rles)


def _combine(a: Any, b: Any, truth: int) -> Any:
    if isinstance(a, Mapping) != isinstance(b, Mapping):
        raise TypeError("both must be single RLE dicts, or both lists of them")
    a_counts, a_offsets, sizes = unpack(a)
    b_counts, b_offsets, b_sizes = unpack(b)
    if len(sizes) != len(b_sizes):
        raise ValueError(f"there must be as many masks on both sides; got {len(sizes)} and {len(b_sizes)}")
    for number, (one, other) in enumerate(zip(sizes, b_sizes, strict=True)):
        if one != other:
            raise ValueError(f"the masks of a pair must have the same size; pair {number} has {one} and {other}")
    return _packed(*ops.rle_combine(a_counts, a_offsets, b_counts, b_offsets, truth), sizes, a)


def _cut(counts: Tensor, offsets: Tensor, sizes: list[tuple[int, int]], windows: Tensor, like: Any) -> Any:
    heights = torch.tensor([height for height, _ in sizes], dtype=torch.int64, device="cpu")
    found = ops.rle_crop(counts, offsets, heights, windows)
    return _packed(*found, [(height, width) for width, height in windows[:, 2:].tolist()], like)


def _packed(counts: Tensor, offsets: Tensor, sizes: list[tuple[int, int]], like: Any) -> Any:
    first = like if isinstance(like, Mapping) else next(iter(like), None)
    as_str = first is not None and isinstance(first["counts"], str)
    rles = [
        {"size": [height, width], "counts": text.decode("ascii") if as_str else text}
        for (height, width), text in zip(sizes, texts_of(counts, offsets), strict=True)
    ]
    return rles[0] if isinstance(like, Mapping) else rles


def _integers(name: str, values: Any, n: int, columns: int) -> Tensor:
    """int64 (n, columns), of (columns,) or (n, columns) integers."""
    tensor = tensor_of(values)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, not {tensor.dtype}")
    if tensor.shape not in ((columns,), (n, columns)):
        raise ValueError(f"{name} must be ({columns},) or ({n}, {columns}); got {tuple(tensor.shape)}")
    return tensor.to("cpu", torch.int64).expand(n, columns)
