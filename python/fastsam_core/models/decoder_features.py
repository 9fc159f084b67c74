"""Precompute what the mask decoder's weights yield for an image, so that no prompt needs image tokens of its own.

Naming: "token-to-image" attention is that of a prompt's tokens to the image tokens, "image-to-token" attention that of
the image tokens to the prompt's tokens. Each of the two blocks has both, in this order; the final attention is
token-to-image. `token_to_image0` to `token_to_image2` read the image tokens X, X1 and X2 below.

Notation: X (L, C) are the image tokens, written as columns below. P (T per head, L) are the weights of an
image-to-token attention, V the values of the prompt's tokens in it, W_o its output projection and b_o the bias of that.
J = 1 - 1/C subtracts the mean over the channels. w and b are the weight and bias of the LayerNorm that follows. The
index 1 stands for the first block; for the second block, the image-to-token attention's values and output projection
have the index 3, everything else the index 2. After the first block, the image tokens are

    X1 = w1 * Z1 / s1 + b1,   Z1 = J (X + b_o1) + J W_o1 V1 P1,   s1^2 = |Z1|^2 / C + eps

that is, a part that only depends on the image, and a part in the span of the prompt's few values. The second block
turns this into

    X2 = w2 * Z2 / s2 + b2,   Z2 = (D + E V1 P1) / s1 + f + A3 V3 P2,   D = J (w1 * J (X + b_o1)),
    E = J (w1 * J W_o1),   f = J (b1 + b_o3),   A3 = J W_o3

Any product with X1 or X2 (keys and values of the next token-to-image attention, queries of the next image-to-token
attention, the first step of the upscaling) is therefore the sum of a product with the image's part, which is projected
here to `inner` = heads * head_dim channels, and of products of V1 P1 and V3 P2 with `inner` x `inner` matrices, which
are made here from the weights alone. |Z|^2 is a quadratic form in P. Per image token and prompt, each product takes
about 56 x 56 multiplications (8 heads x 7 tokens) instead of 56 x 256.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops._decoder.panels import PANEL, count_panels, to_panels
from ..ops._decoder.weights import Block, ImageParts, Layer, Mixes, TokenSizes, TokenWeights, pack
from .common import MLP, LayerNorm2d
from .decoder_widened import count_copies, repeat_channels, widen_decoder
from .mask_decoder import MaskDecoder, TwoWayBlock
from .module_cache import cached, is_capturing, stream_key, version_of
from .native import can_use_native
from .precision import cast_copy, dtype_of


@dataclass(frozen=True)
class DecoderWeights:
    """Tensors derived from a decoder's weights alone. The `_proj` matrices are laid out as in `torch.nn.Linear`."""

    heads: int
    eps: float  # of every LayerNorm
    inner: int  # heads * head_dim
    # Projects image tokens plus position: keys of token_to_image0, then queries of image_to_token1.
    with_position_proj: Layer  # (2 * inner, C)
    first_values_proj: Layer
    first_out_bias: Tensor  # b_o1
    centred_proj: Tensor  # (4 * inner, C): J W_o1, then w1 times token_to_image1's W_k, W_v, image_to_token2's W_q
    norm_weight: Tensor  # w1
    position_proj: Tensor  # (3 * inner, C): W_k of token_to_image1, W_q of image_to_token2, W_k of token_to_image2
    spread_proj: Tensor  # (4 * inner + 4 * middle, C): E, A3, w2 times token_to_image2's W_k, W_v and conv1
    constant_vector: Tensor  # (C,): f * 2 / C
    constant: Tensor  # (): |f|^2 / C
    token_weights: Tensor  # `TokenWeights`, packed
    token_sizes: TokenSizes
    mask_layers: Tensor  # (masks, packed): the three layers of each mask token's MLP
    mask_sizes: list[int]  # outputs of each of the three layers
    # First step of the upscaling: factors of V1 and of V3, (4 * middle, inner) each, and of the constant,
    # (4 * middle,).
    conv1_mix: tuple[Tensor, Tensor, Tensor]
    conv1_bias: Tensor  # (4 * middle,)


