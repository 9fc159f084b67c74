"""The image encoder under the import path of Meta's package, and its functions on windows and relative positions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.common import LayerNorm2d, MLPBlock
from ...models.image_encoder import ImageEncoderViT, PatchEmbed
from ...models.vit_block import Attention, Block
from ...ops._attention.windows import partition, unpartition

__all__ = [
    "Attention",
    "Block",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MLPBlock",
    "PatchEmbed",
    "add_decomposed_rel_pos",
    "get_rel_pos",
    "window_partition",
    "window_unpartition",
]


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Split tokens (B, H, W, C) into windows (B * windows, window_size, window_size, C).

    The grid is padded with zeros to (Hp, Wp), multiples of `window_size`, which are also returned.
    """
    height, width = (-(-side // window_size) * window_size for side in x.shape[1:3])
    return partition(x, window_size, x.new_zeros(x.shape[3])), (height, width)


def window_unpartition(windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """Invert `window_partition`: return tokens (B, H, W, C) without the padding.

    hw: (H, W). pad_hw: (Hp, Wp). Raises ValueError if that isn't (H, W) rounded up to multiples of `window_size`.
    """
    expected = tuple(-(-side // window_size) * window_size for side in hw)
    if tuple(pad_hw) != expected:
        raise ValueError(f"pad_hw must be {expected} for {tuple(hw)} and windows of {window_size}, not {tuple(pad_hw)}")
    return unpartition(windows, *hw)


def get_rel_pos(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """Look up the relative position embeddings of each query and key position on an axis: (q_size, k_size, d).

    rel_pos: (L, d), resampled if L isn't 2 * max(q_size, k_size) - 1. If the sizes differ, the positions of the shorter
    axis are spread over the longer one.
    """
    longest = max(q_size, k_size)
    if rel_pos.shape[0] != 2 * longest - 1:
        rel_pos = F.interpolate(rel_pos.T[None], size=2 * longest - 1, mode="linear")[0].T
    query, key = (
        torch.arange(size, device=rel_pos.device) * max(other / size, 1.0)
        for size, other in ((q_size, k_size), (k_size, q_size))
    )
    distance = query[:, None] - key[None, :] + (k_size - 1) * max(q_size / k_size, 1.0)
    return rel_pos[distance.long()]


def add_decomposed_rel_pos(
    attn: Tensor,
    q: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> Tensor:
    """Add relative positions to attention scores: the product of each query with the embedding of its distance.

    Args:
        attn: scores (B, q_h * q_w, k_h * k_w).
        q: queries (B, q_h * q_w, d), not scaled.
        rel_pos_h: (L, d), embeddings of distances between rows.
        rel_pos_w: (L, d), embeddings of distances between columns.
        q_size: (q_h, q_w).
        k_size: (k_h, k_w).
    """
    grid = q.unflatten(1, q_size)
    rows = torch.einsum("bhwc,hkc->bhwk", grid, get_rel_pos(q_size[0], k_size[0], rel_pos_h))
    columns = torch.einsum("bhwc,wkc->bhwk", grid, get_rel_pos(q_size[1], k_size[1], rel_pos_w))
    bias = rows[..., :, None] + columns[..., None, :]
    return attn + bias.reshape(attn.shape)
