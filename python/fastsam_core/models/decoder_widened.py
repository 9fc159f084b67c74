"""Widen a narrow mask decoder to the official width without changing its outputs: kernels exist for that width only.

Every channel is repeated several times. The mean and variance over the repeated channels equal those over the original
ones, so LayerNorm does the same to each copy. Weights that sum over copies are divided by their number, a power of two,
which is exact. The dot products of a head grow by the number of copies, while its scale 1 / sqrt(d) shrinks by the
square root of it; dividing the queries by that root corrects for the difference.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from ..ops._decoder.layouts import HEAD_DIM, HEADS
from .common import MLP, LayerNorm2d
from .mask_decoder import DecoderAttention, MaskDecoder, TokenMLP

WIDTH = 2 * HEADS * HEAD_DIM  # channels of a token; cross-attention uses half as many


def copies_of(decoder: MaskDecoder) -> int:
    """Return how many copies of each channel give a decoder the official width, or 0 if that is impossible."""
    width = decoder.transformer_dim
    copies = WIDTH // width
    attention = decoder.transformer.blocks[0].cross_attn_token_to_image
    fits = copies * width == WIDTH and copies & (copies - 1) == 0
    return copies if fits and attention.num_heads == HEADS and copies * attention.head_dim == HEAD_DIM else 0


def repeated(x: Tensor, copies: int) -> Tensor:
    """Repeat the channels: (..., C) to (..., copies * C)."""
    return x if copies == 1 else x.repeat(*[1] * (x.dim() - 1), copies)


@torch.no_grad()
def widened(decoder: MaskDecoder, copies: int) -> MaskDecoder:
    """Return the decoder with every channel repeated `copies` times, for inference, in its own dtype.

    It takes image, position and prompt tokens that went through `repeated`, and yields the same masks and IoU. With one
    copy the decoder itself is returned.
    """
    if copies == 1:
        return decoder
    # Copied rather than constructed: construction would draw random numbers or, on the meta device, import a large part
    # of PyTorch.
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
        # Their outputs are multiplied with all copies of each upscaled channel, so they are divided as well.
        _put(new_head[-1], head[-1].weight.repeat(copies, 1) / copies, repeated(head[-1].bias, copies) / copies)
    return wide.eval()


def _heads_of(decoder: MaskDecoder) -> list[list[nn.Linear]]:
    """Return the layers of each mask token's MLP, followed by those of the IoU head."""
    heads = [*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head]
    return [[cast(nn.Linear, layer) for layer in cast(MLP, head).layers] for head in heads]


def _widen_attention(part: DecoderAttention, new: DecoderAttention, copies: int) -> None:
    """Set the widened projections of an attention, with the queries divided by the root of the number of copies."""
    heads, root = part.num_heads, copies**0.5
    for name, share in (("q_proj", root), ("k_proj", 1.0), ("v_proj", 1.0)):
        layer = cast(nn.Linear, getattr(part, name))
        weight, bias = (_copied_in_heads(x / share, heads, copies) for x in (layer.weight, layer.bias))
        _put(getattr(new, name), repeated(weight, copies) / copies, bias)
    weight = _copied_in_heads(part.out_proj.weight.T, heads, copies).T / copies
    _put(new.out_proj, weight.repeat(copies, 1), repeated(part.out_proj.bias, copies))


def _copied_in_heads(rows: Tensor, heads: int, copies: int) -> Tensor:
    """Repeat the rows within each head: (heads * d, ...) to (heads * copies * d, ...)."""
    split = rows.unflatten(0, (heads, 1, -1))
    return split.expand(heads, copies, *split.shape[2:]).flatten(0, 2)


def _put(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    """Set a layer's parameters and the size attributes that follow from their shapes."""
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
