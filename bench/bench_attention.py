"""Attention of the image encoders, compared with PyTorch in one process.

"sdpa" is PyTorch's fused attention with the whole position bias materialised, given separate q, k and v. Building the
bias is timed, since it depends on the queries. "reference" is the same in blocks of queries, given packed q, k and v.
The number in brackets after each time is its ratio to the fastest of the group.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.ops._attention.windows import partition, unpartition

NATIVE = [name for name in ops.siblings("attention") if name != "reference"][:1]
PEERS = ["sdpa", "reference", *NATIVE]


def sdpa(q: Tensor, k: Tensor, v: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, side: int) -> Tensor:
    """Compute attention from q, k, v (B, heads, N, d) and tables (side, side, d) by query and key position."""
    grid = q.unflatten(2, (side, side))
    rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, rel_pos_h)
    rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, rel_pos_w)
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(4).flatten(2, 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("model", "heads", "dim", "window"),
    [("ViT-B", 12, 64, 0), ("ViT-B", 12, 64, 14), ("ViT-H", 16, 80, 0), ("ViT-H", 16, 80, 14)],
)
@torch.no_grad()
def test_attention(benchmark: Any, model: str, heads: int, dim: int, window: int, peer: str) -> None:
    torch.manual_seed(0)
    side = window or 64
    qkv = torch.randn(1, 64, 64, 3 * heads * dim)
    rel_pos_h, rel_pos_w = torch.randn(2, 2 * side - 1, dim) * 0.1
    padding = torch.randn(3 * heads * dim)
    attention_kind = f"windows of {window}" if window else "global"
    benchmark.group = f"attention {model} 64 x 64, {attention_kind}, {torch.get_num_threads()} threads"
    if peer == "sdpa":
        by_position = torch.arange(side)[:, None] - torch.arange(side) + side - 1
        tokens = partition(qkv, window, padding) if window else qkv
        qkv_by_head = tokens.flatten(1, 2).unflatten(-1, (3, heads, dim)).permute(2, 0, 3, 1, 4).contiguous()
        arguments = (*qkv_by_head, rel_pos_h[by_position], rel_pos_w[by_position], side)
        out = benchmark.pedantic(sdpa, arguments, rounds=5, warmup_rounds=1)
        out = out.transpose(1, 2).flatten(2).unflatten(1, (side, side))
        out = unpartition(out, 64, 64)
    else:
        arguments = (qkv, rel_pos_h, rel_pos_w, heads, window, padding)
        out = benchmark.pedantic(ops.siblings("attention")[peer], arguments, rounds=5, warmup_rounds=1)
    torch.testing.assert_close(
        out, ops.attention(qkv, rel_pos_h, rel_pos_w, heads, window, padding), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("peer", PEERS[1:])
@pytest.mark.parametrize(("grid", "heads", "window"), [(128, 4, 7), (64, 5, 14), (64, 10, 7)])
@torch.no_grad()
def test_windowed_attention(benchmark: Any, grid: int, heads: int, window: int, peer: str) -> None:
    torch.manual_seed(0)
    qkv, bias = torch.randn(1, grid, grid, 96 * heads), torch.randn(heads, window**2, window**2)
    arguments = (qkv, bias, window, torch.randn(96 * heads))
    benchmark.group = f"attention MobileSAM {grid} x {grid}, {heads} heads, {torch.get_num_threads()} threads"
    out = benchmark.pedantic(ops.siblings("windowed_attention")[peer], arguments, rounds=10, warmup_rounds=2)
    torch.testing.assert_close(out, ops.windowed_attention(*arguments), rtol=1e-4, atol=1e-4)
