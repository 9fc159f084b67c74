"""TinyViT's inference on a GPU: channels last from the first convolution to the neck, by few launches.

The GPU waits for the host there, and calls of modules would take a good part of its time. What is read is made of the
weights once: batch normalisation is in the convolutions, and a bias is where its sum is read.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops

# In place, what it is applied to stays in a GPU's cache.
gelu_ = torch.ops.aten.gelu_.default

Layer = tuple[Tensor, Tensor]  # weight and bias
Norm = tuple[torch.Size, Tensor, Tensor, float]


class Plan(NamedTuple):
    """Of the whole network. The second convolution has no bias: the first step knows of it."""

    first: Layer
    second: Tensor
    steps: list[Convolutions | Transformers]
    widen: Layer
    first_norm: Norm
    mix: Tensor
    last_norm: Norm

    def of(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, out_channels, S / 16, S / 16)
        x = F.conv2d(images, *self.first, 2, 1)
        x = F.conv2d(gelu_(x), self.second, None, 2, 1)
        x = x.permute(0, 2, 3, 1).contiguous()  # as it is, by cuDNN
        for step in self.steps:
            x = step.of(x)
        x = torch.layer_norm(F.linear(x, *self.widen), *self.first_norm)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.mix, None, 1, 1)
        return torch.layer_norm(x.permute(0, 2, 3, 1), *self.last_norm).permute(0, 3, 1, 2)


class Convolutions(NamedTuple):
    """Of `MBConv`, with a residual, or `PatchMerging`."""

    expand: Layer
    depthwise: Layer
    project: Layer
    stride: int
    residual: bool

    def of(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> (B, H / stride, W / stride, out_dim)
        y = gelu_(F.linear(x, *self.expand))
        y = F.linear(ops.depthwise3x3(y, *self.depthwise, self.stride, True), *self.project)
        if not self.residual:
            return y
        y += x
        return gelu_(y)

    def after(self, bias: Tensor | None) -> Convolutions:
        """The same for an `x` without this bias."""
        if bias is None:
            return self
        weight, of_sum = self.project
        project = (weight, of_sum + bias) if self.residual else self.project
        return self._replace(expand=after(bias, self.expand), project=project)


class Transformer(NamedTuple):
    """Of `TinyViTBlock`."""

    norm1: Norm
    qkv: Layer
    bias: Tensor
    window: int
    padding: Tensor
    proj: Layer
    depthwise: Layer
    norm2: Norm
    fc1: Layer
    fc2: Layer


class Transformers(NamedTuple):
    """Of all `TinyViTBlock`s of a stage. The result lacks the last one's last bias, of which the next step knows."""

    blocks: list[Transformer]

    def of(self, x: Tensor) -> Tensor:  # (B, H, W, C), which it overwrites, -> same
        grid, width = x.shape[:3], x.shape[3]
        # Of rows, linear layers make no views at each call.
        rows = x.view(-1, width)
        y = torch.layer_norm(rows, *self.blocks[0].norm1)
        for i, here in enumerate(self.blocks, 1):
            y = F.linear(y, *here.qkv)
            y = ops.windowed_attention(y.view(*grid, 3 * width), here.bias, here.window, here.padding)
            weight, bias = here.proj
            # The residual sum is the product's own; the bias comes to it where the next step reads it.
            rows.addmm_(y.view(-1, width), weight.t())
            x = ops.depthwise3x3(x, *here.depthwise, shift=bias)
            rows = x.view(-1, width)
            y = gelu_(F.linear(torch.layer_norm(rows, *here.norm2), *here.fc1))
            weight, bias = here.fc2
            if i < len(self.blocks):
                y = F.linear(y, weight, bias)
                ops.add_norm_into(rows, y, *self.blocks[i].norm1[1:])  # y becomes what the next one reads
            else:
                rows.addmm_(y, weight.t())
        return x


def after(bias: Tensor | None, layer: Layer) -> Layer:
    """A linear layer for an input without this bias."""
    if bias is None:
        return layer
    weight, own = layer
    wide = torch.promote_types(weight.dtype, torch.float32)
    return weight, (own.to(wide) + (weight.to(wide) * bias).sum(1)).to(own.dtype)


def by_tap(weight: Tensor) -> Tensor:
    """A depthwise convolution's weight (C, 3, 3) in the order in which the CUDA kernel reads it."""
    return weight.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def norm_of(norm: nn.Module) -> Norm:
    """What follows the tensor among the arguments of `torch.layer_norm`."""
    weight, bias = cast(Tensor, norm.weight), cast(Tensor, norm.bias)
    return weight.shape, weight, bias, cast(float, norm.eps)
