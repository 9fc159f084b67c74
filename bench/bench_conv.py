"""MobileSAM's convolutions and its whole image encoder, compared with PyTorch in one process.

"pytorch" is the model's PyTorch form, which training uses. "channels last" is the same with weights and images in
PyTorch's channels-last memory format. The number in brackets after each time is its ratio to the fastest of the group.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastsam_core.models import registry, tiny_vit
from fastsam_core.models.tiny_vit import MBConv, PatchMerging

PEERS = ("pytorch", "channels last", "native")


def run(benchmark: Any, monkeypatch: pytest.MonkeyPatch, module: nn.Module, x: Tensor, peer: str) -> None:
    """Time a layer or encoder on `x` (B, C, H, W). A layer's native form is given (B, H, W, C) instead."""
    module = module.eval()
    call: Any = module
    if peer == "channels last":
        module.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    elif peer == "native" and hasattr(module, "infer"):
        call, x = module.infer, x.permute(0, 2, 3, 1).contiguous()
    if peer != "native":
        monkeypatch.setattr(tiny_vit, "can_use_native", lambda *_: False)
    with torch.inference_mode():
        benchmark.pedantic(call, (x,), rounds=5, warmup_rounds=2)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("dim", "size"), [(64, 256), (32, 96)])
def test_mbconv(benchmark: Any, monkeypatch: pytest.MonkeyPatch, dim: int, size: int, peer: str) -> None:
    benchmark.group = f"MBConv, {size} x {size} x {dim}, {torch.get_num_threads()} threads"
    run(benchmark, monkeypatch, MBConv(dim), torch.randn(1, dim, size, size), peer)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("dim", "out_dim", "size", "stride"), [(64, 128, 256, 2), (128, 160, 128, 2), (160, 320, 64, 1)]
)
def test_patch_merging(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, dim: int, out_dim: int, size: int, stride: int, peer: str
) -> None:
    benchmark.group = f"PatchMerging, {size} x {size} x {dim} to {out_dim}, {torch.get_num_threads()} threads"
    run(benchmark, monkeypatch, PatchMerging(dim, out_dim, stride), torch.randn(1, dim, size, size), peer)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", ["mobile_sam", "sam_nano"])
def test_image_encoder(benchmark: Any, monkeypatch: pytest.MonkeyPatch, name: str, peer: str) -> None:
    size = registry.MODELS[name].image_size
    benchmark.group = f"image encoder of {name} at {size}, {torch.get_num_threads()} threads"
    run(benchmark, monkeypatch, registry.build(name).image_encoder, torch.randn(1, 3, size, size), peer)
