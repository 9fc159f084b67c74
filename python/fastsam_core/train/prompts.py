"""Prompts for batches of label planes: which regions to ask for, clicks in them, boxes around them.

Everything is drawn for all prompts at once, on the device that the planes are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .pool import MAX_REGIONS

# How often regions of each plane of a generated scene are asked for: objects, parts, groups. The rest of the prompts of
# a picture without parts or groups go to its objects.
PLANE_SHARES = (0.66, 0.22, 0.12)
_INSIDE_SHARE = 0.5  # of the clicks go to a region's inside, as people click


@dataclass(frozen=True)
class Targets:
    """What N prompts ask for.

    picture: (N,) int64, the picture of each. masks: (N, S, S) bool; targets: (N, S / 4, S / 4) float32, the share of
    each cell that the region covers. is_object: (N,) bool; False for a click on the background, whose mask is where it
    may be, and which asks for nothing: only its predicted IoU (0) is trained.
    """

    picture: Tensor
    masks: Tensor
    targets: Tensor
    is_object: Tensor


class Regions:
    """What there is to ask for in B pictures, and how often each region is to be drawn.

    planes: (B, K, S, S) uint8; inside: (B, S, S) bool, where there is a picture. Regions below `min_area`, a share of
    the picture, are not asked for. shares: how often each plane is; without them all regions are alike.
    """

    def __init__(self, planes: Tensor, inside: Tensor, *, min_area: float, shares: Sequence[float] = ()) -> None:
        self.planes = planes
        pictures, levels = planes.shape[:2]
        # Counted in strips of 16 rows, so that a GPU's threads seldom add to the same number.
        strips = planes.reshape(pictures, levels, planes.shape[2] // 16, -1).long()
        ones = torch.ones_like(strips[:1, :1, :1, :1]).expand(strips.shape)
        areas = strips.new_zeros(*strips.shape[:3], MAX_REGIONS).scatter_add_(3, strips, ones).sum(2)
        found = areas >= (min_area * inside.sum((1, 2))[:, None, None]).clamp(min=1)
        found[..., 0].zero_()
        weights = found.float()
        if shares:
            # Filled in one by one: a list would be copied to the device, which the host would wait for.
            share = weights.new_zeros(levels, 1)
            for level, value in enumerate(shares[:levels]):
                share[level].fill_(value)
            weights = share * weights / found.sum(2, keepdim=True).clamp(min=1)
        self.weights = weights.flatten(1)  # (B, K * MAX_REGIONS)
        self.nothing = (planes == 0).all(1) & inside  # (B, S, S)


def draw_targets(regions: Regions, count: int, generator: torch.Generator, *, background: float) -> Targets:
    """`count` regions of each picture, drawn with replacement.

    background: how many clicks beside every region there are for each on one. A picture that has no region large enough
    gives such clicks alone.
    """
    planes, weights = regions.planes, regions.weights
    pictures, levels = planes.shape[:2]
    empty = (weights.sum(1, keepdim=True) * background).clamp(min=1e-9)
    drawn = torch.multinomial(torch.cat([weights, empty], 1), count, replacement=True, generator=generator).flatten()
    picture = torch.arange(pictures, device=planes.device).repeat_interleave(count)
    is_object = drawn < levels * MAX_REGIONS
    level = (drawn // MAX_REGIONS).clamp(max=levels - 1)
    masks = planes[picture, level] == (drawn % MAX_REGIONS)[:, None, None]
    masks = torch.where(is_object[:, None, None], masks, regions.nothing.index_select(0, picture))
    cells = F.avg_pool2d(masks.float()[:, None], 4)[:, 0] * is_object[:, None, None]
    return Targets(picture, masks, cells, is_object)


def depths(cells: Tensor) -> Tensor:
    """How many steps each True cell is from the nearest False one, or from the border: (N, h, w) bool -> float32."""
    # In a frame of outside, which stays; written in place, since this is what a step has most operations of.
    framed = F.pad(cells, (1, 1, 1, 1))
    inside = framed[..., 1:-1, 1:-1]
    depth = torch.zeros(cells.shape, dtype=torch.uint8, device=cells.device)
    for _ in range(min(max(cells.shape[-2:]) // 4, 255)):
        depth += inside
        # What has only such neighbours; by rows, then by columns.
        beside = framed[..., :-2] & framed[..., 1:-1]
        beside &= framed[..., 2:]
        above = beside[..., :-2, :] & beside[..., 1:-1, :]
        torch.bitwise_and(above, beside[..., 2:, :], out=inside)
    return depth.float()


def clicks_in(masks: Tensor, generator: torch.Generator) -> Tensor:
    """A pixel of each mask, (N, S, S) bool -> (N, 2) float32 x, y; half of them well inside. Empty masks: anywhere."""
    cells = F.avg_pool2d(masks.float()[:, None], 4)[:, 0]
    inner = depths(cells > 0.5) ** 3 + 1e-3 * cells
    chosen = torch.rand(len(masks), generator=generator, device=masks.device) < _INSIDE_SHARE
    return _within(_cells(torch.where(chosen[:, None, None], inner, cells), generator), masks, generator)


def corrections(masks: Tensor, targets: Tensor, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The next click of someone who sees where a mask is wrong: (N, 2) x, y and (N,) labels.

    masks: (N, S, S) bool and their cells `targets`; logits: (N, S / 4, S / 4). It falls on a missing or a surplus
    place, half of the time on the inside of one; where nothing is wrong, on the object.
    """
    wanted, given = targets > 0.5, logits > 0
    wrong = wanted != given
    missing = wrong & wanted
    # The two lie apart, but may touch: each has depths of its own.
    inner = depths(torch.cat([missing, wrong & given])).view(2, *wrong.shape).sum(0)
    chosen = torch.rand(len(masks), generator=generator, device=masks.device) < _INSIDE_SHARE
    weights = torch.where(chosen[:, None, None], inner**3, wrong.float())
    right = ~wrong.flatten(1).any(1)
    weights = torch.where(right[:, None, None], targets, weights)
    cells = _cells(weights, generator)
    label = torch.where(right, True, wanted.flatten(1).gather(1, cells[:, None])[:, 0])
    return _within(cells, masks == label[:, None, None], generator), label.long()


