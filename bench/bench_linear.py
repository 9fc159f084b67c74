"""Fully connected layers in the sizes of ViT-B's encoder and of the decoder's tokens, compared with PyTorch.

"reference" is PyTorch's layer_norm, linear and gelu one after the other. The number in brackets after each time is its
ratio to the fastest of the group.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastsam_core import ops

PEERS = ["reference", *list(ops.siblings("linear"))[1:2]]  # the reference and the best instruction set
LAYERS = {
    "norm1 + qkv": (4096, 2304, 768, "none", True, False),
    "proj + residual": (4096, 768, 768, "none", False, True),
    "patch embedding": (4096, 768, 768, "none", False, True),
    "7 tokens, 256 to 2048": (7, 2048, 256, "relu", False, False),
    "100 tokens, 256 to 256": (100, 256, 256, "none", False, False),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("layer", LAYERS)
def test_linear(benchmark: Any, layer: str, peer: str) -> None:
    m, n, k, activation, norm, residual = LAYERS[layer]
    x, weight, bias = torch.randn(m, k), torch.randn(n, k) * k**-0.5, torch.randn(n)
    norms = (torch.rand(k), torch.rand(k)) if norm else (None, None)
    arguments = (x, weight, bias, activation, *norms, 1e-6, torch.randn(m, n) if residual else None)
    benchmark.group = f"{layer}, {torch.get_num_threads()} threads"
    with torch.inference_mode():
        y = benchmark.pedantic(ops.siblings("linear")[peer], arguments, rounds=9, warmup_rounds=2)
    torch.testing.assert_close(y, ops.linear(*arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("peer", PEERS)
def test_mlp(benchmark: Any, peer: str) -> None:
    k, hidden = 768, 3072
    arguments = (
        torch.randn(4096, k),
        torch.rand(k),
        torch.rand(k),
        1e-6,
        torch.randn(hidden, k) * k**-0.5,
        torch.randn(hidden),
        torch.randn(k, hidden) * hidden**-0.5,
        torch.randn(k),
    )
    benchmark.group = f"mlp 4096 x 768 x 3072, {torch.get_num_threads()} threads"
    with torch.inference_mode():
        y = benchmark.pedantic(ops.siblings("mlp")[peer], arguments, rounds=5, warmup_rounds=1)
    torch.testing.assert_close(y, ops.mlp(*arguments), rtol=1e-4, atol=1e-4)
