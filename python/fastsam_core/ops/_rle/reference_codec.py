"""Conversion of polygons to run lengths, and of run lengths to and from COCO's compressed strings, in PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .._inputs import MAX_PIXELS, check_polygons, check_ragged, check_size, check_vector
from .reference_masks import check_offsets, check_totals, concatenate_runs, offsets_of, run_ends

# Most characters that a number takes, of 5 bits each: enough for 64 bits and a sign.
_MAX_DIGITS = 13

# Vertices are rounded to a grid this many times finer than the pixels, as in COCO's rasteriser.
_GRID = 5

# Up to this size, a coordinate times `_GRID` fits int32, in which COCO's rasteriser stores it.
MAX_COORDINATE = 400_000_000

# Most crossings (see `_rasterise_polygon`) of one polygon, which limits memory: each position takes 8 bytes.
MAX_CROSSINGS = 1 << 28


def rle_to_string(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_to_string`."""
    _, index, _ = run_ends(counts, offsets)
    # From the fourth run on, COCO stores the difference to the previous run of the same value, which is mostly small.
    values = counts.clone()
    values[2:] -= torch.where(index[2:] > 2, counts[:-2], 0)
    digits = torch.ones_like(values)
    for n in range(1, _MAX_DIGITS):
        limit = 1 << (5 * n - 1)
        needs_more = (values < -limit) | (values >= limit)
        if not bool(needs_more.any()):
            break
        digits += needs_more
    starts = offsets_of(digits)
    owner = torch.repeat_interleave(torch.arange(values.shape[0], device=values.device), digits)
    digit_index = torch.arange(owner.shape[0], device=values.device) - starts[owner]
    digit = (values[owner] >> (5 * digit_index)) & 31
    has_next = (digit_index < digits[owner] - 1).to(torch.int64)
    return (digit + 32 * has_next + 48).to(torch.uint8), starts[offsets]