@dataclass(frozen=True)
class ImageFeatures:
    """What the decoder's operations need of one image. base: the image's part in the first step of the upscaling."""

    weights: DecoderWeights
    length: int  # number of image tokens
    parts: ImageParts
    base: Tensor  # (panels, 4 * middle, 16)


@dataclass(frozen=True)
class Position:
    """The position embedding of an image's tokens, and its products with `position_proj`.

    embedding: (L, C). products: (L, 3 * inner).
    """

    embedding: Tensor
    products: Tensor


class Upscaling(NamedTuple):
    """Weights of the upscaling after its first step, in the order of the arguments of `ops.decoder_upscale`."""

    norm_weight: Tensor
    norm_bias: Tensor
    norm_eps: float
    conv2: Tensor
    conv2_bias: Tensor


class PreparedDecoder:
    """A decoder prepared for any image: the tensors derived from its weights.

    The products of the last position embedding are cached as well.
    copies: how many times each channel is repeated in these tensors; see `decoder_widened`.
    """

    def __init__(self, weights: DecoderWeights, upscaling: Upscaling, copies: int = 1) -> None:
        self.weights, self.upscaling, self.copies = weights, upscaling, copies
        self._last_position: tuple[Tensor, tuple[Any, ...], Position] | None = None

    def project_position(self, position: Tensor) -> Position:
        """Return the position embedding (1, C, h, w) with its products; those of the last one are cached.

        Usually all images share the same tensor.
        """
        entry, state = self._last_position, (version_of(position), stream_key(position.device))
        if entry is None or entry[0] is not position or entry[1] != state:
            with torch.inference_mode(False), torch.no_grad():
                tokens = position.to(self.weights.constant.dtype)[0].flatten(1).T
                entry = (
                    position,
                    state,
                    project_position(self.weights, repeat_channels(tokens, self.copies).contiguous()),
                )
            if not (position.is_inference() or is_capturing()):
                self._last_position = entry
        return entry[2]


def prepare_decoder(decoder: MaskDecoder, for_gpu: bool = False) -> PreparedDecoder:
    """Return `decoder` prepared for inference; cached on a GPU.

    The cached object is replaced when the decoder has changed in a way that PyTorch counts. On a CPU, in training mode
    or with gradients enabled, the decoder is prepared anew at each call.
    for_gpu: prepare for the CUDA kernels, in the only width that they support. The products of a half-precision
    decoder's weights are then computed in float32, and only the results are rounded.
    """

    def make() -> PreparedDecoder:
        with torch.inference_mode(False), torch.no_grad():
            if not for_gpu:
                return PreparedDecoder(derive_decoder_weights(decoder), _upscaling(decoder))
            dtype, copies = dtype_of(decoder), count_copies(decoder)
            exact = widen_decoder(cast(MaskDecoder, cast_copy(decoder, torch.float32)), copies)
            return PreparedDecoder(
                round_weights(derive_decoder_weights(exact), dtype), _upscaling(exact, dtype), copies
            )

    if decoder.training or torch.is_grad_enabled():
        return make()
    first = decoder.transformer.blocks[0]
    # `cached` doesn't notice changes of plain attributes, so these are part of the key.
    norms = first.norm4, decoder.output_upscaling[1]
    heads = first.cross_attn_token_to_image.num_heads
    key = "prepared", for_gpu, heads, *(cast(LayerNorm2d, norm).eps for norm in norms)
    return cached(decoder, key, make, if_versioned=True)


