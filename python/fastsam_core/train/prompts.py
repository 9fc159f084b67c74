"""Random prompts for batches of label planes: regions to ask for, clicks in them, boxes around them.

Everything is drawn for all prompts at once, on the device of the planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .pool import MAX_REGIONS

# Fractions of the prompts that ask for regions of each plane of a generated scene: objects, parts, groups. If an image
# lacks parts or groups, their prompts go to the other planes.
PLANE_SHARES = (0.66, 0.22, 0.12)
_INTERIOR_FRACTION = 0.5  # fraction of the clicks that land well inside a region, as people click


@dataclass(frozen=True)
class PromptTargets:
    """Regions that N prompts ask for.

    image_index: (N,) int64, index of each prompt's image. masks: (N, S, S) bool, where to click. coverage: (N, S / 4, S
    / 4) float32, the fraction of each cell that the region covers. is_object: (N,) bool, False for a background click.
    The mask of such a click is the background, and its target is empty: only its predicted IoU (0) is trained.
    """

    image_index: Tensor
    masks: Tensor
    coverage: Tensor
    is_object: Tensor


class Regions:
    """Regions of B images with the relative frequency of each, and the background.

    planes: (B, K, S, S) uint8. valid: (B, S, S) bool, True on the image, False on padding. min_area: smallest region
    to ask for, as a fraction of the image. shares: relative frequency of each plane, spread evenly over its regions;
    without them all regions of all planes are equally likely.
    """

    def __init__(self, planes: Tensor, valid: Tensor, *, min_area: float, shares: Sequence[float] = ()) -> None:
        self.planes = planes
        num_images, num_planes = planes.shape[:2]
        # Count in strips of 16 rows first, so that the threads of a GPU rarely add to the same element.
        strips = planes.reshape(num_images, num_planes, planes.shape[2] // 16, -1).long()
        ones = torch.ones_like(strips[:1, :1, :1, :1]).expand(strips.shape)
        areas = strips.new_zeros(*strips.shape[:3], MAX_REGIONS).scatter_add_(3, strips, ones).sum(2)
        is_eligible = areas >= (min_area * valid.sum((1, 2))[:, None, None]).clamp(min=1)
        is_eligible[..., 0].zero_()
        weights = is_eligible.float()
        if shares:
            # Filled one by one: copying a list to the device would make the host wait.
            plane_shares = weights.new_zeros(num_planes, 1)
            for plane, plane_share in enumerate(shares[:num_planes]):
                plane_shares[plane].fill_(plane_share)
            weights = plane_shares * weights / is_eligible.sum(2, keepdim=True).clamp(min=1)
        self.weights = weights.flatten(1)  # (B, K * MAX_REGIONS)
        self.background = (planes == 0).all(1) & valid  # (B, S, S)


def draw_targets(regions: Regions, count: int, generator: torch.Generator, *, background: float) -> PromptTargets:
    """Draw `count` regions of each image, with replacement.

    background: number of background clicks for each prompt on a region. An image without a region that is large enough
    gets background clicks only.
    """
    planes, weights = regions.planes, regions.weights
    num_images, num_planes = planes.shape[:2]
    background_weight = (weights.sum(1, keepdim=True) * background).clamp(min=1e-9)
    drawn = torch.multinomial(
        torch.cat([weights, background_weight], 1), count, replacement=True, generator=generator
    ).flatten()
    image_index = torch.arange(num_images, device=planes.device).repeat_interleave(count)
    is_object = drawn < num_planes * MAX_REGIONS
    plane = (drawn // MAX_REGIONS).clamp(max=num_planes - 1)
    masks = planes[image_index, plane] == (drawn % MAX_REGIONS)[:, None, None]
    masks = torch.where(is_object[:, None, None], masks, regions.background.index_select(0, image_index))
    coverage = F.avg_pool2d(masks.float()[:, None], 4)[:, 0] * is_object[:, None, None]
    return PromptTargets(image_index, masks, coverage, is_object)


def interior_depths(cells: Tensor) -> Tensor:
    """Return each True cell's distance to the nearest False cell or the border: (N, h, w) bool -> (N, h, w) float32.

    Distances are in steps to any of eight neighbours; False cells have 0. They end at a quarter of the longer side, and
    at 255.
    """
    # Erode repeatedly inside a constant frame of False. In place, since most operations of a training step are here.
    padded = F.pad(cells, (1, 1, 1, 1))
    interior = padded[..., 1:-1, 1:-1]
    depth = torch.zeros(cells.shape, dtype=torch.uint8, device=cells.device)
    for _ in range(min(max(cells.shape[-2:]) // 4, 255)):
        depth += interior
        # Keep cells with eight True neighbours: erode along rows, then along columns.
        row_eroded = padded[..., :-2] & padded[..., 1:-1]
        row_eroded &= padded[..., 2:]
        eroded = row_eroded[..., :-2, :] & row_eroded[..., 1:-1, :]
        torch.bitwise_and(eroded, row_eroded[..., 2:, :], out=interior)
    return depth.float()


def sample_clicks(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random pixel of each mask, (N, S, S) bool -> (N, 2) float32 x, y; half of them well inside.

    An empty mask gives a pixel anywhere in the image.
    """
    cells = F.avg_pool2d(masks.float()[:, None], 4)[:, 0]
    interior_weights = interior_depths(cells > 0.5) ** 3 + 1e-3 * cells
    prefers_interior = torch.rand(len(masks), generator=generator, device=masks.device) < _INTERIOR_FRACTION
    return _sample_pixels(
        _sample_cells(torch.where(prefers_interior[:, None, None], interior_weights, cells), generator),
        masks,
        generator,
    )


