"""Precompute what the mask decoder's weights yield for an image, so that no prompt needs image tokens of its own.

Naming: a "look" is an attention of a prompt's tokens to the image, an "answer" an attention of the image tokens to the
prompt's tokens. The two blocks and the final attention do look, answer, look, answer, look.

Notation: X (L, C) are the image tokens, written as columns below. P (T per head, L) are the weights of an answer, V the
values of the prompt's tokens in it, W_o its output projection and b_o the bias of that. J = 1 - 1/C subtracts the mean
over the channels. w and b are the weight and bias of the LayerNorm that follows. The index 1 stands for the first
block; for the second block, the answer's values and output projection have the index 3, everything else the index 2.
After the first block, the image tokens are

    X1 = w1 * Z1 / s1 + b1,   Z1 = J (X + b_o1) + J W_o1 V1 P1,   s1^2 = |Z1|^2 / C + eps

that is, a part that only depends on the image, and a part in the span of the prompt's few values. The second block
turns this into

    X2 = w2 * Z2 / s2 + b2,   Z2 = (D + E V1 P1) / s1 + f + A3 V3 P2,   D = J (w1 * J (X + b_o1)),
    E = J (w1 * J W_o1),   f = J (b1 + b_o3),   A3 = J W_o3

Any product with X1 or X2 (keys and values of the next look, queries of the next answer, the first step of the
upscaling) is therefore the sum of a product with the image's part, which is projected here to `inner` = heads *
head_dim channels, and of products of V1 P1 and V3 P2 with `inner` x `inner` matrices, which are made here from the
weights alone. |Z|^2 is a quadratic form in P. Per image token and prompt, each product takes about 56 x 56
multiplications (8 heads x 7 tokens) instead of 56 x 256.
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
from .decoder_widened import copies_of, repeated, widened
from .mask_decoder import MaskDecoder, TwoWayBlock
from .module_cache import cached, is_capturing, stream_key, version_of
from .native import can_use_native
from .precision import cast_copy, dtype_of


@dataclass(frozen=True)
class DecoderWeights:
    """Tensors derived from a decoder's weights alone. The `of_` matrices are laid out as in `torch.nn.Linear`."""

    heads: int
    eps: float  # of every LayerNorm
    inner: int  # heads * head_dim
    # Projects image tokens plus position: keys of the first look, then queries of the first answer.
    of_placed: Layer  # (2 * inner, C)
    first_values: Layer
    first_bias: Tensor  # b_o1
    of_centred: Tensor  # (4 * inner, C): J W_o1, then w1 times the second look's W_k, W_v and its answer's W_q
    norm_weight: Tensor  # w1
    of_position: Tensor  # (3 * inner, C): W_k of the second look, W_q of its answer, W_k of the last look
    of_spread: Tensor  # (4 * inner + 4 * middle, C): E, A3, then w2 times last look's W_k, W_v, first upscaling
    rest: Tensor  # (C,): f * 2 / C
    constant: Tensor  # (): |f|^2 / C
    weights: Tensor  # `TokenWeights`, packed
    sizes: TokenSizes
    mask_layers: Tensor  # (masks, packed): the three layers of each mask token's MLP
    mask_sizes: list[int]  # outputs of each of the three layers
    # First step of the upscaling: factors of V1 and of V3, (4 * middle, inner) each, and of the constant,
    # (4 * middle,).
    enlarge_mix: tuple[Tensor, Tensor, Tensor]
    enlarge_bias: Tensor  # (4 * middle,)


@dataclass(frozen=True)
class Features:
    """What the decoder's operations need of one image. base: the image's part in the first step of the upscaling."""

    decoder: DecoderWeights
    length: int  # number of image tokens
    image: ImageParts
    base: Tensor  # (panels, 4 * middle, 16)


@dataclass(frozen=True)
class Position:
    """The position embedding of an image's tokens, and its products with `of_position`.

    given: (L, C). products: (L, 3 * inner).
    """

    given: Tensor
    products: Tensor


class Upscaling(NamedTuple):
    """Weights of the upscaling after its first step, in the order of the arguments of `ops.decoder_upscale`."""

    norm_weight: Tensor
    norm_bias: Tensor
    norm_eps: float
    enlarge_more: Tensor
    enlarge_more_bias: Tensor


