"""A narrow mask decoder as one of the official width, with the same outputs: kernels are there for one width only.

Every channel is there several times. The mean and the variance of such channels are those of the single ones, so that
LayerNorm does to each copy what it did to the channel; products with them are divided by the number of copies, a power
of two, which rounds nothing. A head's dot products grow by that number and its scale 1 / sqrt(d) shrinks by the root of
it, which its queries make up for.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from ..ops._decoder.layouts import HEAD_DIM, HEADS
from .common import MLP, LayerNorm2d
from .mask_decoder import DecoderAttention, MaskDecoder, TokenMLP

WIDTH = 2 * HEADS * HEAD_DIM  # channels of a token, of which cross-attention takes half


def copies_of(decoder: MaskDecoder) -> int:
    """How often each channel of a decoder has to be there for it to have the official width; 0 where that can't be."""
    width = decoder.transformer_dim
    copies = WIDTH // width
    attention = decoder.transformer.blocks[0].cross_attn_token_to_image
    fits = copies * width == WIDTH and copies & (copies - 1) == 0
    return copies if fits and attention.num_heads == HEADS and copies * attention.head_dim == HEAD_DIM else 0


def repeated(x: Tensor, copies: int) -> Tensor:
    """(..., C) to (..., copies * C)."""
    return x if copies == 1 else x.repeat(*[1] * (x.dim() - 1), copies)


@torch.no_grad()
def widened(decoder: MaskDecoder, copies: int) -> MaskDecoder:
    """The decoder with every channel so many times, for inference; itself for one. In the dtype that it has.

    It takes what `repeated` makes of the channels of image, position and prompts, and gives the same masks and IoU.
    """
    if copies == 1:
        return decoder
    # Not made anew: that would draw random numbers, or on the meta device import a good part of PyTorch.
    wide = copy.deepcopy(decoder, {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())})
    wide.transformer_dim = copies * decoder.transformer_dim
    for part, new in zip(decoder.modules(), wide.modules(), strict=True):
        if isinstance(part, nn.LayerNorm | LayerNorm2d):
            _put(new, repeated(part.weight, copies), repeated(part.bias, copies))
        elif isinstance(part, nn.Embedding):
            _put(new, repeated(part.weight, copies))
        elif isinstance(part, nn.ConvTranspose2d):
            bias = None if part.bias is None else repeated(part.bias, copies)
            _put(new, part.weight.repeat(copies, copies, 1, 1) / copies, bias)
        elif isinstance(part, DecoderAttention):
            _widen_attention(part, cast(DecoderAttention, new), copies)
        elif isinstance(part, TokenMLP):
            new = cast(TokenMLP, new)
            _put(new.lin1, repeated(part.lin1.weight, copies) / copies, part.lin1.bias)
            _put(new.lin2, part.lin2.weight.repeat(copies, 1), repeated(part.lin2.bias, copies))
    for head, new_head in zip(_heads_of(decoder), _heads_of(wide), strict=True):
        _put(new_head[0], repeated(head[0].weight, copies) / copies, head[0].bias)
    for head, new_head in zip(_heads_of(decoder)[:-1], _heads_of(wide)[:-1], strict=True):
        # These meet each channel's copies, too.
        _put(new_head[-1], head[-1].weight.repeat(copies, 1) / copies, repeated(head[-1].bias, copies) / copies)
    return wide.eval()


def _heads_of(decoder: MaskDecoder) -> list[list[nn.Linear]]:
    """The layers of the masks' heads, and last those of the predicted IoU's."""
    heads = [*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head]
    return [[cast(nn.Linear, layer) for layer in cast(MLP, head).layers] for head in heads]


def _widen_attention(part: DecoderAttention, new: DecoderAttention, copies: int) -> None:
    heads, root = part.num_heads, copies**0.5
    for name, share in (("q_proj", root), ("k_proj", 1.0), ("v_proj", 1.0)):
        layer = cast(nn.Linear, getattr(part, name))
        weight, bias = (_copied_in_heads(x / share, heads, copies) for x in (layer.weight, layer.bias))
        _put(getattr(new, name), repeated(weight, copies) / copies, bias)
    weight = _copied_in_heads(part.out_proj.weight.T, heads, copies).T / copies
    _put(new.out_proj, weight.repeat(copies, 1), repeated(part.out_proj.bias, copies))


def _copied_in_heads(rows: Tensor, heads: int, copies: int) -> Tensor:
    """(heads * d, ...) to (heads * copies * d, ...)."""
    split = rows.unflatten(0, (heads, 1, -1))
    return split.expand(heads, copies, *split.shape[2:]).flatten(0, 2)


def _put(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(layer, name, nn.Parameter(value.detach().contiguous(), requires_grad=False))
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.ConvTranspose2d):
        layer.in_channels, layer.out_channels = weight.shape[:2]
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = weight.shape[1]
