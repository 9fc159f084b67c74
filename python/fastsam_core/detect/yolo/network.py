"""The network: a convolutional backbone, a two-way feature pyramid, and a head without anchors.

Modules have the names that published checkpoints use, so that the keys of a state dict tell which network it belongs
to. Batch normalisations are folded into the convolutions; see `weights`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import AREA_STAGE, ATTENTION, POOLING, STAGES, Architecture
from .blocks import (
    AreaAttentionBlock,
    AreaStage,
    AttentionBlock,
    AttentionStage,
    Bottleneck,
    Conv,
    CrossStage,
    PyramidPooling,
    Stage,
)
from .head import Head, RawOutput


class Network(nn.Module):
    """The whole network, in evaluation mode, without gradients."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        # Set by `load.load_network`: names of all classes, and the default long side of the input.
        self.names: dict[int, str] = {}
        self.imgsz = 640
        family, channels = architecture.family, [3]  # channels of the input, then of each layer's output
        layers: list[nn.Module] = []
        for index, layer_type in enumerate(family.layers):
            if layer_type == "Concat":
                layers.append(nn.Identity())  # without weights, as "Upsample"; `forward` does both
                channels.append(channels[-1] + channels[1 + family.joined_layers[index]])
            elif layer_type == "Upsample":
                layers.append(nn.Identity())
                channels.append(channels[-1])
            else:
                layers.append(_make_layer(architecture, index, channels[-1]))
                channels.append(architecture.out_channels[index])
        layers.append(Head(tuple(channels[1 + index] for index in family.head_inputs), architecture))
        self.model = nn.ModuleList(layers)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> RawOutput:
        """x: (B, 3, H, W) RGB in 0 to 1, H and W multiples of 32."""
        family = self.architecture.family
        read_later = {*family.joined_layers.values(), *family.head_inputs}
        outputs: dict[int, Tensor] = {}
        for index, layer_type in enumerate(family.layers):
            if layer_type == "Concat":
                x = torch.cat([x, outputs[family.joined_layers[index]]], 1)
            elif layer_type == "Upsample":
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            else:
                x = self.model[index](x)
            if index in read_later:
                outputs[index] = x
        raw: RawOutput = self.model[family.head_layer]([outputs[index] for index in family.head_inputs])
        return raw


def _make_layer(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
    """Return layer `index`, one that has weights."""
    family, out_channels = architecture.family, architecture.out_channels[index]
    layer_type = family.layers[index]
    if layer_type == "Conv":
        return Conv(in_channels, out_channels, 3, 2)
    hidden_channels = architecture.hidden_channels[index]
    if layer_type == POOLING:
        if family.residual_pooling and in_channels != out_channels:
            raise ValueError(f"layer {index} adds its {in_channels} input channels to {out_channels} output channels")
        return PyramidPooling(in_channels, out_channels, hidden_channels, family.residual_pooling)
    depth = architecture.depths[index]
    if layer_type == ATTENTION:
        return AttentionStage(in_channels, out_channels, hidden_channels, depth)
    assert layer_type in (*STAGES, AREA_STAGE)
    blocks = [_make_block(architecture, index) for _ in range(depth)]
    if layer_type == AREA_STAGE:
        return AreaStage(in_channels, out_channels, hidden_channels, blocks, index in architecture.scaled_stages)
    return Stage(in_channels, out_channels, hidden_channels, blocks)


def _make_block(architecture: Architecture, index: int) -> nn.Module:
    """Return one of the equal blocks of stage `index`."""
    family, channels, block = architecture.family, architecture.hidden_channels[index], architecture.blocks[index]
    if block.kind == "cross_stage":
        return CrossStage(channels, block.channels, block.depth)
    if block.kind == "area_attention":
        if index not in family.num_areas:
            raise ValueError(f"layer {index} has attention, which that of {family.name} does not have")
        num_areas = family.num_areas[index]
        return nn.Sequential(*(AreaAttentionBlock(channels, block.channels, num_areas) for _ in range(block.depth)))
    is_in_pyramid = index > family.layers.index("Upsample")
    bottleneck = Bottleneck(channels, block.channels, family.residual_pyramid or not is_in_pyramid)
    return bottleneck if block.kind == "bottleneck" else nn.Sequential(bottleneck, AttentionBlock(channels))
