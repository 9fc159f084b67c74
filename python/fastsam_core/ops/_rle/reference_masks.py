"""Operations on run lengths in plain PyTorch.

Masks as run lengths: `counts` (R,) int64 holds the runs of N masks one after the other, `offsets` (N + 1,) int64 says
where each mask's runs begin. Runs alternate background, foreground, starting with background, down the columns
(column-major, as in COCO); a position p is the pixel (y = p % H, x = p // H).
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
    # One number line for all masks, with room for each mask's final end, which is a run's end too.
    span = height * width + 1
    ends = torch.arange(1, n + 1, device=device) * span - 1
    edges = torch.cat([*_changes(masks, span), ends]).sort()[0]
    owner = edges // span
    counts = torch.diff(edges, prepend=edges.new_full((1,), -1))
    offsets = offsets_of(torch.bincount(owner, minlength=n))
    counts[offsets[:-1]] -= 1  # from the end of the mask before to the start of this one
    return counts, offsets


def _changes(masks: Tensor, span: int) -> list[Tensor]:
    """Where a pixel differs from the one before it, down the columns: mask number * span + position, unordered."""
    n, height, width = masks.shape
    if masks.stride(1) <= masks.stride(2):  # the columns are contiguous: compare along them
        columns = masks.transpose(1, 2).reshape(n, height * width)
        changed = (columns ^ torch.cat([columns.new_zeros(n, 1), columns[:, :-1]], 1)).contiguous()
        place = _true_positions(changed)
        return [place + place // (span - 1)]
    # The pixel before is the one above, or for the top row the bottom of the column to the left. Looking along rows
    # this way needs no transposed copy of the mask.
    left_bottom = torch.cat([masks.new_zeros(n, 1), masks[:, -1, :-1]], 1)  # (N, W)
    image, x = torch.nonzero(masks[:, 0] ^ left_bottom, as_tuple=True)
    inner = _true_positions((masks[:, 1:] ^ masks[:, :-1]).contiguous())
    row, inner_x = inner // width, inner % width
    inner_image, y = row // max(1, height - 1), row % max(1, height - 1) + 1
    return [image * span + x * height, inner_image * span + inner_x * height + y]


def _true_positions(flags: Tensor) -> Tensor:
    """Indices of True in a new contiguous bool tensor, flattened; eight bytes at a time, as few are True."""
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
    owner, index, _ = run_ends(counts, offsets)
    foreground = torch.where(index % 2 == 1, counts, 0)
    return torch.zeros_like(offsets[1:]).index_add_(0, owner, foreground)


def rle_to_bbox(counts: Tensor, offsets: Tensor, heights: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_to_bbox`."""
    owner, index, ends = run_ends(counts, offsets)
    check_vector("heights", heights, length=offsets.shape[0] - 1)
    chosen = (index % 2 == 1) & (counts > 0)
    owner, last, first = owner[chosen], ends[chosen] - 1, (ends - counts)[chosen]
    height = heights[owner]
    if bool((height <= 0).any()):
        raise ValueError("a mask without rows has foreground runs; heights must be positive for those")
    left, right = first // height, last // height
    # A run that reaches a second column touches the bottom of one and the top of the next.
    top = torch.where(left == right, first % height, 0)
    bottom = torch.where(left == right, last % height, height - 1)

    def extreme(values: Tensor, how: str) -> Tensor:
        return torch.zeros_like(offsets[1:]).scatter_reduce_(0, owner, values, how, include_self=False)

    x, y = extreme(left, "amin"), extreme(top, "amin")
    present = torch.zeros_like(offsets[1:]).index_fill_(0, owner, 1)
    return torch.stack([x, y, extreme(right, "amax") - x + present, extreme(bottom, "amax") - y + present], 1)


