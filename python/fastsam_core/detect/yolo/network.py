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
_CONV_LAYERS = (0, 1, 3, 5, 7, 16, 19)
_STAGE_LAYERS = (2, 4, 6, 8, 12, 15, 18, 21)
RESIDUAL_LAYERS = (2, 4, 6, 8)  # stages of the backbone add their input to their output; those of the pyramid don't
_POOL_LAYER = 9
HEAD_LAYER = 22


class RawOutput(NamedTuple):
    """Output of the network for B images, with the A cells of all three levels concatenated.

    bin_logits: (B, 4 * bins, A) logits over distances to the left, top, right and bottom. class_logits: (B, C, A).
    coefficients: (B, K, A) and prototypes: (B, K, H / 4, W / 4) of a segmentation network, otherwise None.
    anchor_points: (A, 2), the cells' centres x, y and strides: (A,), in pixels of the input.
    """

    bin_logits: Tensor
    class_logits: Tensor
    coefficients: Tensor | None
    prototypes: Tensor | None
    anchor_points: Tensor
    strides: Tensor


@dataclass(frozen=True)
class Architecture:
    """Sizes that distinguish one network of the family from another.

    out_channels: output channels of a layer, by its index. hidden_channels: channels inside a stage or the pooling
    layer. depths: bottlenecks of a stage. num_bins: bins per distance. num_classes: number of object classes.
    box_channels, score_channels, mask_channels: channels inside the head's branches. num_coefficients: mask
    coefficients, 0 without segmentation. prototype_channels: channels inside the prototype branch, 0 without
    segmentation.
    """

    out_channels: dict[int, int]
    hidden_channels: dict[int, int]
    depths: dict[int, int]
    num_bins: int
    num_classes: int
    box_channels: int
    score_channels: int
    mask_channels: int = 0
    num_coefficients: int = 0
    prototype_channels: int = 0

    @property
    def task(self) -> str:
        """Task of the network: "segment" or "detect"."""
        return "segment" if self.num_coefficients else "detect"

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
        """Derive the sizes from the shapes of a state dict. ValueError, naming a missing tensor, if it is another's."""

        def out_channels_of(name: str) -> int:
            shape = shapes.get(f"model.{name}.weight")
            if shape is None or len(shape) != 4 or 0 in shape:
                raise ValueError(f"the convolution model.{name}.weight is missing or empty")
            return shape[0]

        def depth(index: int) -> int:
            pattern = re.compile(rf"model\.{index}\.m\.\d+\.cv1\.conv\.weight")
            return sum(1 for name in shapes if pattern.fullmatch(name))

        hidden_channels = {index: out_channels_of(f"{index}.cv1.conv") // 2 for index in _STAGE_LAYERS}
        out_channels = {index: out_channels_of(f"{index}.conv") for index in _CONV_LAYERS}
        out_channels |= {index: out_channels_of(f"{index}.cv2.conv") for index in (*_STAGE_LAYERS, _POOL_LAYER)}
        architecture = cls(
            out_channels=out_channels,
            hidden_channels=hidden_channels | {_POOL_LAYER: out_channels_of(f"{_POOL_LAYER}.cv1.conv")},
            depths={index: depth(index) for index in _STAGE_LAYERS},
            num_bins=out_channels_of(f"{HEAD_LAYER}.cv2.0.2") // 4,
            num_classes=out_channels_of(f"{HEAD_LAYER}.cv3.0.2"),
            box_channels=out_channels_of(f"{HEAD_LAYER}.cv2.0.0.conv"),
            score_channels=out_channels_of(f"{HEAD_LAYER}.cv3.0.0.conv"),
        )
        if f"model.{HEAD_LAYER}.proto.cv1.conv.weight" not in shapes:
            return architecture
        return dataclasses.replace(
            architecture,
            mask_channels=out_channels_of(f"{HEAD_LAYER}.cv4.0.0.conv"),
            num_coefficients=out_channels_of(f"{HEAD_LAYER}.cv4.0.2"),
            prototype_channels=out_channels_of(f"{HEAD_LAYER}.proto.cv1.conv"),
        )


class Conv(nn.Module):
    """Convolution with "same" padding, then SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)

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

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, depth: int, residual: bool) -> None:
        super().__init__()
        self.cv1 = Conv(in_channels, 2 * hidden_channels)
        self.cv2 = Conv((2 + depth) * hidden_channels, out_channels)
        self.m = nn.ModuleList(Bottleneck(hidden_channels, residual) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        links = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            links.append(bottleneck(links[-1]))
        return self.cv2(torch.cat(links, 1))


class PyramidPooling(nn.Module):
    """Maxima over increasingly large windows, by max-pooling three times over 5 x 5."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(in_channels, hidden_channels), Conv(4 * hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        levels = [self.cv1(x)]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        return self.cv2(torch.cat(levels, 1))


class Prototypes(nn.Module):
    """Prototype masks at a quarter of the input's size; each object's mask is a weighted sum of them."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.cv1, self.upsample = (
            Conv(in_channels, hidden_channels, 3),
            nn.ConvTranspose2d(hidden_channels, hidden_channels, 2, 2),
        )
        self.cv2, self.cv3 = Conv(hidden_channels, hidden_channels, 3), Conv(hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, 2 H, 2 W)."""
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Head(nn.Module):
    """Branches for distances, classes and, in segmentation, mask coefficients, at each of three levels."""

    def __init__(self, in_channels: tuple[int, ...], architecture: Architecture) -> None:
        super().__init__()

        def branches(hidden_channels: int, out_channels: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(
                    Conv(channels, hidden_channels, 3),
                    Conv(hidden_channels, hidden_channels, 3),
                    nn.Conv2d(hidden_channels, out_channels, 1),
                )
                for channels in in_channels
            )

        self.cv2 = branches(architecture.box_channels, 4 * architecture.num_bins)
        self.cv3 = branches(architecture.score_channels, architecture.num_classes)
        self.has_masks = architecture.num_coefficients > 0
        if self.has_masks:
            self.cv4 = branches(architecture.mask_channels, architecture.num_coefficients)
            self.proto = Prototypes(in_channels[0], architecture.prototype_channels, architecture.num_coefficients)

    def forward(self, levels: list[Tensor]) -> RawOutput:
        """levels: three feature maps (B, C, H / stride, W / stride), finest first."""

        def concatenate(branches: nn.ModuleList) -> Tensor:
            return torch.cat([branch(x).flatten(2) for branch, x in zip(branches, levels, strict=True)], 2)

        anchor_points, strides = _make_anchor_points([(x.shape[2], x.shape[3]) for x in levels], levels[0].device)
        return RawOutput(
            concatenate(self.cv2),
            concatenate(self.cv3),
            concatenate(self.cv4) if self.has_masks else None,
            self.proto(levels[0]) if self.has_masks else None,
            anchor_points,
            strides,
        )


class Network(nn.Module):
    """The whole network, in evaluation mode, without gradients."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        # Set by `load.load_network`: names of all classes, and the default long side of the input.
        self.names: dict[int, str] = {}
        self.imgsz = 640
        out_channels, hidden_channels, depths = (
            architecture.out_channels,
            architecture.hidden_channels,
            architecture.depths,
        )
        # Input channels of layers that don't read just the layer before: the pyramid joins levels of the backbone.
        concatenated_channels = {
            12: out_channels[9] + out_channels[6],
            15: out_channels[12] + out_channels[4],
            16: out_channels[15],
            18: out_channels[16] + out_channels[12],
            19: out_channels[18],
            21: out_channels[19] + out_channels[9],
        }
        layers: list[nn.Module] = []
        for index in range(HEAD_LAYER):
            in_channels = 3 if index == 0 else concatenated_channels.get(index) or out_channels.get(index - 1, 0)
            if index in _CONV_LAYERS:
                layers.append(Conv(in_channels, out_channels[index], 3, 2))
            elif index in _STAGE_LAYERS:
                layers.append(
                    Stage(
                        in_channels,
                        out_channels[index],
                        hidden_channels[index],
                        depths[index],
                        index in RESIDUAL_LAYERS,
                    )
                )
            elif index == _POOL_LAYER:
                layers.append(PyramidPooling(in_channels, out_channels[index], hidden_channels[index]))
            else:
                layers.append(nn.Identity())
        layers.append(Head((out_channels[15], out_channels[18], out_channels[21]), architecture))
        self.model = nn.ModuleList(layers)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> RawOutput:
        """x: (B, 3, H, W) RGB in 0 to 1, H and W multiples of 32."""
        outputs: dict[int, Tensor] = {}
        for index in range(10):
            x = self.model[index](x)
            outputs[index] = x
        outputs[12] = self.model[12](torch.cat([_upsample(outputs[9]), outputs[6]], 1))
        outputs[15] = self.model[15](torch.cat([_upsample(outputs[12]), outputs[4]], 1))
        outputs[18] = self.model[18](torch.cat([self.model[16](outputs[15]), outputs[12]], 1))
        outputs[21] = self.model[21](torch.cat([self.model[19](outputs[18]), outputs[9]], 1))
        raw: RawOutput = self.model[HEAD_LAYER]([outputs[15], outputs[18], outputs[21]])
        return raw


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _make_anchor_points(shapes: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return centres (A, 2) x, y and strides (A,) of all cells, level by level, in row-major order, float32."""
    points, strides = [], []
    for (height, width), stride in zip(shapes, STRIDES, strict=True):
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * stride
        points.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], 1))
        strides.append(torch.full((height * width,), float(stride), dtype=torch.float32, device=device))
    return torch.cat(points), torch.cat(strides)
