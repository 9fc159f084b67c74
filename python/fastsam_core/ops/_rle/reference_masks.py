"""Encoding, decoding and measuring of run lengths in plain PyTorch, and helpers for the other operations on them.

N masks are two int64 tensors: `counts` (R,) holds their run lengths one after the other, `offsets` (N + 1,) says where
each mask's runs begin. Runs alternate background, foreground, starting with background, and go down the columns
(column-major, as in COCO). A position p in a mask is the pixel (y = p % H, x = p // H). The end of a run is the
position after its last pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import MAX_PIXELS, check_masks, check_memory, check_ragged, check_size, check_vector


def rle_encode(masks: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.rle_encode`."""
    check_masks(masks)
    n, height, width = masks.shape
    device = masks.device
    if height * width == 0:
        return torch.zeros(n, dtype=torch.int64, device=device), torch.arange(n + 1, device=device)
    masks = masks.detach() if masks.dtype == torch.bool else masks.detach() != 0
    # Number the positions of all masks consecutively, with one extra position per mask for the end of its last run.
    span = height * width + 1
    ends = torch.arange(1, n + 1, device=device) * span - 1
    edges = torch.cat([*_change_positions(masks, span), ends]).sort()[0]
    mask_index = edges // span
    counts = torch.diff(edges, prepend=edges.new_full((1,), -1))
    offsets = offsets_of(torch.bincount(mask_index, minlength=n))
    counts[offsets[:-1]] -= 1  # the extra position between the previous mask's end and this mask's start
    return counts, offsets


