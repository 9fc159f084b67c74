"""Signatures and fakes of attention."""

from __future__ import annotations

from torch import Tensor

from .inputs import check_attention, check_windowed_attention

SCHEMAS = {
    "attention": (
        "(Tensor qkv, Tensor rel_pos_h, Tensor rel_pos_w, int num_heads, int window=0, Tensor? padding=None) -> Tensor"
    ),
    "windowed_attention": "(Tensor qkv, Tensor bias, int window, Tensor? padding=None) -> Tensor",
}


def attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    num_heads: int,
    window: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    check_attention(qkv, rel_pos_h, rel_pos_w, num_heads, window, padding)
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


def windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    check_windowed_attention(qkv, bias, window, padding)
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