def boxes_around(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Each mask's box, (N, 4) float32, with sides moved by about a twentieth of its size, as drawn by hand.

    Corners are the first and the last row and column. Of an empty mask: the whole picture.
    """
    size = masks.shape[-1]
    corners = []
    for axis in (1, 2):  # columns, then rows
        along = masks.any(axis).float()
        corners.append((along.argmax(1), size - 1 - along.flip(1).argmax(1)))
    (left, right), (top, bottom) = corners
    boxes = torch.stack([left, top, right, bottom], 1).float()
    extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.randn(boxes.shape, generator=generator, device=masks.device).clamp(-2, 2)
    return (boxes + 0.05 * extent * noise).clamp(0, size - 1)


def _cells(weights: Tensor, generator: torch.Generator) -> Tensor:
    """The number of a cell of each map, drawn by weight: (N, h, w) -> (N,)."""
    flat = weights.flatten(1)
    # Of a map without any weight, every cell is as good.
    flat = flat + (flat.sum(1, keepdim=True) <= 0)
    return _drawn(flat, generator)


def _drawn(weights: Tensor, generator: torch.Generator) -> Tensor:
    """A column of each row by weight, (N, K) -> (N,), as `torch.multinomial` does it, but without its checks, for which
    the host would wait.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(1)


def _within(cells: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    """A pixel (x, y) of each cell, on the mask (N, S, S) if the cell has such."""
    side = masks.shape[-1] // 4
    row, column = cells // side, cells % side
    blocks = masks.view(len(masks), side, 4, side, 4)
    block = blocks[torch.arange(len(masks), device=masks.device), row, :, column, :].flatten(1)  # (N, 16)
    pixel = _drawn(block.float() + 1e-5, generator)
    return torch.stack([column * 4 + pixel % 4, row * 4 + pixel // 4], 1).float()
