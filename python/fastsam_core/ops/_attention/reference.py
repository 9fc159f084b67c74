"""Attention in plain PyTorch: the definition, the differentiable version, and the fallback for every device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import check_attention, check_windowed_attention
from .windows import partition, unpartition

# Elements of the position bias that are in memory at once: queries are processed in blocks of grid rows, so that the
# bias of the whole N x N matrix never is. 2**22 float32 values are 16 MiB, about what a last-level cache holds.
_BIAS_BLOCK_ELEMENTS = 2**22


def attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    num_heads: int,
    window: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    """See `fastsam_core.ops.attention`."""
    check_attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    if not qkv.numel():
        return qkv.new_zeros(*qkv.shape[:3], qkv.shape[3] // 3)
    rel_pos_h, rel_pos_w = rel_pos_h.to(qkv.dtype), rel_pos_w.to(qkv.dtype)
    if not window:
        return _attend(qkv, rel_pos_h, rel_pos_w, num_heads)
    windows = _attend(partition(qkv, window, padding), rel_pos_h, rel_pos_w, num_heads)
    return unpartition(windows, qkv.shape[1], qkv.shape[2]).contiguous()


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """See `fastsam_core.ops.windowed_attention`."""
    check_windowed_attention(qkv, bias, window, padding)
    if not qkv.numel():
        return qkv.new_zeros(*qkv.shape[:3], qkv.shape[3] // 3)
    windows = partition(qkv, window, padding)
    q, k, v = windows.flatten(1, 2).unflatten(-1, (bias.shape[0], 3, -1)).permute(3, 0, 2, 1, 4)  # (B, heads, N, d)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))
    out = out.transpose(1, 2).flatten(2).unflatten(1, (window, window))
    return unpartition(out, qkv.shape[1], qkv.shape[2]).contiguous()


def _attend(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, num_heads: int) -> Tensor:
    batch, height, width, _ = qkv.shape
    q, k, v = qkv.reshape(batch, height * width, 3, num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, d)
    q_grid = q.view(batch, num_heads, height, width, -1)
    # Position terms use the unscaled query: (B, heads, H, W, key rows) and (B, heads, H, W, key columns).
    rel_h = torch.einsum("bnhwc,hkc->bnhwk", q_grid, _lookup_rel_pos(rel_pos_h, height))
    rel_w = torch.einsum("bnhwc,wkc->bnhwk", q_grid, _lookup_rel_pos(rel_pos_w, width))
    rows = max(1, _BIAS_BLOCK_ELEMENTS // (batch * num_heads * width * height * width))
    blocks = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        bias = rel_h[:, :, top:bottom, :, :, None] + rel_w[:, :, top:bottom, :, None, :]
        block = F.scaled_dot_product_attention(
            q[:, :, top * width : bottom * width], k, v, attn_mask=bias.flatten(4).flatten(2, 3)
        )
        blocks.append(block.transpose(1, 2).reshape(batch, bottom - top, width, -1))
    return torch.cat(blocks, dim=1)


def _lookup_rel_pos(table: Tensor, size: int) -> Tensor:
    """Look up the vector of `table` (2 * size - 1, d) for each query and key position on an axis: (size, size, d)."""
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + size - 1]