class Prepared:
    """A decoder prepared for any image: the tensors derived from its weights.

    The products of the last position embedding are cached as well.
    copies: how many times each channel is repeated in these tensors; see `decoder_widened`.
    """

    def __init__(self, weights: DecoderWeights, upscaling: Upscaling, copies: int = 1) -> None:
        self.weights, self.upscaling, self.copies = weights, upscaling, copies
        self._placed: tuple[Tensor, tuple[Any, ...], Position] | None = None

    def place(self, position: Tensor) -> Position:
        """Return the position embedding (1, C, h, w) with its products; those of the last one are cached.

        Usually all images share the same tensor.
        """
        known, state = self._placed, (version_of(position), stream_key(position.device))
        if known is None or known[0] is not position or known[1] != state:
            with torch.inference_mode(False), torch.no_grad():
                tokens = position.to(self.weights.constant.dtype)[0].flatten(1).T
                known = position, state, place(self.weights, repeated(tokens, self.copies).contiguous())
            if not (position.is_inference() or is_capturing()):
                self._placed = known
        return known[2]


def prepared(decoder: MaskDecoder, for_gpu: bool = False) -> Prepared:
    """Return `decoder` prepared for inference; cached on a GPU.

    The cached object is replaced when the decoder has changed in a way that PyTorch counts. On a CPU, in training mode
    or with gradients enabled, the decoder is prepared anew at each call.
    for_gpu: prepare for the CUDA kernels, in the only width that they support. The products of a half-precision
    decoder's weights are then computed in float32, and only the results are rounded.
    """

    def make() -> Prepared:
        with torch.inference_mode(False), torch.no_grad():
            if not for_gpu:
                return Prepared(decoder_weights(decoder), _upscaling(decoder))
            dtype, copies = dtype_of(decoder), copies_of(decoder)
            exact = widened(cast(MaskDecoder, cast_copy(decoder, torch.float32)), copies)
            return Prepared(rounded(decoder_weights(exact), dtype), _upscaling(exact, dtype), copies)

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
    _, norm, _, enlarge_more, _ = decoder.output_upscaling
    norm = cast(LayerNorm2d, norm)
    dtype = dtype or norm.weight.dtype
    tensors = norm.weight.detach(), norm.bias.detach(), *as_matrix(enlarge_more)
    weight, bias, *more = (tensor.to(dtype) for tensor in tensors)
    return Upscaling(weight, bias, norm.eps, *more)


def decoder_weights(decoder: MaskDecoder) -> DecoderWeights:
    """Compute the derived tensors in some hundred small steps; the result holds until the weights change."""
    first, second = decoder.transformer.blocks
    look0, answer1 = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    look1, answer2 = second.cross_attn_token_to_image, second.cross_attn_image_to_token
    look2 = decoder.transformer.final_attn_token_to_image
    w1, w2 = first.norm4.weight[:, None], second.norm4.weight[:, None]
    channels, heads = len(w1), look0.num_heads
    enlarge, enlarge_bias = as_matrix(decoder.output_upscaling[0])

    # Each column has C entries, so centring subtracts the mean over the rows.
    out1, out2 = _centre(answer1.out_proj.weight), _centre(answer2.out_proj.weight)  # (C, inner)
    weighted = w1 * out1
    spread = _centre(weighted)  # E
    rest = _centre((first.norm4.bias + answer2.out_proj.bias)[:, None])  # f, (C, 1)
    keys1, values1, keys2, values2 = (m.weight for m in (look1.k_proj, look1.v_proj, look2.k_proj, look2.v_proj))
    queries2 = answer2.q_proj.weight
    # `gram`, `own` and `cross` are quadratic forms in a LayerNorm's variance. `look` goes into the scores of a look,
    # `keys` into those of the second answer, `seen` into the values that a look averages. `first`, `second` and `rest`
    # are factors of V1 P1, V3 P2 and the constant f.
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
    return DecoderWeights(
        heads=heads,
        eps=first.norm4.eps,
        inner=len(keys1),
        of_placed=Layer(*map(torch.cat, zip(_layer(look0.k_proj), _layer(answer1.q_proj), strict=True))),
        first_values=_layer(look0.v_proj),
        first_bias=answer1.out_proj.bias.detach(),
        of_centred=torch.cat([out1.T, torch.cat([keys1, values1, queries2]) * w1.T]),
        norm_weight=w1[:, 0].detach(),
        of_position=torch.cat([keys1, queries2, keys2]),
        of_spread=torch.cat([spread, out2, (w2 * keys2.T), (w2 * values2.T), w2 * enlarge.T], 1).T.contiguous(),
        rest=rest[:, 0] * (2 / channels),
        constant=rest.square().mean(),
        weights=pack(weights),
        sizes=TokenSizes.of(weights),
        mask_layers=torch.stack([pack(map(_layer, layers)) for layers in heads_of_masks]),
        mask_sizes=[len(_layer(layer).bias) for layer in heads_of_masks[0]],
        enlarge_mix=(enlarge @ (w2 * spread), enlarge @ (w2 * out2), (enlarge @ (w2 * rest))[:, 0]),
        enlarge_bias=enlarge @ second.norm4.bias + enlarge_bias,
    )


def place(decoder: DecoderWeights, position: Tensor) -> Position:
    """Multiply a position embedding of image tokens, (L, C), with the weights."""
    return Position(position, _linear(position, decoder.of_position))


