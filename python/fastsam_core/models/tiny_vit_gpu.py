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

WeightAndBias = tuple[Tensor, Tensor]
LayerNormArgs = tuple[torch.Size, Tensor, Tensor, float]


class InferencePlan(NamedTuple):
    """Steps of the whole network. The second convolution's bias is folded into the first step."""

    stem_conv1: WeightAndBias
    stem_conv2: Tensor
    steps: list[ConvStep | TransformerStage]
    neck_conv1: WeightAndBias
    neck_norm1: LayerNormArgs
    neck_conv2: Tensor
    neck_norm2: LayerNormArgs

    def run(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, out_channels, S / 16, S / 16)
        x = F.conv2d(images, *self.stem_conv1, 2, 1)
        x = F.conv2d(gelu_(x), self.stem_conv2, None, 2, 1)
        x = x.permute(0, 2, 3, 1).contiguous()  # no copy: cuDNN's output has this layout
        for step in self.steps:
            x = step.run(x)
        x = torch.layer_norm(F.linear(x, *self.neck_conv1), *self.neck_norm1)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.neck_conv2, None, 1, 1)
        return torch.layer_norm(x.permute(0, 2, 3, 1), *self.neck_norm2).permute(0, 3, 1, 2)


class ConvStep(NamedTuple):
    """Weights of an `MBConv`, which has a residual, or of a `PatchMerging`."""

    expand: WeightAndBias
    depthwise: WeightAndBias
    project: WeightAndBias
    stride: int
    residual: bool

    def run(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> (B, H / stride, W / stride, out_dim)
        y = gelu_(F.linear(x, *self.expand))
        y = F.linear(ops.depthwise3x3(y, *self.depthwise, self.stride, True), *self.project)
        if not self.residual:
            return y
        y += x
        return gelu_(y)

    def fold_input_bias(self, bias: Tensor | None) -> ConvStep:
        """Return the step for an input `x` from which this bias was left out."""
        if bias is None:
            return self
        weight, project_bias = self.project
        project = (weight, project_bias + bias) if self.residual else self.project
        return self._replace(expand=fold_input_bias(bias, self.expand), project=project)


class TransformerBlock(NamedTuple):
    """Weights of a `TinyViTBlock`."""

    norm1: LayerNormArgs
    qkv: WeightAndBias
    bias: Tensor
    window: int
    padding: Tensor
    proj: WeightAndBias
    depthwise: WeightAndBias
    norm2: LayerNormArgs
    fc1: WeightAndBias
    fc2: WeightAndBias


class TransformerStage(NamedTuple):
    """All `TinyViTBlock`s of a stage. The result lacks the last one's last bias, which the next step includes."""

    blocks: list[TransformerBlock]

    def run(self, x: Tensor) -> Tensor:  # (B, H, W, C), which it overwrites, -> same
        grid, width = x.shape[:3], x.shape[3]
        # Linear layers make no views for inputs of rows.
        rows = x.view(-1, width)
        y = torch.layer_norm(rows, *self.blocks[0].norm1)
        for i, block in enumerate(self.blocks, 1):
            y = F.linear(y, *block.qkv)
            y = ops.windowed_attention(y.view(*grid, 3 * width), block.bias, block.window, block.padding)
            weight, bias = block.proj
            # The product adds to the residual directly; the bias is added by the convolution that reads the sum.
            rows.addmm_(y.view(-1, width), weight.t())
            x = ops.depthwise3x3(x, *block.depthwise, shift=bias)
            rows = x.view(-1, width)
            y = gelu_(F.linear(torch.layer_norm(rows, *block.norm2), *block.fc1))
            weight, bias = block.fc2
            if i < len(self.blocks):
                y = F.linear(y, weight, bias)
                ops.add_norm_into(rows, y, *self.blocks[i].norm1[1:])  # y becomes the next block's normalised input
            else:
                rows.addmm_(y, weight.t())
        return x


def fold_input_bias(bias: Tensor | None, layer: WeightAndBias) -> WeightAndBias:
    """Return a linear layer for an input from which this bias was left out."""
    if bias is None:
        return layer
    weight, layer_bias = layer
    compute_dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight, (layer_bias.to(compute_dtype) + (weight.to(compute_dtype) * bias).sum(1)).to(layer_bias.dtype)


def to_tap_major(weight: Tensor) -> Tensor:
    """Return a depthwise convolution's weight (C, 3, 3), stored in the order in which the CUDA kernel reads it."""
    return weight.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def layer_norm_args(norm: nn.Module) -> LayerNormArgs:
    """Return the arguments of `torch.layer_norm` after the tensor."""
    weight, bias = cast(Tensor, norm.weight), cast(Tensor, norm.bias)
    return weight.shape, weight, bias, cast(float, norm.eps)