def _change_positions(masks: Tensor, span: int) -> list[Tensor]:
    """Return where a pixel differs from its predecessor in column-major order: mask index * span + position, unsorted.

    The predecessor of a mask's first pixel counts as background. The results are to be concatenated.
    """
    n, height, width = masks.shape
    if masks.stride(1) <= masks.stride(2):  # the columns are contiguous: compare along them
        columns = masks.transpose(1, 2).reshape(n, height * width)
        changed = (columns ^ torch.cat([columns.new_zeros(n, 1), columns[:, :-1]], 1)).contiguous()
        positions = _true_positions(changed)
        return [positions + positions // (span - 1)]
    # The predecessor is the pixel above or, in the top row, the bottom pixel of the column to the left. Comparing row
    # by row like this needs no transposed copy of the mask.
    left_column_bottom = torch.cat([masks.new_zeros(n, 1), masks[:, -1, :-1]], 1)  # (N, W)
    mask_index, x = torch.nonzero(masks[:, 0] ^ left_column_bottom, as_tuple=True)
    inner = _true_positions((masks[:, 1:] ^ masks[:, :-1]).contiguous())
    row, inner_x = inner // width, inner % width
    inner_mask_index, y = row // max(1, height - 1), row % max(1, height - 1) + 1
    return [mask_index * span + x * height, inner_mask_index * span + inner_x * height + y]


def _true_positions(flags: Tensor) -> Tensor:
    """Return the flat indices of True in a contiguous bool tensor with its own storage.

    Tests eight bytes at a time, because few are True.
    """
    flat = flags.view(-1)
    whole = flat.shape[0] // 8 * 8
    words = flat[:whole].view(torch.int64).nonzero()[:, 0]
    word, byte = flat[:whole].view(-1, 8)[words].nonzero(as_tuple=True)
    return torch.cat([words[word] * 8 + byte, flat[whole:].nonzero()[:, 0] + whole])


def rle_decode(counts: Tensor, offsets: Tensor, height: int, width: int, column_major: bool = False) -> Tensor:
    """See `fastsam_core.ops.rle_decode`."""
    check_size(height, width)
    _, index, ends = run_ends(counts, offsets)
    n = offsets.shape[0] - 1
    check_totals(offsets, ends, torch.full_like(offsets[1:], height * width))
    check_memory(n * height * width)
    columns = torch.repeat_interleave((index % 2).to(torch.bool), counts).view(n, width, height)
    masks = columns.transpose(1, 2)  # (N, H, W)
    return masks if column_major else masks.contiguous()


def rle_area(counts: Tensor, offsets: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_area`."""
    mask_index, index, _ = run_ends(counts, offsets)
    foreground = torch.where(index % 2 == 1, counts, 0)
    return torch.zeros_like(offsets[1:]).index_add_(0, mask_index, foreground)


def rle_to_bbox(counts: Tensor, offsets: Tensor, heights: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_to_bbox`."""
    mask_index, index, ends = run_ends(counts, offsets)
    check_vector("heights", heights, length=offsets.shape[0] - 1)
    is_foreground = (index % 2 == 1) & (counts > 0)
    mask_index, last, first = mask_index[is_foreground], ends[is_foreground] - 1, (ends - counts)[is_foreground]
    height = heights[mask_index]
    if bool((height <= 0).any()):
        raise ValueError("a mask of height 0 has foreground runs; its height must be positive")
    left, right = first // height, last // height
    # A run that continues in a second column touches the bottom of the first and the top of the second.
    top = torch.where(left == right, first % height, 0)
    bottom = torch.where(left == right, last % height, height - 1)

    def per_mask(values: Tensor, reduction: str) -> Tensor:
        return torch.zeros_like(offsets[1:]).scatter_reduce_(0, mask_index, values, reduction, include_self=False)

    x, y = per_mask(left, "amin"), per_mask(top, "amin")
    is_set = torch.zeros_like(offsets[1:]).index_fill_(0, mask_index, 1)
    return torch.stack([x, y, per_mask(right, "amax") - x + is_set, per_mask(bottom, "amax") - y + is_set], 1)


def rle_iou(dt_counts: Tensor, dt_offsets: Tensor, gt_counts: Tensor, gt_offsets: Tensor, iscrowd: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_iou`."""
    dt_mask_index, dt_index, dt_ends = run_ends(dt_counts, dt_offsets, "dt_counts")
    gt_mask_index, gt_index, gt_ends = run_ends(gt_counts, gt_offsets, "gt_counts")
    n_dt, n_gt = dt_offsets.shape[0] - 1, gt_offsets.shape[0] - 1
    check_vector("iscrowd", iscrowd, torch.bool, n_gt)
    check_one_size(dt_offsets, dt_ends, gt_offsets, gt_ends)
    dt_area = rle_area(dt_counts, dt_offsets)
    gt_area = rle_area(gt_counts, gt_offsets)
    foreground = gt_index % 2 == 1
    last, first, mask_index = gt_ends[foreground], (gt_ends - gt_counts)[foreground], gt_mask_index[foreground]
    intersection = dt_counts.new_zeros(n_dt, n_gt)
    for d in range(n_dt):
        of_mask = dt_mask_index == d
        # Foreground pixels before a position are those of all runs before, and part of the run that it lies in.
        ends, is_set = dt_ends[of_mask], (dt_index[of_mask] % 2 == 1).to(torch.int64)
        cumulative = (dt_counts[of_mask] * is_set).cumsum(0)  # after each run
        if ends.numel() == 0:
            continue

        def foreground_before(
            position: Tensor,
            ends: Tensor = ends,
            is_set: Tensor = is_set,
            cumulative: Tensor = cumulative,
        ) -> Tensor:
            run = torch.searchsorted(ends, position).clamp_(max=ends.numel() - 1)
            return cumulative[run] - (ends[run] - position) * is_set[run]

        intersection[d].index_add_(0, mask_index, foreground_before(last) - foreground_before(first))
    union = dt_area[:, None] + gt_area[None, :] - intersection
    union = torch.where(iscrowd[None, :], dt_area[:, None], union)
    return torch.where(intersection > 0, intersection.to(torch.float64) / union.to(torch.float64), 0.0)


def rle_merge(counts: Tensor, offsets: Tensor, intersect: bool = False) -> Tensor:
    """See `fastsam_core.ops.rle_merge`."""
    _, index, ends = run_ends(counts, offsets)
    n = offsets.shape[0] - 1
    if n == 0:
        return counts.new_empty(0)
    total = check_one_size(offsets, ends)
    foreground = (index % 2 == 1) & (counts > 0)
    last, first = ends[foreground], (ends - counts)[foreground]
    # The number of masks that cover the pixels from each edge to the next.
    edges, edge = torch.unique(torch.cat([first, last]), return_inverse=True)
    steps = torch.cat([torch.ones_like(first), -torch.ones_like(last)])
    cover = torch.zeros_like(edges).index_add_(0, edge, steps).cumsum(0)
    inside = cover == n if intersect else cover > 0
    return runs_between(edges, inside, total)


def runs_between(edges: Tensor, inside: Tensor, total: int) -> Tensor:
    """Return the run lengths of a mask of `total` pixels that has the value inside[i] from edges[i] to edges[i + 1].

    Edges must ascend, the mask is background before the first one, and `inside` must be False for the last one.
    """
    toggles = edges[inside != torch.cat([inside.new_zeros(1), inside])[:-1]]
    starts = torch.cat([toggles.new_zeros(1), toggles])
    runs = torch.cat([toggles, toggles.new_full((1,), total)]) - starts
    # If the last pixel is foreground, no empty background run follows.
    return runs[:-1] if toggles.numel() and int(runs[-1]) == 0 else runs


def check_one_size(*pairs: Tensor) -> int:
    """Return the number of pixels that all masks of the (offsets, ends) pairs have; ValueError if it differs.

    0 if there are no masks.
    """
    totals = torch.cat([_totals(offsets, ends) for offsets, ends in zip(pairs[::2], pairs[1::2], strict=True)])
    if totals.numel() and bool((totals != totals[0]).any()):
        raise ValueError(f"the masks must all have the same size; got pixel counts {torch.unique(totals).tolist()}")
    return int(totals[0]) if totals.numel() else 0


def run_ends(counts: Tensor, offsets: Tensor, name: str = "counts") -> tuple[Tensor, Tensor, Tensor]:
    """Return for each run the index of its mask, its index within that mask, and its end; all (R,) int64.

    Raises ValueError for wrong shapes and dtypes, naming `name` as the argument, and for offsets that don't fit,
    negative runs, and sums above `MAX_PIXELS`.
    """
    check_ragged(name, counts, offsets)
    check_offsets(offsets, counts.shape[0])
    if bool(((counts < 0) | (counts > MAX_PIXELS)).any()):
        raise ValueError(f"run lengths must be from 0 to {MAX_PIXELS}")
    lengths = torch.diff(offsets)
    mask_index = torch.repeat_interleave(torch.arange(lengths.shape[0], device=counts.device), lengths)
    index = torch.arange(counts.shape[0], device=counts.device) - offsets[mask_index]
    ends = counts.cumsum(0)
    # The sum over all masks may wrap around, which the subtraction undoes. Within one mask, the first end that is too
    # large still fits int64, so it is detected before later ones can wrap.
    ends = ends - torch.cat([ends.new_zeros(1), ends])[offsets[mask_index]]
    if bool(((ends < 0) | (ends > MAX_PIXELS)).any()):
        raise ValueError(f"the runs of a mask sum to more than {MAX_PIXELS}")
    return mask_index, index, ends


def check_offsets(offsets: Tensor, total: int) -> None:
    """Raise ValueError unless the offsets rise from 0 to `total`."""
    if int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((torch.diff(offsets) < 0).any()):
        raise ValueError(f"offsets must rise from 0 to {total}, the number of values")


def check_totals(offsets: Tensor, ends: Tensor, pixels: Tensor) -> None:
    """Raise ValueError unless the runs of each mask n sum to pixels[n]."""
    totals = _totals(offsets, ends)
    wrong = torch.nonzero(totals != pixels)
    if wrong.numel():
        n = int(wrong[0])
        raise ValueError(f"the runs of mask {n} sum to {int(totals[n])}, but its size has {int(pixels[n])} pixels")


def _totals(offsets: Tensor, ends: Tensor) -> Tensor:
    """Return the end of each mask's last run, 0 for a mask without runs; (N,)."""
    return torch.cat([ends.new_zeros(1), ends])[offsets[1:]].masked_fill(torch.diff(offsets) == 0, 0)


def concatenate_runs(run_lists: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the runs of several masks; return counts and offsets, int64 on the device of `like`."""
    lengths = torch.tensor([len(runs) for runs in run_lists], dtype=torch.int64, device=like.device)
    return torch.cat([like.new_empty(0), *run_lists]), offsets_of(lengths)


def offsets_of(lengths: Tensor) -> Tensor:
    """Return the offsets (N + 1,) of N concatenated lists of these lengths."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