def _upscaling(decoder: MaskDecoder, dtype: torch.dtype | None = None) -> Upscaling:
    """Return the weights of the upscaling after its first step, in `dtype` if given."""
    _, norm, _, conv2, _ = decoder.output_upscaling
    norm = cast(LayerNorm2d, norm)
    dtype = dtype or norm.weight.dtype
    tensors = norm.weight.detach(), norm.bias.detach(), *as_matrix(conv2)
    weight, bias, *more = (tensor.to(dtype) for tensor in tensors)
    return Upscaling(weight, bias, norm.eps, *more)


def derive_decoder_weights(decoder: MaskDecoder) -> DecoderWeights:
    """Compute the derived tensors in some hundred small steps; the result holds until the weights change."""
    first, second = decoder.transformer.blocks
    token_to_image0, image_to_token1 = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    token_to_image1, image_to_token2 = second.cross_attn_token_to_image, second.cross_attn_image_to_token
    token_to_image2 = decoder.transformer.final_attn_token_to_image
    w1, w2 = first.norm4.weight[:, None], second.norm4.weight[:, None]
    channels, heads = len(w1), token_to_image0.num_heads
    conv1, conv1_bias = as_matrix(decoder.output_upscaling[0])

    # Each column has C entries, so centring subtracts the mean over the rows.
    out1, out2 = _centre(image_to_token1.out_proj.weight), _centre(image_to_token2.out_proj.weight)  # (C, inner)
    weighted = w1 * out1
    spread = _centre(weighted)  # E
    constant_vector = _centre((first.norm4.bias + image_to_token2.out_proj.bias)[:, None])  # f, (C, 1)
    keys1, values1, keys2, values2 = (
        m.weight
        for m in (token_to_image1.k_proj, token_to_image1.v_proj, token_to_image2.k_proj, token_to_image2.v_proj)
    )
    queries2 = image_to_token2.q_proj.weight
    # `gram` and `cross` are quadratic forms in a LayerNorm's variance. `queries` goes into the scores of a
    # token-to-image attention, `keys` into those of image_to_token2, `values` into what a token-to-image attention
    # averages. `first`, `second` and `constant` are factors of V1 P1, V3 P2 and the constant f.
    mixes = Mixes(
        gram1=out1.T @ out1 / channels,
        queries1=keys1 @ weighted,
        values1=values1 @ weighted,
        values1_bias=values1 @ first.norm4.bias + token_to_image1.v_proj.bias,
        keys=queries2 @ weighted,
        keys_bias=queries2 @ first.norm4.bias + image_to_token2.q_proj.bias,
        gram2_first=spread.T @ spread / channels,
        gram2_first_bias=(spread.T @ constant_vector)[:, 0] * (2 / channels),
        cross=out2.T @ spread * (2 / channels),
        cross_bias=(out2.T @ constant_vector)[:, 0] * (2 / channels),
        gram2_second=out2.T @ out2 / channels,
        queries2_first=keys2 @ (w2 * spread),
        queries2_second=keys2 @ (w2 * out2),
        queries2_constant=(keys2 @ (w2 * constant_vector))[:, 0],
        values2_first=values2 @ (w2 * spread),
        values2_second=values2 @ (w2 * out2),
        values2_constant=(values2 @ (w2 * constant_vector))[:, 0],
        values2_bias=values2 @ second.norm4.bias + token_to_image2.v_proj.bias,
    )
    weights = _token_weights(decoder, mixes)
    mask_mlps = [cast(MLP, head).layers for head in decoder.output_hypernetworks_mlps]
    return DecoderWeights(
        heads=heads,
        eps=first.norm4.eps,
        inner=len(keys1),
        with_position_proj=Layer(
            *map(torch.cat, zip(_layer(token_to_image0.k_proj), _layer(image_to_token1.q_proj), strict=True))
        ),
        first_values_proj=_layer(token_to_image0.v_proj),
        first_out_bias=image_to_token1.out_proj.bias.detach(),
        centred_proj=torch.cat([out1.T, torch.cat([keys1, values1, queries2]) * w1.T]),
        norm_weight=w1[:, 0].detach(),
        position_proj=torch.cat([keys1, queries2, keys2]),
        spread_proj=torch.cat([spread, out2, (w2 * keys2.T), (w2 * values2.T), w2 * conv1.T], 1).T.contiguous(),
        constant_vector=constant_vector[:, 0] * (2 / channels),
        constant=constant_vector.square().mean(),
        token_weights=pack(weights),
        token_sizes=TokenSizes.from_weights(weights),
        mask_layers=torch.stack([pack(map(_layer, layers)) for layers in mask_mlps]),
        mask_sizes=[len(_layer(layer).bias) for layer in mask_mlps[0]],
        conv1_mix=(conv1 @ (w2 * spread), conv1 @ (w2 * out2), (conv1 @ (w2 * constant_vector))[:, 0]),
        conv1_bias=conv1 @ second.norm4.bias + conv1_bias,
    )