def features(decoder: DecoderWeights, source: Tensor, position: Position, dtype: torch.dtype | None = None) -> Features:
    """Compute what the decoder's operations need of one image.

    source: (L, C), image tokens including the dense prompt embedding. dtype: the dtype of the results, i.e. that to
    which the decoder's weights have been rounded; `source`'s by default. The norms, which go into LayerNorm's variance,
    always keep the dtype of `source`.
    """
    dtype, heads = dtype or source.dtype, decoder.heads
    centred, spread = centred_and_spread(decoder, source + decoder.first_bias)
    columns = project(decoder, source, centred, spread, position)
    norms2 = torch.stack([spread.square().mean(1), spread @ decoder.rest], 1)
    parts = ImageParts(
        first_keys=to_panels(columns.first_keys, dtype),
        first_values=_values(columns.first_values, heads, dtype),
        image1=to_panels(columns.image1, dtype),
        values1=_values(columns.values1, heads, dtype),
        norms1=to_panels(centred.square().mean(1)[:, None])[:, 0].contiguous(),
        image2=to_panels(columns.image2, dtype),
        values2=_values(columns.values2, heads, dtype),
        norms2=to_panels(norms2),
    )
    return Features(decoder, len(source), parts, to_panels(columns.base, dtype))


def centred_and_spread(decoder: DecoderWeights, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return J x and J (w1 * J x) for the rows x of `rows`, (L, C) each."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    weighted = centred * decoder.norm_weight
    return centred, weighted - weighted.mean(dim=1, keepdim=True)


class Columns(NamedTuple):
    """Products that are linear in the image tokens, (L, ...) each; see `ImageParts`."""

    first_keys: Tensor
    first_values: Tensor
    image1: Tensor
    values1: Tensor
    image2: Tensor
    values2: Tensor
    base: Tensor


def project(
    decoder: DecoderWeights, source: Tensor, centred: Tensor, spread: Tensor, position: Position | None
) -> Columns:
    """Multiply image tokens (L, C) with the weights.

    position: None to project something that is added to image tokens, which has neither a position nor a bias.
    """
    inner = decoder.inner
    placed, values = decoder.of_placed, decoder.first_values
    # One product with a wide matrix is faster than one per projection.
    cross1, key1, value1, query2 = _linear(centred, decoder.of_centred).chunk(4, dim=1)
    from_spread = _linear(spread, decoder.of_spread)
    own, cross2, key2, value2 = from_spread[:, : 4 * inner].chunk(4, dim=1)
    if position is None:
        position1 = position2 = position3 = torch.zeros_like(key1)
        first_keys, query1 = _linear(source, placed.weight).chunk(2, dim=1)
        first_values = _linear(source, values.weight)
    else:
        position1, position2, position3 = position.products.chunk(3, dim=1)
        first_keys, query1 = _linear(source + position.given, *placed).chunk(2, dim=1)
        first_values = _linear(source, *values)
    return Columns(
        first_keys=first_keys,
        first_values=first_values,
        image1=torch.cat([query1, cross1, key1, position1], 1),
        values1=value1,
        image2=torch.cat([query2, position2, own, cross2, key2, position3], 1),
        values2=value2,
        base=from_spread[:, 4 * inner :],
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer.

    On a CPU the native operation is used if possible, whose threads don't spin while they wait (see `ops._threads`).
    """
    return ops.linear(x, weight, bias) if can_use_native(x) else F.linear(x, weight, bias)


def rounded(exact: DecoderWeights, dtype: torch.dtype) -> DecoderWeights:
    """Round to half precision what the operations take in it.

    The matrices that `features` multiplies an image with stay exact.
    """
    first, second, rest = exact.enlarge_mix
    return replace(
        exact,
        weights=exact.weights.to(dtype),
        mask_layers=exact.mask_layers.to(dtype),
        enlarge_mix=(first.to(dtype), second.to(dtype), rest.to(dtype)),
        enlarge_bias=exact.enlarge_bias.to(dtype),
    )


def _token_weights(decoder: MaskDecoder, mixes: Mixes) -> TokenWeights:
    """Collect the weights that `ops.decoder_prompts` applies to the prompts' tokens."""
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


def _values(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Reshape (L, heads * d) to (heads, panels * 16, d rounded up to a multiple of 16), padded with zeros."""
    length, head_dim = len(x), x.shape[1] // heads
    shape = heads, count_panels(length) * PANEL, count_panels(head_dim) * PANEL
    split = x.unflatten(1, (heads, head_dim)).transpose(0, 1)
    if split.shape == shape:
        return x.new_empty(shape, dtype=dtype).copy_(split)
    out = x.new_zeros(shape, dtype=dtype)
    out[:, :length, :head_dim] = split
    return out
