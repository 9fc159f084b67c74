"""What the mask decoder's weights make of an image once, so that no prompt needs image tokens of its own.

Notation: X (L, C) are the image's tokens, P (T per head, L) the weights of an attention of image tokens to a prompt's
tokens, V the values of these, W_o the attention's output projection, J = 1 - 1/C the centring over channels, w and b
the weight and bias of the LayerNorm that follows. The first block's image tokens are

    X1 = w1 * Z1 / s1 + b1,   Z1 = J (X + b_o1) + J W_o1 V1 P1,   s1^2 = |Z1|^2 / C + eps

that is, a part given by the image and a part in the span of the prompt's few values. The second block adds to that:

    X2 = w2 * Z2 / s2 + b2,   Z2 = (D + E V1 P1) / s1 + f + A3 V3 P2,   D = J (w1 * J (X + b_o1)),
    E = J (w1 * J W_o1),   f = J (b1 + b_o3),   A3 = J W_o3

so that a product of X1 or X2 with anything (queries of the next look, the values that it averages, the first step of
the upscaling) is a product with the image's part, projected here to `inner` = heads * head_dim channels, and products
of V1 P1 and V3 P2 with `inner` x `inner` matrices, made here from the weights alone. |Z|^2 is a quadratic form in P.
Per image token and prompt that is about 56 x 56 multiplications for each product instead of 56 x 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..ops._decoder.panels import PANEL, count_panels, to_panels
from ..ops._decoder.weights import Block, ImageParts, Layer, Mixes, TokenSizes, TokenWeights, pack
from .common import MLP
from .mask_decoder import MaskDecoder, TwoWayBlock


@dataclass(frozen=True)
class Features:
    length: int  # image tokens
    heads: int
    eps: float  # of every LayerNorm
    image: ImageParts
    constant: float  # |f|^2 / C
    base: Tensor  # (panels, 4 * middle, 16)
    weights: Tensor  # `TokenWeights`, packed
    sizes: TokenSizes
    mask_layers: Tensor  # (masks, the three layers of a mask's token, packed)
    mask_sizes: list[int]  # how many outputs each has
    # The first step of the upscaling: (4 * middle, inner) twice, (4 * middle,).
    enlarge_mix: tuple[Tensor, Tensor, Tensor]
    enlarge_bias: Tensor  # (4 * middle,)


def features(decoder: MaskDecoder, source: Tensor, position: Tensor) -> Features:
    """source, position: (L, C), image tokens with the dense prompt, and their position embedding."""
    first, second = decoder.transformer.blocks
    look0, answer1 = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    look1, answer2 = second.cross_attn_token_to_image, second.cross_attn_image_to_token
    look2 = decoder.transformer.final_attn_token_to_image
    w1, w2 = first.norm4.weight[:, None], second.norm4.weight[:, None]
    channels, heads = source.shape[1], look0.num_heads
    enlarge, enlarge_bias = as_matrix(decoder.output_upscaling[0])

    # Weights alone: columns over C, so that centring is over rows.
    out1, out2 = _centre(answer1.out_proj.weight), _centre(answer2.out_proj.weight)  # (C, inner)
    weighted = w1 * out1
    spread = _centre(weighted)  # E
    rest = _centre((first.norm4.bias + answer2.out_proj.bias)[:, None])  # f, (C, 1)
    keys1, values1, keys2, values2 = (m.weight for m in (look1.k_proj, look1.v_proj, look2.k_proj, look2.v_proj))
    queries2 = answer2.q_proj.weight

    # What the image gives: X centred, then D; each projection is a product with one wide matrix.
    centred = source + answer1.out_proj.bias
    centred = centred - centred.mean(dim=1, keepdim=True)
    weighted_source = centred * w1[:, 0]
    spread_source = weighted_source - weighted_source.mean(dim=1, keepdim=True)  # D
    placed = source + position
    from_position = position @ torch.cat([keys1, queries2, keys2]).T
    position1, position2, position3 = from_position.chunk(3, dim=1)
    from_weighted = weighted_source @ torch.cat([keys1, values1, queries2]).T
    key1, value1, query2 = from_weighted.chunk(3, dim=1)
    inner = key1.shape[1]
    from_spread = spread_source @ torch.cat([spread, out2, (w2 * keys2.T), (w2 * values2.T), w2 * enlarge.T], 1)
    own, cross, key2, value2 = from_spread[:, : 4 * inner].chunk(4, dim=1)
    image1 = torch.cat([answer1.q_proj(placed), centred @ out1, key1, position1], 1)
    image2 = torch.cat([query2, position2, own, cross, key2, position3], 1)
    norms2 = torch.stack([spread_source.square().mean(1), spread_source @ rest[:, 0] * (2 / channels)], 1)
    parts = ImageParts(
        first_keys=to_panels(look0.k_proj(placed)),
        first_values=_values(look0.v_proj(source), heads),
        image1=to_panels(image1),
        values1=_values(value1, heads),
        norms1=to_panels(centred.square().mean(1)[:, None])[:, 0].contiguous(),
        image2=to_panels(image2),
        values2=_values(value2, heads),
        norms2=to_panels(norms2),
    )
    mixes = Mixes(
        gram1=out1.T @ out1 / channels,
        look1=keys1 @ weighted,
        seen1=values1 @ weighted,
        seen1_bias=values1 @ first.norm4.bias + look1.v_proj.bias,
        keys=queries2 @ weighted,
        keys_bias=queries2 @ first.norm4.bias + answer2.q_proj.bias,
        own=spread.T @ spread / channels,
        own_bias=(spread.T @ rest)[:, 0] * (2 / channels),
        cross=out2.T @ spread * (2 / channels),
        cross_bias=(out2.T @ rest)[:, 0] * (2 / channels),
        gram2=out2.T @ out2 / channels,
        look2_first=keys2 @ (w2 * spread),
        look2_second=keys2 @ (w2 * out2),
        look2_rest=(keys2 @ (w2 * rest))[:, 0],
        seen2_first=values2 @ (w2 * spread),
        seen2_second=values2 @ (w2 * out2),
        seen2_rest=(values2 @ (w2 * rest))[:, 0],
        seen2_bias=values2 @ second.norm4.bias + look2.v_proj.bias,
    )
    weights = _token_weights(decoder, mixes)
    heads_of_masks = [cast(MLP, head).layers for head in decoder.output_hypernetworks_mlps]
    return Features(
        length=len(source),
        heads=heads,
        eps=first.norm4.eps,
        image=parts,
        constant=float(rest.square().mean()),
        base=to_panels(from_spread[:, 4 * inner :]),
        weights=pack(weights),
        sizes=TokenSizes.of(weights),
        mask_layers=torch.stack([pack(map(_layer, layers)) for layers in heads_of_masks]),
        mask_sizes=[len(_layer(layer).bias) for layer in heads_of_masks[0]],
        enlarge_mix=(enlarge @ (w2 * spread), enlarge @ (w2 * out2), (enlarge @ (w2 * rest))[:, 0]),
        enlarge_bias=enlarge @ second.norm4.bias + enlarge_bias,
    )


def _token_weights(decoder: MaskDecoder, mixes: Mixes) -> TokenWeights:
    transformer = decoder.transformer
    first, second = transformer.blocks
    look = transformer.final_attn_token_to_image
    iou1, iou2, iou3 = map(_layer, decoder.iou_prediction_head.layers)
    return TokenWeights(
        _block(first),
        _block(second),
        _layer(look.q_proj),
        _layer(look.out_proj),
        _layer(transformer.norm_final_attn),
        iou1,
        iou2,
        iou3,
        mixes,
    )


def _block(block: TwoWayBlock) -> Block:
    own, look, answer = block.self_attn, block.cross_attn_token_to_image, block.cross_attn_image_to_token
    layers = (
        *(own.q_proj, own.k_proj, own.v_proj, own.out_proj, block.norm1),
        *(look.q_proj, look.out_proj, block.norm2),
        *(block.mlp.lin1, block.mlp.lin2, block.norm3, answer.k_proj, answer.v_proj),
    )
    return Block(*map(_layer, layers))


def _layer(layer: nn.Module) -> Layer:
    layer = cast(nn.Linear, layer)  # or a LayerNorm, with the same two parameters
    return Layer(layer.weight.detach(), layer.bias.detach())


def as_matrix(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """A transposed convolution with 2 x 2 kernels at stride 2: (4 * C', C), sub-cells first, and its bias (4 * C')."""
    conv = cast(nn.ConvTranspose2d, conv)
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    return weight, bias.repeat(4)


def _centre(columns: Tensor) -> Tensor:
    return columns - columns.mean(dim=0, keepdim=True)


def _values(x: Tensor, heads: int) -> Tensor:
    """(L, heads * d) to (heads, panels * 16, d rounded up to 16), zeros beyond."""
    length, head_dim = len(x), x.shape[1] // heads
    out = x.new_zeros(heads, count_panels(length) * PANEL, count_panels(head_dim) * PANEL)
    out[:, :length, :head_dim] = x.unflatten(1, (heads, head_dim)).transpose(0, 1)
    return out