def project_position(weights: DecoderWeights, position: Tensor) -> Position:
    """Multiply a position embedding of image tokens, (L, C), with the weights."""
    return Position(position, _linear(position, weights.position_proj))


def compute_features(
    weights: DecoderWeights, source: Tensor, position: Position, dtype: torch.dtype | None = None
) -> ImageFeatures:
    """Compute what the decoder's operations need of one image.

    source: (L, C), image tokens including the dense prompt embedding. dtype: the dtype of the results, i.e. that to
    which the decoder's weights have been rounded; `source`'s by default. The norms, which go into LayerNorm's variance,
    always keep the dtype of `source`.
    """
    dtype, heads = dtype or source.dtype, weights.heads
    centred, spread = centred_and_spread(weights, source + weights.first_out_bias)
    projections = project(weights, source, centred, spread, position)
    norms2 = torch.stack([spread.square().mean(1), spread @ weights.constant_vector], 1)
    parts = ImageParts(
        first_keys=to_panels(projections.first_keys, dtype),
        first_values=_to_value_layout(projections.first_values, heads, dtype),
        image1=to_panels(projections.image1, dtype),
        values1=_to_value_layout(projections.values1, heads, dtype),
        norms1=to_panels(centred.square().mean(1)[:, None])[:, 0].contiguous(),
        image2=to_panels(projections.image2, dtype),
        values2=_to_value_layout(projections.values2, heads, dtype),
        norms2=to_panels(norms2),
    )
    return ImageFeatures(weights, len(source), parts, to_panels(projections.base, dtype))


