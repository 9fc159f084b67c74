"""Set operations on RLE masks, and cropping, pasting and shifting of them, without decoding to pixels.

`fastsam_core.rle` exports these functions. Each takes one RLE dict or a list of them and returns the same form;
`counts` is str if the first mask's is, else bytes. Two lists are combined item by item. Malformed RLEs raise as
everywhere in `fastsam_core.rle`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops
from ._rle_dicts import RLE, checked_integer, compress_counts, unpack
from ._tensors import to_tensor
from .ops._inputs import MAX_PIXELS

UNION, INTERSECTION, DIFFERENCE, SYMMETRIC_DIFFERENCE = 14, 8, 2, 6


def union(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Return the pixels in `a`, `b` or both. For the union of all masks of one list see `merge`.

    Raises:
        ValueError: lists of different lengths, or pairs of masks of different sizes.
        TypeError: a single mask with a list.
    """
    return _combine(a, b, UNION)


def intersection(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Return the pixels in both `a` and `b`. Raises as `union`."""
    return _combine(a, b, INTERSECTION)


def difference(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Return the pixels in `a` but not in `b`. Raises as `union`."""
    return _combine(a, b, DIFFERENCE)


def symmetric_difference(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> Any:
    """Return the pixels in either `a` or `b`, but not in both. Raises as `union`."""
    return _combine(a, b, SYMMETRIC_DIFFERENCE)


def complement(rles: RLE | Sequence[RLE]) -> Any:
    """Return the pixels outside each mask."""
    counts, offsets, sizes = unpack(rles)
    n = len(sizes)
    full_counts = torch.tensor(
        [[0, height * width] for height, width in sizes], dtype=torch.int64, device="cpu"
    ).reshape(-1)
    combined = ops.rle_combine(
        counts, offsets, full_counts, torch.arange(n + 1, device="cpu") * 2, SYMMETRIC_DIFFERENCE
    )
    return _to_rles(*combined, sizes, rles)


def crop(rles: RLE | Sequence[RLE], windows: Any) -> Any:
    """Crop each mask to a window; the results have the windows' sizes.

    Args:
        rles: masks, of any sizes.
        windows: x, y, width, height of one window for all masks, (4,), or of one per mask, (N, 4); integers. A window
            may reach beyond the mask, where the result is background.

    Raises:
        ValueError: windows of another shape, or of a negative size.
    """
    counts, offsets, sizes = unpack(rles)
    return _crop(counts, offsets, sizes, _integer_rows("windows", windows, len(sizes), 4), rles)


def crop_runs(rles: Sequence[RLE], windows: Any) -> list[NDArray[np.int64]]:
    """Crop as `crop` does, but return run lengths, (R,) int64 per mask, column-major and starting with background."""
    counts, offsets, sizes = unpack(rles)
    heights = torch.tensor([height for height, _ in sizes], dtype=torch.int64, device="cpu")
    cropped, ends = ops.rle_crop(counts, offsets, heights, _integer_rows("windows", windows, len(sizes), 4))
    return np.split(cropped.numpy(), ends[1:-1].tolist()) if sizes else []


def paste(rles: RLE | Sequence[RLE], corners: Any, size: Sequence[int]) -> Any:
    """Paste masks into empty images, the inverse of `crop`: a mask's upper left pixel is placed at the corner.

    Args:
        rles: masks, of any sizes.
        corners: x, y of one corner for all masks, (2,), or of one per mask, (N, 2); integers, which may be negative.
            Pixels outside the image are cut off.
        size: height and width of the images.

    Raises:
        ValueError: corners of another shape, or a size that is not two non-negative integers.
    """
    counts, offsets, sizes = unpack(rles)
    if len(size) != 2:
        raise ValueError(f"size must be height and width; got {len(size)} numbers")
    height, width = checked_integer(size[0], "height"), checked_integer(size[1], "width")
    if height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {height} x {width} has more pixels than the limit of {MAX_PIXELS}")
    corners_xy = _integer_rows("corners", corners, len(sizes), 2)
    image_wh = torch.tensor([[width, height]], dtype=torch.int64, device="cpu").expand(len(sizes), 2)
    return _crop(counts, offsets, sizes, torch.cat([-corners_xy, image_wh], 1), rles)


def translate(rles: RLE | Sequence[RLE], shifts: Any) -> Any:
    """Shift masks within their image by x to the right and y down; pixels that leave the image are cut off.

    Args:
        rles: masks, of any sizes.
        shifts: x, y for all masks, (2,), or for each mask, (N, 2); integers.

    Raises:
        ValueError: shifts of another shape.
    """
    counts, offsets, sizes = unpack(rles)
    shifts_xy = _integer_rows("shifts", shifts, len(sizes), 2)
    image_wh = torch.tensor(sizes, dtype=torch.int64, device="cpu").reshape(-1, 2).flip(1)
    return _crop(counts, offsets, sizes, torch.cat([-shifts_xy, image_wh], 1), rles)


def _combine(a: Any, b: Any, truth_table: int) -> Any:
    if isinstance(a, Mapping) != isinstance(b, Mapping):
        raise TypeError("both must be single RLE dicts, or both lists of them")
    a_counts, a_offsets, sizes = unpack(a)
    b_counts, b_offsets, b_sizes = unpack(b)
    if len(sizes) != len(b_sizes):
        raise ValueError(f"both sides must have the same number of masks; got {len(sizes)} and {len(b_sizes)}")
    for index, (a_size, b_size) in enumerate(zip(sizes, b_sizes, strict=True)):
        if a_size != b_size:
            raise ValueError(f"the masks of a pair must have the same size; pair {index} has {a_size} and {b_size}")
    return _to_rles(*ops.rle_combine(a_counts, a_offsets, b_counts, b_offsets, truth_table), sizes, a)


def _crop(counts: Tensor, offsets: Tensor, sizes: list[tuple[int, int]], windows: Tensor, template: Any) -> Any:
    heights = torch.tensor([height for height, _ in sizes], dtype=torch.int64, device="cpu")
    cropped = ops.rle_crop(counts, offsets, heights, windows)
    return _to_rles(*cropped, [(height, width) for width, height in windows[:, 2:].tolist()], template)


def _to_rles(counts: Tensor, offsets: Tensor, sizes: list[tuple[int, int]], template: Any) -> Any:
    first = template if isinstance(template, Mapping) else next(iter(template), None)
    as_str = first is not None and isinstance(first["counts"], str)
    rles = [
        {"size": [height, width], "counts": text.decode("ascii") if as_str else text}
        for (height, width), text in zip(sizes, compress_counts(counts, offsets), strict=True)
    ]
    return rles[0] if isinstance(template, Mapping) else rles


def _integer_rows(name: str, values: Any, n: int, columns: int) -> Tensor:
    """Convert integers (columns,) or (n, columns) to int64 (n, columns); ValueError for others, which names `name`."""
    tensor = to_tensor(values)
    if n == tensor.numel() == 0:  # an empty list, which PyTorch takes for floating-point numbers
        return torch.empty(0, columns, dtype=torch.int64, device="cpu")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, not {tensor.dtype}")
    if tensor.shape not in ((columns,), (n, columns)):
        raise ValueError(f"{name} must be ({columns},) or ({n}, {columns}); got {tuple(tensor.shape)}")
    return tensor.to("cpu", torch.int64).expand(n, columns)
