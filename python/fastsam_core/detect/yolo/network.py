"""The network: a convolutional backbone, a two-way feature pyramid, and a head without anchors at strides 8, 16 and 32.

Every convolution is followed by batch normalisation, which `weights` folds into it, and SiLU. Modules have the names
that published checkpoints use, so that the keys of a state dict tell which network it belongs to.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
# Indices of layers in the sequence; those in between have no weights (upsampling, concatenation).
_CONVS = (0, 1, 3, 5, 7, 16, 19)
_STAGES = (2, 4, 6, 8, 12, 15, 18, 21)
_RESIDUAL = (2, 4, 6, 8)  # stages of the backbone add their input to their output; those of the pyramid don't
_POOL = 9
HEAD = 22


class Raw(NamedTuple):
    """Output of the network for B images, with the A places (cells) of all three levels concatenated.

    bins: (B, 4 * bins, A) logits over distances to the left, top, right and bottom. classes: (B, C, A) logits.
    coefficients: (B, K, A) and prototypes: (B, K, H / 4, W / 4) of a segmentation network, otherwise None. centres:
    (A, 2) x, y and strides: (A,) of the places, in pixels of the input.
    """

    bins: Tensor
    classes: Tensor
    coefficients: Tensor | None
    prototypes: Tensor | None
    centres: Tensor
    strides: Tensor


@dataclass(frozen=True)
class Architecture:
    """Sizes that distinguish one network of the family from another.

    widths: output channels of a layer, by its index. hidden: channels inside a stage or the pooling layer. depths:
    bottlenecks of a stage. bins: number per distance. classes: number of object classes. box, score, mask: channels
    inside the head's branches. coefficients: of segmentation, 0 without it. prototypes: channels inside the prototype
    branch, 0 without segmentation.
    """

    widths: dict[int, int]
    hidden: dict[int, int]
    depths: dict[int, int]
    bins: int
    classes: int
    box: int
    score: int
    mask: int = 0
    coefficients: int = 0
    prototypes: int = 0

    @property
    def task(self) -> str:
        """Task of the network: "segment" or "detect"."""
        return "segment" if self.coefficients else "detect"

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
        """Derive the sizes from the shapes of a state dict. ValueError, naming a missing tensor, if it is another's."""

        def outputs(name: str) -> int:
            shape = shapes.get(f"model.{name}.weight")
            if shape is None or len(shape) != 4:
                raise ValueError(f"the convolution model.{name}.weight is missing")
            return shape[0]

        def depth(place: int) -> int:
            links = re.compile(rf"model\.{place}\.m\.\d+\.cv1\.conv\.weight")
            return sum(1 for name in shapes if links.fullmatch(name))

        hidden = {place: outputs(f"{place}.cv1.conv") // 2 for place in _STAGES}
        widths = {place: outputs(f"{place}.conv") for place in _CONVS}
        widths |= {place: outputs(f"{place}.cv2.conv") for place in (*_STAGES, _POOL)}
        found = cls(
            widths=widths,
            hidden=hidden | {_POOL: outputs(f"{_POOL}.cv1.conv")},
            depths={place: depth(place) for place in _STAGES},
            bins=outputs(f"{HEAD}.cv2.0.2") // 4,
            classes=outputs(f"{HEAD}.cv3.0.2"),
            box=outputs(f"{HEAD}.cv2.0.0.conv"),
            score=outputs(f"{HEAD}.cv3.0.0.conv"),
        )
        if f"model.{HEAD}.proto.cv1.conv.weight" not in shapes:
            return found
        return dataclasses.replace(
            found,
            mask=outputs(f"{HEAD}.cv4.0.0.conv"),
            coefficients=outputs(f"{HEAD}.cv4.0.2"),
            prototypes=outputs(f"{HEAD}.proto.cv1.conv"),
        )


class Conv(nn.Module):
    """Convolution with "same" padding, then SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.silu(self.conv(x), inplace=True)


class Bottleneck(nn.Module):
    """Two 3 x 3 convolutions, with a residual connection in the backbone."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels, 3), Conv(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        y = self.cv2(self.cv1(x))
        return x + y if self.residual else y


class Stage(nn.Module):
    """A chain of bottlenecks on half of the channels; the outputs of all links are concatenated."""

    def __init__(self, inputs: int, outputs: int, hidden: int, depth: int, residual: bool) -> None:
        super().__init__()
        self.cv1 = Conv(inputs, 2 * hidden)
        self.cv2 = Conv((2 + depth) * hidden, outputs)
        self.m = nn.ModuleList(Bottleneck(hidden, residual) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        links = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            links.append(bottleneck(links[-1]))
        return self.cv2(torch.cat(links, 1))


class PyramidPooling(nn.Module):
    """Maxima over increasingly large windows, by max-pooling three times over 5 x 5."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, hidden), Conv(4 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        levels = [self.cv1(x)]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        return self.cv2(torch.cat(levels, 1))


class Prototypes(nn.Module):
    """Prototype masks at a quarter of the input's size; each object's mask is a weighted sum of them."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.upsample = Conv(inputs, hidden, 3), nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.cv2, self.cv3 = Conv(hidden, hidden, 3), Conv(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, 2 H, 2 W)."""
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Head(nn.Module):
    """Branches for distances, classes and, in segmentation, mask coefficients, at each of three levels."""

    def __init__(self, inputs: tuple[int, ...], sizes: Architecture) -> None:
        super().__init__()

        def branches(hidden: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(Conv(width, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1))
                for width in inputs
            )

        self.cv2 = branches(sizes.box, 4 * sizes.bins)
        self.cv3 = branches(sizes.score, sizes.classes)
        self.segments = sizes.coefficients > 0
        if self.segments:
            self.cv4 = branches(sizes.mask, sizes.coefficients)
            self.proto = Prototypes(inputs[0], sizes.prototypes, sizes.coefficients)

    def forward(self, levels: list[Tensor]) -> Raw:
        """levels: three feature maps (B, C, H / stride, W / stride), finest first."""

        def joined(branches: nn.ModuleList) -> Tensor:
            return torch.cat([branch(x).flatten(2) for branch, x in zip(branches, levels, strict=True)], 2)

        centres, strides = _places([(x.shape[2], x.shape[3]) for x in levels], levels[0].device)
        return Raw(
            joined(self.cv2),
            joined(self.cv3),
            joined(self.cv4) if self.segments else None,
            self.proto(levels[0]) if self.segments else None,
            centres,
            strides,
        )


class Network(nn.Module):
    """The whole network, in evaluation mode, without gradients."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.sizes = sizes
        self.names: dict[int, str] = {}  # of all classes; set by `loaded.load`
        width, hidden, depth = sizes.widths, sizes.hidden, sizes.depths
        # Input channels of layers that don't read just the layer before: the pyramid joins levels of the backbone.
        inputs = {
            12: width[9] + width[6],
            15: width[12] + width[4],
            16: width[15],
            18: width[16] + width[12],
            19: width[18],
            21: width[19] + width[9],
        }
        layers: list[nn.Module] = []
        for place in range(HEAD):
            read = 3 if place == 0 else inputs.get(place) or width.get(place - 1, 0)
            if place in _CONVS:
                layers.append(Conv(read, width[place], 3, 2))
            elif place in _STAGES:
                layers.append(Stage(read, width[place], hidden[place], depth[place], place in _RESIDUAL))
            elif place == _POOL:
                layers.append(PyramidPooling(read, width[place], hidden[place]))
            else:
                layers.append(nn.Identity())
        layers.append(Head((width[15], width[18], width[21]), sizes))
        self.model = nn.ModuleList(layers)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Raw:
        """x: (B, 3, H, W) RGB in 0 to 1, H and W multiples of 32."""
        given: dict[int, Tensor] = {}
        for place in range(10):
            x = self.model[place](x)
            given[place] = x
        given[12] = self.model[12](torch.cat([_doubled(given[9]), given[6]], 1))
        given[15] = self.model[15](torch.cat([_doubled(given[12]), given[4]], 1))
        given[18] = self.model[18](torch.cat([self.model[16](given[15]), given[12]], 1))
        given[21] = self.model[21](torch.cat([self.model[19](given[18]), given[9]], 1))
        raw: Raw = self.model[HEAD]([given[15], given[18], given[21]])
        return raw


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _places(shapes: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return centres (A, 2) x, y and strides (A,) of all cells, level by level, in row-major order, float32."""
    centres, strides = [], []
    for (height, width), stride in zip(shapes, STRIDES, strict=True):
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * stride
        centres.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], 1))
        strides.append(torch.full((height * width,), float(stride), dtype=torch.float32, device=device))
    return torch.cat(centres), torch.cat(strides)
