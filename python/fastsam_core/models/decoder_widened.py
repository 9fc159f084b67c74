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
from .common import MLP, LayerNorm2d, MLPBlock
from .mask_decoder import DecoderAttention, MaskDecoder

WIDTH = 2 * HEADS * HEAD_DIM  # channels of a token; cross-attention uses half as many


def count_copies(decoder: MaskDecoder) -> int:
    """Return how many copies of each channel give a decoder the official width, or 0 if that is impossible."""
    width = decoder.transformer_dim
    copies = WIDTH // width
    attention = decoder.transformer.blocks[0].cross_attn_token_to_image
    fits = copies * width == WIDTH and copies & (copies - 1) == 0
    return copies if fits and attention.num_heads == HEADS and copies * attention.head_dim == HEAD_DIM else 0


def repeat_channels(x: Tensor, copies: int) -> Tensor:
    """Repeat the channels: (..., C) to (..., copies * C)."""
    return x if copies == 1 else x.repeat(*[1] * (x.dim() - 1), copies)


@torch.no_grad()
def widen_decoder(decoder: MaskDecoder, copies: int) -> MaskDecoder:
    """Return the decoder with every channel repeated `copies` times, for inference, in its own dtype.

    It takes image, position and prompt tokens that went through `repeat_channels`, and yields the same masks and IoU.
    With one copy the decoder itself is returned.
    """
    if copies == 1:
        return decoder
    # Copied rather than constructed: construction would draw random numbers or, on the meta device, import a large part
    # of PyTorch.
    wide = copy.deepcopy(decoder, {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())})
    wide.transformer_dim = copies * decoder.transformer_dim
    for module, new in zip(decoder.modules(), wide.modules(), strict=True):
        if isinstance(module, nn.LayerNorm | LayerNorm2d):
            _set_parameters(new, repeat_channels(module.weight, copies), repeat_channels(module.bias, copies))
        elif isinstance(module, nn.Embedding):
            _set_parameters(new, repeat_channels(module.weight, copies))
        elif isinstance(module, nn.ConvTranspose2d):
            bias = None if module.bias is None else repeat_channels(module.bias, copies)
            _set_parameters(new, module.weight.repeat(copies, copies, 1, 1) / copies, bias)
        elif isinstance(module, DecoderAttention):
            _widen_attention(module, cast(DecoderAttention, new), copies)
        elif isinstance(module, MLPBlock):
            new = cast(MLPBlock, new)
            _set_parameters(new.lin1, repeat_channels(module.lin1.weight, copies) / copies, module.lin1.bias)
            _set_parameters(new.lin2, module.lin2.weight.repeat(copies, 1), repeat_channels(module.lin2.bias, copies))
    for head, new_head in zip(_heads_of(decoder), _heads_of(wide), strict=True):
        _set_parameters(new_head[0], repeat_channels(head[0].weight, copies) / copies, head[0].bias)
    for head, new_head in zip(_heads_of(decoder)[:-1], _heads_of(wide)[:-1], strict=True):
        # Their outputs are multiplied with all copies of each upscaled channel, so they are divided as well.
        _set_parameters(
            new_head[-1], head[-1].weight.repeat(copies, 1) / copies, repeat_channels(head[-1].bias, copies) / copies
        )
    return wide.eval()


def _heads_of(decoder: MaskDecoder) -> list[list[nn.Linear]]:
    """Return the layers of each mask token's MLP, followed by those of the IoU head."""
    heads = [*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head]
    return [[cast(nn.Linear, layer) for layer in cast(MLP, head).layers] for head in heads]


def _widen_attention(module: DecoderAttention, new: DecoderAttention, copies: int) -> None:
    """Set the widened projections of an attention, with the queries divided by the root of the number of copies."""
    heads, root = module.num_heads, copies**0.5
    for name, divisor in (("q_proj", root), ("k_proj", 1.0), ("v_proj", 1.0)):
        layer = cast(nn.Linear, getattr(module, name))
        weight, bias = (_repeat_in_heads(x / divisor, heads, copies) for x in (layer.weight, layer.bias))
        _set_parameters(getattr(new, name), repeat_channels(weight, copies) / copies, bias)
    weight = _repeat_in_heads(module.out_proj.weight.T, heads, copies).T / copies
    _set_parameters(new.out_proj, weight.repeat(copies, 1), repeat_channels(module.out_proj.bias, copies))


def _repeat_in_heads(rows: Tensor, heads: int, copies: int) -> Tensor:
    """Repeat the rows within each head: (heads * d, ...) to (heads * copies * d, ...)."""
    split = rows.unflatten(0, (heads, 1, -1))
    return split.expand(heads, copies, *split.shape[2:]).flatten(0, 2)


def _set_parameters(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
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