def rle_iou(dt_counts: Tensor, dt_offsets: Tensor, gt_counts: Tensor, gt_offsets: Tensor, iscrowd: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_iou`."""
    dt_owner, dt_index, dt_ends = run_ends(dt_counts, dt_offsets)
    gt_owner, gt_index, gt_ends = run_ends(gt_counts, gt_offsets)
    n_dt, n_gt = dt_offsets.shape[0] - 1, gt_offsets.shape[0] - 1
    check_vector("iscrowd", iscrowd, torch.bool, n_gt)
    check_one_size(dt_offsets, dt_ends, gt_offsets, gt_ends)
    dt_area = rle_area(dt_counts, dt_offsets)
    gt_area = rle_area(gt_counts, gt_offsets)
    foreground = gt_index % 2 == 1
    last, first, owner = gt_ends[foreground], (gt_ends - gt_counts)[foreground], gt_owner[foreground]
    shared = dt_counts.new_zeros(n_dt, n_gt)
    for d in range(n_dt):
        mine = dt_owner == d
        # The number of foreground pixels before a position rises by the position's share of the run it falls into.
        ends, inside = dt_ends[mine], (dt_index[mine] % 2 == 1).to(torch.int64)
        before = (dt_counts[mine] * inside).cumsum(0)  # after each run
        if ends.numel() == 0:
            continue

        def below(position: Tensor, ends: Tensor = ends, inside: Tensor = inside, before: Tensor = before) -> Tensor:
            run = torch.searchsorted(ends, position).clamp_(max=ends.numel() - 1)
            return before[run] - (ends[run] - position) * inside[run]

        shared[d].index_add_(0, owner, below(last) - below(first))
    union = dt_area[:, None] + gt_area[None, :] - shared
    union = torch.where(iscrowd[None, :], dt_area[:, None], union)
    return torch.where(shared > 0, shared.to(torch.float64) / union.to(torch.float64), 0.0)


def rle_merge(counts: Tensor, offsets: Tensor, intersect: bool = False) -> Tensor:
    """See `fastsam_core.ops.rle_merge`."""
    _, index, ends = run_ends(counts, offsets)
    n = offsets.shape[0] - 1
    if n == 0:
        return counts.new_empty(0)
    total = check_one_size(offsets, ends)
    foreground = (index % 2 == 1) & (counts > 0)
    last, first = ends[foreground], (ends - counts)[foreground]
    # How many masks cover each stretch between two neighbouring edges.
    edges, edge = torch.unique(torch.cat([first, last]), return_inverse=True)
    steps = torch.cat([torch.ones_like(first), -torch.ones_like(last)])
    cover = torch.zeros_like(edges).index_add_(0, edge, steps).cumsum(0)
    inside = cover == n if intersect else cover > 0
    return runs_between(edges, inside, total)


def runs_between(edges: Tensor, inside: Tensor, total: int) -> Tensor:
    """Run lengths of the mask that is `inside` from an edge to the next; edges ascend, the last is not inside."""
    toggles = edges[inside != torch.cat([inside.new_zeros(1), inside])[:-1]]
    starts = torch.cat([toggles.new_zeros(1), toggles])
    runs = torch.cat([toggles, toggles.new_full((1,), total)]) - starts
    # A mask that is set to its last pixel ends there; there is no empty background run after it.
    return runs[:-1] if toggles.numel() and int(runs[-1]) == 0 else runs


def check_one_size(*pairs: Tensor) -> int:
    """The number of pixels that the masks of all (offsets, ends) pairs share; ValueError where they differ."""
    totals = torch.cat([_totals(offsets, ends) for offsets, ends in zip(pairs[::2], pairs[1::2], strict=True)])
    if totals.numel() and bool((totals != totals[0]).any()):
        raise ValueError(f"the masks must all have the same size; got pixel numbers {torch.unique(totals).tolist()}")
    return int(totals[0]) if totals.numel() else 0


def run_ends(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each run: the mask it belongs to, its number there, and the position where it ends; all (R,) int64.

    Raises ValueError for offsets that don't fit, negative runs, and sums above `MAX_PIXELS`.
    """
    check_ragged("counts", counts, offsets)
    check_offsets(offsets, counts.shape[0])
    if bool(((counts < 0) | (counts > MAX_PIXELS)).any()):
        raise ValueError(f"run lengths must be from 0 to {MAX_PIXELS}")
    lengths = torch.diff(offsets)
    owner = torch.repeat_interleave(torch.arange(lengths.shape[0], device=counts.device), lengths)
    index = torch.arange(counts.shape[0], device=counts.device) - offsets[owner]
    ends = counts.cumsum(0)
    # The sum over all masks may wrap around, which the subtraction undoes; within one mask, the first end that is
    # too large shows up as such before anything can wrap.
    ends = ends - torch.cat([ends.new_zeros(1), ends])[offsets[owner]]
    if bool(((ends < 0) | (ends > MAX_PIXELS)).any()):
        raise ValueError(f"the runs of a mask sum to more than {MAX_PIXELS}")
    return owner, index, ends


def check_offsets(offsets: Tensor, total: int) -> None:
    """ValueError unless the offsets cut `total` values into lists."""
    if int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((torch.diff(offsets) < 0).any()):
        raise ValueError(f"offsets must rise from 0 to {total}, the number of values")


def check_totals(offsets: Tensor, ends: Tensor, pixels: Tensor) -> None:
    """ValueError unless the runs of mask n sum to pixels[n]."""
    totals = _totals(offsets, ends)
    wrong = torch.nonzero(totals != pixels)
    if wrong.numel():
        n = int(wrong[0])
        raise ValueError(f"the runs of mask {n} sum to {int(totals[n])}, but its size has {int(pixels[n])} pixels")


def _totals(offsets: Tensor, ends: Tensor) -> Tensor:
    """The end of each mask's last run, 0 for a mask without runs; (N,)."""
    return torch.cat([ends.new_zeros(1), ends])[offsets[1:]].masked_fill(torch.diff(offsets) == 0, 0)


def joined(found: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of several masks one after the other, and where each one's begin; int64 where `like` is."""
    lengths = torch.tensor([len(runs) for runs in found], dtype=torch.int64, device=like.device)
    return torch.cat([like.new_empty(0), *found]), offsets_of(lengths)


def offsets_of(lengths: Tensor) -> Tensor:
    """Where each of N lists of these lengths begins, and the end of the last one; (N + 1,)."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
