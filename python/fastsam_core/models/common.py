"""Small layers and helpers that several networks share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .module_cache import watch_settings
from .native import watch_methods

# Mean and standard deviation of ImageNet's RGB channels on the 0..255 scale, as in the reference.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of red, green and blue


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a (B, C, H, W) tensor."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> same
        # The vectorised LayerNorm kernel needs channels last; the permutes are views.
        return self.channels_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def channels_last(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> same
        # Autocast on a CPU passes bfloat16 with float32 weights. As in the reference, the wider type is returned.
        return F.layer_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.bias, self.eps)


class MLP(nn.Module):
    """Linear layers with ReLU between them, as in the decoder's heads, and optionally with a sigmoid at the end."""

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, sigmoid_output: bool = False
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.sigmoid_output = sigmoid_output
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:  # (..., input_dim) -> (..., output_dim)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid_output else x


class MLPBlock(nn.Module):
    """Two linear layers with an activation between them, as in the transformer blocks."""

    def __init__(self, embedding_dim: int, mlp_dim: int, act: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:  # (..., embedding_dim) -> same
        return self.lin2(self.act(self.lin1(x)))


watch_methods(LayerNorm2d, MLP, MLPBlock)
watch_settings(LayerNorm2d, "eps")
watch_settings(MLP, "sigmoid_output")


def neck(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build the last layers of every image encoder.

    They are a 1 x 1 convolution to the embedding width and a 3 x 3 convolution, each followed by LayerNorm.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )


def neck_channels_last(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply the layers from `neck` with native operations: (B, H, W, in_channels) to (B, out_channels, H, W)."""
    conv1, conv2 = cast(nn.Conv2d, layers[0]), cast(nn.Conv2d, layers[2])
    first_norm, last_norm = cast(LayerNorm2d, layers[1]), cast(LayerNorm2d, layers[3])
    x = first_norm.channels_last(ops.linear(x, conv1.weight.flatten(1)))
    x = ops.conv3x3(x, conv2.weight, conv2.weight.new_zeros(conv2.out_channels))
    return last_norm.channels_last(x).permute(0, 3, 1, 2).contiguous()


def get_members(module: nn.Module, *names: str) -> list[Any]:
    """Return parameters and submodules of a module by name.

    Reading them from the module's dictionaries avoids `nn.Module.__getattr__`, which takes some microseconds per name,
    more than many a kernel launch.
    """
    parameters, submodules = module._parameters, module._modules
    members: list[Any] = []
    for name in names:
        value: Any = parameters.get(name)
        if value is None:
            value = submodules.get(name)
        members.append(getattr(module, name) if value is None else value)
    return members


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device` without waiting; the caller may change or free it right away."""
    if device.type != "cuda":
        return host.to(device)
    # Stage through a new pinned tensor even if `host` is pinned: the caller may overwrite its memory. `pin_memory` also
    # fails for expanded tensors.
    return torch.empty_like(host, pin_memory=True).copy_(host).to(device, non_blocking=True)