def rle_from_string(text: Tensor, offsets: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_from_string`."""
    check_ragged("text", text, offsets, torch.uint8)
    check_vector("pixels", pixels, length=offsets.shape[0] - 1)
    check_offsets(offsets, text.shape[0])
    if bool(((pixels < 0) | (pixels > MAX_PIXELS)).any()):
        raise ValueError(f"pixels must be from 0 to {MAX_PIXELS}")
    codes = text.to(torch.int64) - 48
    if bool(((codes < 0) | (codes > 63)).any()):
        raise ValueError("the text holds characters that are invalid in an RLE; accepted: '0' to 'o'")
    is_last_digit = codes < 32  # no continuation bit: the number ends with this character
    last_characters = offsets[1:][torch.diff(offsets) > 0] - 1
    if not bool(is_last_digit[last_characters].all()):
        raise ValueError("the last number of the text is unterminated: the text was cut off")
    stops = torch.nonzero(is_last_digit)[:, 0]  # (R,)
    starts = torch.cat([stops.new_zeros(1), stops + 1])
    digits = torch.diff(starts)
    if bool((digits > _MAX_DIGITS).any()):
        raise ValueError("the text holds an over-long number: more characters than any run length needs")
    owner = torch.repeat_interleave(torch.arange(digits.shape[0], device=text.device), digits)
    digit_index = torch.arange(codes.shape[0], device=text.device) - starts[owner]
    top_digit, previous_digit = codes[stops], codes[(stops - 1).clamp_(min=0)] if codes.numel() else codes
    # A top digit is redundant if it only repeats the sign: all zeros or all ones, like the bit below it.
    is_redundant = (digits > 1) & (
        ((top_digit == 0) & (previous_digit & 16 == 0)) | ((top_digit == 31) & (previous_digit & 16 != 0))
    )
    # Twelve digits hold 60 bits. With a thirteenth from -4 to 3 they hold every difference of counts up to MAX_PIXELS.
    is_too_large = (digits == _MAX_DIGITS) & (top_digit > 3) & (top_digit < 28)
    if bool((is_redundant | is_too_large).any()):
        raise ValueError("the text holds an over-long number: more characters than its value needs")
    values = torch.zeros_like(stops).index_add_(0, owner, (codes & 31) << (5 * digit_index))
    negative = (top_digit & 16 != 0) & (digits < _MAX_DIGITS)
    values = values - torch.where(negative, 1 << (5 * digits).clamp_(max=60), 0)
    run_offsets = torch.cat([is_last_digit.new_zeros(1, dtype=torch.int64), is_last_digit.cumsum(0)])[offsets]
    counts = _undo_differences(values, run_offsets)
    _, _, ends = run_ends(counts, run_offsets)
    check_totals(run_offsets, ends, pixels)
    return counts, run_offsets


def _undo_differences(values: Tensor, offsets: Tensor) -> Tensor:
    """Return run lengths from stored differences: cumulative sums over every second value, the first run left out."""
    counts = values.clone()
    for begin, end in pairwise(offsets.tolist()):
        for first in (1, 2):
            chain = slice(begin + first, end, 2)
            if begin + first < end:
                sums = values[chain].cumsum(0)
                # No difference exceeds 62 bits, so one step from a valid run can't leave int64. A sum that wraps comes
                # after one that is out of range, for which run_ends raises.
                counts[chain] = sums
    return counts


def rle_from_polygon(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_from_polygon`."""
    check_size(height, width)
    check_polygons(points, offsets)
    check_offsets(offsets, points.shape[0])
    if not bool((points.abs() <= MAX_COORDINATE).all()):
        raise ValueError(f"polygon coordinates must be finite and at most {MAX_COORDINATE} in magnitude")
    return concatenate_runs(
        [_rasterise_polygon(points[a:b], height, width) for a, b in pairwise(offsets.tolist())], offsets
    )


def _rasterise_polygon(points: Tensor, height: int, width: int) -> Tensor:
    """Return the runs of one polygon (P, 2), pixel for pixel as COCO's rasteriser makes them.

    COCO draws every edge on a grid of fifths of a pixel, one dot per step along the edge's longer axis. Where the dots
    pass from one grid column to the next in the middle of a pixel column, a run begins or ends at the first pixel
    below. Only these crossings are computed here, so the cost grows with the pixel columns that an edge crosses, not
    with the number of its dots.
    """
    if points.shape[0] == 0 or height * width == 0:
        return torch.tensor([height * width], dtype=torch.int64, device=points.device)
    corners = (points * _GRID + 0.5).trunc().to(torch.int64)  # (P, 2) grid x, y
    begin, end = corners, corners.roll(-1, 0)
    extent = (end - begin).abs()
    is_flat = extent[:, 0] >= extent[:, 1]
    # An edge is drawn from the end with the smaller coordinate on its longer axis.
    axis = torch.where(is_flat, 0, 1)[:, None]
    is_swapped = begin.gather(1, axis) > end.gather(1, axis)
    begin, end = torch.where(is_swapped, end, begin), torch.where(is_swapped, begin, end)
    # The middle of pixel column x lies between the grid columns 5 x + 2 and 5 x + 3.
    left = torch.minimum(begin[:, 0], end[:, 0])
    right = torch.maximum(begin[:, 0], end[:, 0])
    first = ((left + _GRID - 3).div(_GRID, rounding_mode="floor")).clamp(min=0)
    last = ((right - 3).div(_GRID, rounding_mode="floor")).clamp(max=width - 1)
    crossings = (last - first + 1).clamp(min=0)
    if int(crossings.sum()) > MAX_CROSSINGS:
        raise ValueError(f"a polygon crosses more than {MAX_CROSSINGS} pixel columns")
    edge = torch.repeat_interleave(torch.arange(len(corners), device=points.device), crossings)
    x = torch.arange(edge.shape[0], device=points.device) - offsets_of(crossings)[edge] + first[edge]
    begin, end, is_flat = begin[edge], end[edge], is_flat[edge]
    column = _GRID * x + 2
    y = torch.where(is_flat, _crossing_rows_flat(begin, end, column), _crossing_rows_steep(begin, end, column))
    y = ((y.to(torch.float64) + 0.5) / _GRID - 0.5).clamp(0, height).ceil().to(torch.int64)
    toggles = (x * height + y).sort()[0]
    # Two crossings at the same position cancel: they would enclose an empty run between two of the same value.
    positions, multiplicity = torch.unique_consecutive(toggles, return_counts=True)
    positions = positions[(multiplicity % 2 == 1) & (positions < height * width)]
    return torch.diff(positions, prepend=positions.new_zeros(1), append=positions.new_full((1,), height * width))


def _crossing_rows_flat(begin: Tensor, end: Tensor, column: Tensor) -> Tensor:
    """Return the smaller grid row of the two dots at `column` and `column` + 1, for edges at least as wide as high."""
    width = (end[:, 0] - begin[:, 0]).clamp(min=1)
    slope = (end[:, 1] - begin[:, 1]).to(torch.float64) / width
    step = column - begin[:, 0]
    rows = [(begin[:, 1] + slope * t + 0.5).trunc() for t in (step, step + 1)]
    return torch.minimum(*rows).to(torch.int64)


def _crossing_rows_steep(begin: Tensor, end: Tensor, column: Tensor) -> Tensor:
    """Return the grid row of the last dot before the crossing between `column` and `column` + 1.

    For edges that are higher than wide, by binary search over the dots.
    """
    steps = end[:, 1] - begin[:, 1]
    slope = (end[:, 0] - begin[:, 0]).to(torch.float64) / steps.clamp(min=1)
    rightward = slope > 0
    low, high = torch.zeros_like(steps), steps.clamp(min=0)  # the first dot past the crossing lies in (low, high]
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        dot = (begin[:, 0] + slope * middle + 0.5).trunc().to(torch.int64)
        past = torch.where(rightward, dot > column, dot <= column)
        low, high = torch.where(past, low, middle), torch.where(past, middle, high)
    return begin[:, 1] + high - 1
