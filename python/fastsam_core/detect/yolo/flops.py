"""Counting the arithmetic of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .network import Network


def gflops(network: Network, side: int) -> float:
    """Return the floating-point operations, in 1e9, of the convolutions for one square input.

    A multiply-add counts as two. The side is rounded up to a multiple of 32. A copy of the network runs on PyTorch's
    "meta" device, without data, which takes no memory and hardly any time.
    """
    total = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        # Each weight is applied at each position of the output, or of the input in a transposed convolution.
        positions = output if isinstance(module, nn.Conv2d) else inputs[0]
        total += 2 * module.weight.numel() * positions.shape[-2] * positions.shape[-1]

    side = -(-side // 32) * 32
    with torch.device("meta"), torch.no_grad():
        meta_network = Network(network.architecture)
        for module in meta_network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(count)
        meta_network(torch.empty(1, 3, side, side))
    return total / 1e9