def centred_and_spread(weights: DecoderWeights, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return J x and J (w1 * J x) for the rows x of `rows`, (L, C) each."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    weighted = centred * weights.norm_weight
    return centred, weighted - weighted.mean(dim=1, keepdim=True)


class Projections(NamedTuple):
    """Products that are linear in the image tokens, (L, ...) each; see `ImageParts`."""

    first_keys: Tensor
    first_values: Tensor
    image1: Tensor
    values1: Tensor
    image2: Tensor
    values2: Tensor
    base: Tensor


def project(
    weights: DecoderWeights, source: Tensor, centred: Tensor, spread: Tensor, position: Position | None
) -> Projections:
    """Multiply image tokens (L, C) with the weights.

    position: None to project something that is added to image tokens, which has neither a position nor a bias.
    """
    inner = weights.inner
    with_position_proj, first_values_proj = weights.with_position_proj, weights.first_values_proj
    # One product with a wide matrix is faster than one per projection.
    cross1, key1, value1, query2 = _linear(centred, weights.centred_proj).chunk(4, dim=1)
    from_spread = _linear(spread, weights.spread_proj)
    first_cross2, cross2, key2, value2 = from_spread[:, : 4 * inner].chunk(4, dim=1)
    if position is None:
        position1 = position2 = position3 = torch.zeros_like(key1)
        first_keys, query1 = _linear(source, with_position_proj.weight).chunk(2, dim=1)
        first_values = _linear(source, first_values_proj.weight)
    else:
        position1, position2, position3 = position.products.chunk(3, dim=1)
        first_keys, query1 = _linear(source + position.embedding, *with_position_proj).chunk(2, dim=1)
        first_values = _linear(source, *first_values_proj)
    return Projections(
        first_keys=first_keys,
        first_values=first_values,
        image1=torch.cat([query1, cross1, key1, position1], 1),
        values1=value1,
        image2=torch.cat([query2, position2, first_cross2, cross2, key2, position3], 1),
        values2=value2,
        base=from_spread[:, 4 * inner :],
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer.

    On a CPU the native operation is used if possible, whose threads don't spin while they wait (see `ops._threads`).
    """
    return ops.linear(x, weight, bias) if can_use_native(x) else F.linear(x, weight, bias)


def round_weights(exact: DecoderWeights, dtype: torch.dtype) -> DecoderWeights:
    """Round to half precision what the operations take in it.

    The matrices that `compute_features` multiplies an image with stay exact.
    """
    first, second, constant = exact.conv1_mix
    return replace(
        exact,
        token_weights=exact.token_weights.to(dtype),
        mask_layers=exact.mask_layers.to(dtype),
        conv1_mix=(first.to(dtype), second.to(dtype), constant.to(dtype)),
        conv1_bias=exact.conv1_bias.to(dtype),
    )


def _token_weights(decoder: MaskDecoder, mixes: Mixes) -> TokenWeights:
    """Collect the weights that `ops.decoder_prompts` applies to the prompts' tokens."""
    transformer = decoder.transformer
    first, second = transformer.blocks
    final_attn = transformer.final_attn_token_to_image
    iou1, iou2, iou3 = map(_layer, decoder.iou_prediction_head.layers)
    return TokenWeights(
        _block(first),
        _block(second),
        _layer(final_attn.q_proj),
        _layer(final_attn.out_proj),
        _layer(transformer.norm_final_attn),
        iou1,
        iou2,
        iou3,
        mixes,
    )


def _block(block: TwoWayBlock) -> Block:
    self_attn, token_to_image, image_to_token = (
        block.self_attn,
        block.cross_attn_token_to_image,
        block.cross_attn_image_to_token,
    )
    layers = (
        *(self_attn.q_proj, self_attn.k_proj, self_attn.v_proj, self_attn.out_proj, block.norm1),
        *(token_to_image.q_proj, token_to_image.out_proj, block.norm2),
        *(block.mlp.lin1, block.mlp.lin2, block.norm3, image_to_token.k_proj, image_to_token.v_proj),
    )
    return Block(*map(_layer, layers))


def _layer(layer: nn.Module) -> Layer:
    layer = cast(nn.Linear, layer)  # or a LayerNorm, which has the same two parameters
    return Layer(layer.weight.detach(), layer.bias.detach())


def as_matrix(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a transposed convolution with 2 x 2 kernels at stride 2 as a matrix (4 * C', C) and a bias (4 * C',).

    The output index runs over the four sub-cells first, then over the channels C'.
    """
    conv = cast(nn.ConvTranspose2d, conv)
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    return weight, bias.repeat(4)


def _centre(columns: Tensor) -> Tensor:
    """Subtract from each column its mean."""
    return columns - columns.mean(dim=0, keepdim=True)


def _to_value_layout(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Reshape (L, heads * d) to (heads, panels * 16, d rounded up to a multiple of 16), padded with zeros."""
    length, head_dim = len(x), x.shape[1] // heads
    shape = heads, count_panels(length) * PANEL, count_panels(head_dim) * PANEL
    split = x.unflatten(1, (heads, head_dim)).transpose(0, 1)
    if split.shape == shape:
        return x.new_empty(shape, dtype=dtype).copy_(split)
    out = x.new_zeros(shape, dtype=dtype)
    out[:, :length, :head_dim] = split
    return out
