"""Set operations on run-length masks, and cropping, in plain PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .._inputs import MAX_PIXELS, check_truth_table, check_windows
from .reference_masks import check_one_size, concatenate_runs, run_ends, runs_between

# Most parts into which a window cuts the runs of one mask, which limits memory.
_MAX_PARTS = 1 << 30


def rle_combine(
    a_counts: Tensor, a_offsets: Tensor, b_counts: Tensor, b_offsets: Tensor, truth: int
) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_combine`."""
    check_truth_table(truth)
    _, _, a_ends = run_ends(a_counts, a_offsets, "a_counts")
    _, _, b_ends = run_ends(b_counts, b_offsets, "b_counts")
    if a_offsets.shape != b_offsets.shape:
        raise ValueError("both sides must have the same number of masks")
    truth_table = torch.tensor([bool(truth >> case & 1) for case in range(4)], device=a_counts.device)
    results = []
    ranges = zip(pairwise(a_offsets.tolist()), pairwise(b_offsets.tolist()), strict=True)
    for (a_begin, a_end), (b_begin, b_end) in ranges:
        a, b = a_ends[a_begin:a_end], b_ends[b_begin:b_end]
        total = check_one_size(a.new_tensor([0, len(a)]), a, b.new_tensor([0, len(b)]), b)
        edges = torch.unique(torch.cat([a.new_zeros(1), a, b]))
        # A mask is set after an edge if it has changed an odd number of times up to there.
        is_set = [(torch.searchsorted(ends, edges, right=True) % 2) * (edges < total) for ends in (a, b)]
        inside = truth_table[is_set[0] + 2 * is_set[1]]
        results.append(runs_between(edges, inside, total))
    return concatenate_runs(results, a_offsets)


def rle_crop(counts: Tensor, offsets: Tensor, heights: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_crop`."""
    _, _, ends = run_ends(counts, offsets)
    check_windows(heights, windows, offsets.shape[0] - 1)
    results = []
    for (begin, end), height, window in zip(
        pairwise(offsets.tolist()), heights.tolist(), windows.tolist(), strict=True
    ):
        x, y, w, h = window
        if min(w, h) < 0 or max(w, h) > MAX_PIXELS // 2 or w * h > MAX_PIXELS:
            raise ValueError("the sides of a window must not be negative, nor their product too large")
        if max(abs(x), abs(y)) > MAX_PIXELS // 2:
            raise ValueError("the corner of a window is too far away")
        mask_ends = ends[begin:end]
        total = int(mask_ends[-1]) if len(mask_ends) else 0
        if total and (height <= 0 or total % height):
            raise ValueError("the runs of a mask sum to no multiple of its height")
        starts, stops = mask_ends[:-1:2][: len(mask_ends) // 2], mask_ends[1::2]
        tops, bottoms = _visible_parts(starts, stops, height, total, window)
        edges = torch.stack([tops, bottoms], 1).flatten()
        inside = torch.arange(edges.shape[0], device=counts.device) % 2 == 0
        # Where one part ends exactly where the next begins, keep the second edge: the foreground continues.
        kept = edges != torch.cat([edges[1:], edges.new_full((1,), -1)])[: edges.shape[0]]
        results.append(runs_between(edges[kept], inside[kept], w * h))
    return concatenate_runs(results, offsets)


def _visible_parts(starts: Tensor, stops: Tensor, height: int, total: int, window: list[int]) -> tuple[Tensor, Tensor]:
    """Return the starts and ends, within a window (x, y, width, height), of a mask's foreground runs.

    The mask has `total` pixels. Only runs in the window's columns are looked at.
    """
    x, y, w, h = window
    columns = total // height if total else 0
    left, right = (min(max(column, 0), columns) * height for column in (x, x + w))
    starts, stops = starts.clamp(min=left), stops.clamp(max=right)
    starts, stops = starts[stops > starts], stops[stops > starts]
    if starts.numel() == 0:
        return starts, stops
    if (y, h) == (0, height):  # whole columns: a run stays one run
        return starts - x * h, stops - x * h
    # A run that spans k columns is split into k parts, one per column.
    first_column = starts // height
    num_columns = (stops - 1) // height - first_column + 1
    if int(num_columns.sum()) > _MAX_PARTS:
        raise ValueError(f"the window cuts a mask into more than {_MAX_PARTS} runs")
    column_offsets = torch.repeat_interleave(num_columns.cumsum(0) - num_columns - first_column, num_columns)
    column = torch.arange(column_offsets.shape[0], device=starts.device) - column_offsets
    tops = (torch.repeat_interleave(starts, num_columns) - column * height).clamp(min=max(0, y))
    bottoms = (torch.repeat_interleave(stops, num_columns) - column * height).clamp(max=min(height, y + h))
    visible = bottoms > tops
    shift = (column[visible] - x) * h - y
    return tops[visible] + shift, bottoms[visible] + shift
