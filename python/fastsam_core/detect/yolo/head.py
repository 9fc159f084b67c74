"""The head: branches for distances, classes and mask coefficients, without anchors, at strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture
from .blocks import Conv

STRIDES = (8, 16, 32)


class RawOutput(NamedTuple):
    """Output of the network for B images, with the A cells of all three levels concatenated.

    bin_logits: (B, 4 * bins, A) logits over distances to the left, top, right and bottom; of a single bin, the
    distances themselves. class_logits: (B, C, A). coefficients: (B, K, A) and prototypes: (B, K, H / 4, W / 4) of a
    segmentation network, otherwise None. anchor_points: (A, 2), the cells' centres x, y and strides: (A,), in pixels of
    the input. end_to_end: whether the network was trained to give each object to one cell, so that duplicates need not
    be removed.
    """

    bin_logits: Tensor
    class_logits: Tensor
    coefficients: Tensor | None
    prototypes: Tensor | None
    anchor_points: Tensor
    strides: Tensor
    end_to_end: bool = False


class Prototypes(nn.Module):
    """Prototype masks at a quarter of the input's size; each object's mask is a weighted sum of them.

    fused: they are made from the sum of all levels, not from the finest alone.
    """

    def __init__(self, in_channels: tuple[int, ...], hidden_channels: int, out_channels: int, fused: bool) -> None:
        super().__init__()
        finest, *coarser = in_channels
        self.fused = fused
        if fused:
            self.feat_refine = nn.ModuleList(Conv(channels, finest) for channels in coarser)
            self.feat_fuse = Conv(finest, hidden_channels, 3)
        self.cv1 = Conv(hidden_channels if fused else finest, hidden_channels, 3)
        self.upsample = nn.ConvTranspose2d(hidden_channels, hidden_channels, 2, 2)
        self.cv2, self.cv3 = Conv(hidden_channels, hidden_channels, 3), Conv(hidden_channels, out_channels)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """levels: (B, C, H, W), finest first -> (B, outputs, 2 H, 2 W) with the finest level's H and W."""
        x = levels[0]
        if self.fused:
            for refine, level in zip(self.feat_refine, levels[1:], strict=True):
                x = x + F.interpolate(refine(level), size=x.shape[2:], mode="nearest")
            x = self.feat_fuse(x)
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Head(nn.Module):
    """Branches for distances, classes and, in segmentation, mask coefficients, at each of three levels."""

    def __init__(self, in_channels: tuple[int, ...], architecture: Architecture) -> None:
        super().__init__()

        def branches(
            hidden: int, outputs: int, layer: Callable[[int, int], nn.Module] = lambda c, d: Conv(c, d, 3)
        ) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(layer(channels, hidden), layer(hidden, hidden), nn.Conv2d(hidden, outputs, 1))
                for channels in in_channels
            )

        self.cv2 = branches(architecture.box_channels, 4 * architecture.num_bins)
        score_layers = (_separable_conv,) if architecture.family.separable_scores else ()
        self.cv3 = branches(architecture.score_channels, architecture.num_classes, *score_layers)
        self.has_masks = architecture.num_coefficients > 0
        self.end_to_end = architecture.end_to_end
        if self.has_masks:
            self.cv4 = branches(architecture.mask_channels, architecture.num_coefficients)
            self.proto = Prototypes(
                in_channels,
                architecture.prototype_channels,
                architecture.num_coefficients,
                architecture.has_fused_prototypes,
            )

    def forward(self, levels: list[Tensor]) -> RawOutput:
        """levels: three feature maps (B, C, H / stride, W / stride), finest first."""

        def concatenate(branches: nn.ModuleList) -> Tensor:
            return torch.cat([branch(x).flatten(2) for branch, x in zip(branches, levels, strict=True)], 2)

        anchor_points, strides = _make_anchor_points([(x.shape[2], x.shape[3]) for x in levels], levels[0].device)
        return RawOutput(
            concatenate(self.cv2),
            concatenate(self.cv3),
            concatenate(self.cv4) if self.has_masks else None,
            self.proto(levels) if self.has_masks else None,
            anchor_points,
            strides,
            self.end_to_end,
        )


def _separable_conv(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(Conv(in_channels, in_channels, 3, groups=in_channels), Conv(in_channels, out_channels))


def _make_anchor_points(shapes: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return centres (A, 2) x, y and strides (A,) of all cells, level by level, in row-major order, float32."""
    points, strides = [], []
    for (height, width), stride in zip(shapes, STRIDES, strict=True):
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * stride
        points.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], 1))
        strides.append(torch.full((height * width,), float(stride), dtype=torch.float32, device=device))
    return torch.cat(points), torch.cat(strides)