def corrective_clicks(
    masks: Tensor, targets: Tensor, logits: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the next click on each mask, which corrects an error: (N, 2) float32 x, y and (N,) int64 labels.

    A click falls on a missing (label 1) or a surplus (label 0) cell, in half of the cases well inside such a region. If
    the mask has no error, it falls on the object. masks: (N, S, S) bool; targets: (N, S / 4, S / 4), the fraction of
    each cell that the mask covers; logits: (N, S / 4, S / 4), of the prediction.
    """
    is_target, is_predicted = targets > 0.5, logits > 0
    is_wrong = is_target != is_predicted
    is_missing = is_wrong & is_target
    # Missing and surplus regions may touch, so depths are computed separately; they are disjoint, so the sum is exact.
    interior_depth = interior_depths(torch.cat([is_missing, is_wrong & is_predicted])).view(2, *is_wrong.shape).sum(0)
    prefers_interior = torch.rand(len(masks), generator=generator, device=masks.device) < _INTERIOR_FRACTION
    weights = torch.where(prefers_interior[:, None, None], interior_depth**3, is_wrong.float())
    is_correct = ~is_wrong.flatten(1).any(1)
    weights = torch.where(is_correct[:, None, None], targets, weights)
    cells = _sample_cells(weights, generator)
    label = torch.where(is_correct, True, is_target.flatten(1).gather(1, cells[:, None])[:, 0])
    return _sample_pixels(cells, masks == label[:, None, None], generator), label.long()


def jittered_boxes(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return the bounding box of each mask, (N, 4) float32, with sides moved randomly as if drawn by hand.

    The shift of a side has a standard deviation of a twentieth of the box's size and at most twice that. Corners are
    the first and the last row and column. The box of an empty mask is the whole image.
    """
    size = masks.shape[-1]
    corners = []
    for axis in (1, 2):  # columns, then rows
        occupied = masks.any(axis).float()
        corners.append((occupied.argmax(1), size - 1 - occupied.flip(1).argmax(1)))
    (left, right), (top, bottom) = corners
    boxes = torch.stack([left, top, right, bottom], 1).float()
    box_size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.randn(boxes.shape, generator=generator, device=masks.device).clamp(-2, 2)
    return (boxes + 0.05 * box_size * noise).clamp(0, size - 1)


def _sample_cells(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return the flat index of a random cell of each map, drawn by weight: (N, h, w) -> (N,)."""
    flat = weights.flatten(1)
    # In a map of zeros all cells are equally likely.
    flat = flat + (flat.sum(1, keepdim=True) <= 0)
    return _sample_columns(flat, generator)


def _sample_columns(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random column of each row, drawn by weight: (N, K) -> (N,).

    Equivalent to `torch.multinomial` without its checks, which would make the host wait for the device.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(1)


def _sample_pixels(cells: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random pixel (N, 2) x, y of each of the `cells` (N,), on the mask (N, S, S) if the cell overlaps it."""
    side = masks.shape[-1] // 4
    row, column = cells // side, cells % side
    blocks = masks.view(len(masks), side, 4, side, 4)
    block = blocks[torch.arange(len(masks), device=masks.device), row, :, column, :].flatten(1)  # (N, 16)
    pixel = _sample_columns(block.float() + 1e-5, generator)
    return torch.stack([column * 4 + pixel % 4, row * 4 + pixel // 4], 1).float()
