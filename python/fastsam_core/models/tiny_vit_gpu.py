"""TinyViT's inference on a GPU: channels last from the first convolution to the neck, with few launches.

The GPU waits for the host here, and calls of modules would take a good part of the host's time. The tensors that are
read are derived from the weights once: batch normalisation is folded into the convolutions, and where possible a bias
is added by the step that reads the sum rather than by the one that computes it.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops

# GELU in place keeps its operand in the GPU's cache.
gelu_ = torch.ops.aten.gelu_.default

Layer = tuple[Tensor, Tensor]  # weight and bias
Norm = tuple[torch.Size, Tensor, Tensor, float]


class Plan(NamedTuple):
    """Steps of the whole network. The second convolution's bias is folded into the first step."""

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
        x = x.permute(0, 2, 3, 1).contiguous()  # no copy: cuDNN's output has this layout
        for step in self.steps:
            x = step.of(x)
        x = torch.layer_norm(F.linear(x, *self.widen), *self.first_norm)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.mix, None, 1, 1)
        return torch.layer_norm(x.permute(0, 2, 3, 1), *self.last_norm).permute(0, 3, 1, 2)


class Convolutions(NamedTuple):
    """Weights of an `MBConv`, which has a residual, or of a `PatchMerging`."""

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
        """Return the step for an input `x` from which this bias was left out."""
        if bias is None:
            return self
        weight, of_sum = self.project
        project = (weight, of_sum + bias) if self.residual else self.project
        return self._replace(expand=after(bias, self.expand), project=project)


class Transformer(NamedTuple):
    """Weights of a `TinyViTBlock`."""

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
    """All `TinyViTBlock`s of a stage. The result lacks the last one's last bias, which the next step includes."""

    blocks: list[Transformer]

    def of(self, x: Tensor) -> Tensor:  # (B, H, W, C), which it overwrites, -> same
        grid, width = x.shape[:3], x.shape[3]
        # Linear layers make no views for inputs of rows.
        rows = x.view(-1, width)
        y = torch.layer_norm(rows, *self.blocks[0].norm1)
        for i, here in enumerate(self.blocks, 1):
            y = F.linear(y, *here.qkv)
            y = ops.windowed_attention(y.view(*grid, 3 * width), here.bias, here.window, here.padding)
            weight, bias = here.proj
            # The product adds to the residual directly; the bias is added by the convolution that reads the sum.
            rows.addmm_(y.view(-1, width), weight.t())
            x = ops.depthwise3x3(x, *here.depthwise, shift=bias)
            rows = x.view(-1, width)
            y = gelu_(F.linear(torch.layer_norm(rows, *here.norm2), *here.fc1))
            weight, bias = here.fc2
            if i < len(self.blocks):
                y = F.linear(y, weight, bias)
                ops.add_norm_into(rows, y, *self.blocks[i].norm1[1:])  # y becomes the next block's normalised input
            else:
                rows.addmm_(y, weight.t())
        return x


def after(bias: Tensor | None, layer: Layer) -> Layer:
    """Return a linear layer for an input from which this bias was left out."""
    if bias is None:
        return layer
    weight, own = layer
    wide = torch.promote_types(weight.dtype, torch.float32)
    return weight, (own.to(wide) + (weight.to(wide) * bias).sum(1)).to(own.dtype)


def by_tap(weight: Tensor) -> Tensor:
    """Return a depthwise convolution's weight (C, 3, 3), stored in the order in which the CUDA kernel reads it."""
    return weight.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def norm_of(norm: nn.Module) -> Norm:
    """Return the arguments of `torch.layer_norm` after the tensor."""
    weight, bias = cast(Tensor, norm.weight), cast(Tensor, norm.bias)
    return weight.shape, weight, bias, cast(float, norm.eps)
