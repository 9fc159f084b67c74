"""Set operations on run-length masks, and cropping, in plain PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .._inputs import MAX_PIXELS, check_truth, check_windows
from .reference_masks import check_one_size, joined, run_ends, runs_between


def rle_combine(
    a_counts: Tensor, a_offsets: Tensor, b_counts: Tensor, b_offsets: Tensor, truth: int
) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_combine`."""
    check_truth(truth)
    _, _, a_ends = run_ends(a_counts, a_offsets)
    _, _, b_ends = run_ends(b_counts, b_offsets)
    if a_offsets.shape != b_offsets.shape:
        raise ValueError("both sides must have the same number of masks")
    table = torch.tensor([bool(truth >> case & 1) for case in range(4)], device=a_counts.device)
    found = []
    sides = zip(pairwise(a_offsets.tolist()), pairwise(b_offsets.tolist()), strict=True)
    for (a_begin, a_end), (b_begin, b_end) in sides:
        a, b = a_ends[a_begin:a_end], b_ends[b_begin:b_end]
        total = check_one_size(a.new_tensor([0, len(a)]), a, b.new_tensor([0, len(b)]), b)
        edges = torch.unique(torch.cat([a.new_zeros(1), a, b]))
        # A mask is set after an edge if it has changed an odd number of times up to there.
        sets = [(torch.searchsorted(ends, edges, right=True) % 2) * (edges < total) for ends in (a, b)]
        inside = table[sets[0] + 2 * sets[1]]
        found.append(runs_between(edges, inside, total))
    return joined(found, a_offsets)


def rle_crop(counts: Tensor, offsets: Tensor, heights: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_crop`."""
    _, _, ends = run_ends(counts, offsets)
    check_windows(heights, windows, offsets.shape[0] - 1)
    found = []
    for (begin, end), height, window in zip(
        pairwise(offsets.tolist()), heights.tolist(), windows.tolist(), strict=True
    ):
        x, y, wide, high = window
        if min(wide, high) < 0 or max(wide, high) > MAX_PIXELS // 2 or wide * high > MAX_PIXELS:
            raise ValueError("the sides of a window must not be negative, nor their product too large")
        if max(abs(x), abs(y)) > MAX_PIXELS // 2:
            raise ValueError("the corner of a window is too far away")
        last = ends[begin:end]
        total = int(last[-1]) if len(last) else 0
        if total and (height <= 0 or total % height):
            raise ValueError("the runs of a mask sum to no multiple of its height")
        stops, starts = last[1::2], last[:-1:2][: len(last) // 2]
        stops, starts = stops[stops > starts], starts[stops > starts]
        # A run that spans k columns is split into k parts, one per column.
        first = starts // max(height, 1)
        spanned = (stops - 1) // max(height, 1) - first + 1
        before = torch.repeat_interleave(spanned.cumsum(0) - spanned - first, spanned)
        columns = torch.arange(before.shape[0], device=counts.device) - before
        column_starts = columns * height
        tops = (torch.repeat_interleave(starts, spanned) - column_starts).clamp(min=max(0, y))
        bottoms = (torch.repeat_interleave(stops, spanned) - column_starts).clamp(max=min(height, y + high))
        chosen = (columns >= x) & (columns < x + wide) & (bottoms > tops)
        shift = (columns[chosen] - x) * high - y
        edges = torch.stack([tops[chosen] + shift, bottoms[chosen] + shift], 1).flatten()
        inside = torch.arange(edges.shape[0], device=counts.device) % 2 == 0
        # Where one part ends exactly where the next begins, keep the second edge: the foreground continues.
        kept = edges != torch.cat([edges[1:], edges.new_full((1,), -1)])[: edges.shape[0]]
        found.append(runs_between(edges[kept], inside[kept], wide * high))
    return joined(found, offsets)
