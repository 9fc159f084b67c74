"""What callers see of the decoder's operations.

They are the two-way transformer's work on image tokens without making any: see `models.decoder_features` for the
algebra, and for where each operand comes from. A prompt's `state` holds, for each image token, the coefficients of the
prompt's values in it. Image tokens lie in panels of 16, channel by channel (`_decoder.panels`), so `length` says how
many of them there are. `rows` = heads * tokens, heads outermost. All tensors are of one dtype, float32, float16,
bfloat16 or float64; beside half precision `norms` and the logits of `decoder_upscale` stay float32. Results are the
same to the bit for any number of threads, and for a prompt whatever the others of its call. The CPU's native form
computes in float32, the CUDA form in half precision; PyTorch serves the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


def decoder_prompts(
    tokens: Tensor,
    weights: Tensor,
    sizes: list[int],
    image: list[Tensor],
    constant: Tensor,
    eps: float,
    heads: int,
    length: int,
    chosen: list[int],
    state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two-way transformer on prompts of one image, and their predicted IoU: all but the upscaling.

    Args:
        tokens: (prompts, tokens, width), output tokens first, that of the predicted IoU before those of the masks.
        weights: `_decoder.weights.TokenWeights`, packed.
        sizes: `_decoder.weights.TokenSizes` of them.
        image: `_decoder.weights.ImageParts`.
        constant: (), see `decoder_second_pass`; like the image's norms float32 beside half precision.
        eps: of every LayerNorm.
        heads: of every attention.
        length: image tokens.
        chosen: the tokens whose results are wanted, 0 first.
        state: (prompts, panels, 2 * heads * tokens + 2, 16), contiguous; overwritten with what `decoder_upscale` takes.

    Returns:
        The chosen tokens' results (prompts, chosen, width), predicted IoU (prompts, masks), and the values of both
        blocks' tokens in the image's look at them, (prompts, heads, tokens, head_dim) each.

    Raises:
        ValueError: shapes or dtypes that don't fit together.
    """
    given = tokens, weights, sizes, image, constant, eps, heads, length, chosen, state
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _ops.decoder_prompts.default(*given)
    return result


def decoder_mask_factors(
    final: Tensor,
    first_own: Tensor,
    second_own: Tensor,
    asked: Tensor,
    index: Tensor,
    column: Tensor,
    masks: list[int],
    layers: Tensor,
    sizes: list[int],
    first: Tensor,
    second: Tensor,
    rest: Tensor,
) -> tuple[Tensor, Tensor]:
    """What `decoder_upscale` takes of each prompt and each mask.

    Args:
        final: (prompts, chosen, width), as from `decoder_prompts`; those of the masks after the first.
        first_own: (prompts, heads, tokens, head_dim), from there.
        second_own: likewise.
        asked: (U,) int64, prompts with masks to make.
        index: (count,) int64 in [0, U): the prompt of each mask, among those asked for.
        column: (count,) int64 in [0, chosen - 1): its token, among the chosen ones after the first.
        masks: (chosen - 1), which mask each of these tokens is of.
        layers: (masks, weights), the three layers of each mask's token, with ReLU between them, packed.
        sizes: how many outputs each of the three has.
        first: (4 * middle, heads * head_dim), of the first block's values in the first step of the upscaling.
        second: likewise, of the second block's.
        rest: (4 * middle,), of that step's constant coefficient.

    Returns:
        factors (U, 4 * middle, 2 * heads * tokens + 2), weights (count, narrow).

    Raises:
        ValueError: shapes or dtypes that don't fit together; numbers out of range, but on a GPU, where nobody waits to
            know.
    """
    given = final, first_own, second_own, asked, index, column, masks, layers, sizes, first, second, rest
    result: tuple[Tensor, Tensor] = _ops.decoder_mask_factors.default(*given)
    return result


def decoder_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """Attention of all prompts' tokens to the one image, head by head: softmax(q k) v.

    Args:
        q: (heads, rows, head_dim), scaled.
        keys: (panels, heads * head_dim, 16).
        values: (heads, panels * 16, head_dim rounded up to 16), zeros beyond `length` and `head_dim`.
        length: image tokens.

    Returns:
        (heads, rows, head_dim).

    Raises:
        ValueError: shapes or dtypes that don't fit together.
    """
    result: Tensor = _ops.decoder_first_look.default(q, keys, values, length)
    return result


def decoder_first_pass(
    image: Tensor,
    values: Tensor,
    norms: Tensor,
    eps: float,
    keys: Tensor,
    cross: Tensor,
    gram: Tensor,
    look: Tensor,
    look_mix: Tensor,
    length: int,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Image tokens attend to each prompt's tokens, LayerNorm; then the prompt's tokens attend to the result.

    For an image token with projections i_0 ... i_3 (`.` is within a head), and p the softmax over the tokens of each
    head of keys . i_0:

        scale = 1 / sqrt(eps + norms + sum of p * (cross . i_1 + gram p)), coefficients c = p * scale
        scores of the look = (look . i_2) * scale + look . i_3 + look_mix c

    Args:
        image: (panels, 4 * heads * head_dim, 16), the four projections one after the other.
        values: (heads, panels * 16, head_dim rounded up to 16), zeros beyond.
        norms: (panels, 16).
        eps: of LayerNorm.
        keys: (prompts, heads, tokens, head_dim).
        cross: (prompts, heads, tokens, head_dim).
        gram: (prompts, rows, rows), symmetric.
        look: (prompts, heads, tokens, head_dim).
        look_mix: (prompts, rows, rows).
        length: image tokens.
        state: (prompts, panels, 2 * rows + 2, 16), contiguous: rows [0, rows) are overwritten with c, row 2 * rows with
            the scale.

    Returns:
        With the softmax over the image of the look's scores as weights: the sums of weight * scale * values
        (prompts, heads, tokens, head_dim), and of weight * c (prompts, rows of c, rows of the look).

    Raises:
        ValueError: shapes or dtypes that don't fit together.
    """
    given = image, values, norms, eps, keys, cross, gram, look, look_mix, length, state
    result: tuple[Tensor, Tensor] = _ops.decoder_first_pass.default(*given)
    return result


def decoder_second_pass(
    image: Tensor,
    values: Tensor,
    norms: Tensor,
    constant: float,
    eps: float,
    keys: Tensor,
    keys_mix: Tensor,
    keys_bias: Tensor,
    own: Tensor,
    own_gram: Tensor,
    own_bias: Tensor,
    cross: Tensor,
    cross_mix: Tensor,
    cross_bias: Tensor,
    gram: Tensor,
    look: Tensor,
    look_mix: Tensor,
    length: int,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same once more, from the state that the first pass has left.

    With scale and c of the first pass, and p the softmax over the tokens of each head of
    (keys . i_0) * scale + keys_mix c + keys . i_1 + keys_bias:

        variance = scale^2 * norms_0 + scale * norms_1 + constant
                   + sum of c * (scale * (own . i_2) + own_gram c + own_bias)
                   + sum of p * (scale * (cross . i_3) + cross_mix c + cross_bias + gram p)
        coefficients = (c, p, scale, 1) / sqrt(eps + variance)
        scores of the look = (look . i_4) * coefficient 2 * rows + look . i_5 + look_mix coefficients

    Args:
        image: (panels, 6 * heads * head_dim, 16).
        values: as in `decoder_first_pass`.
        norms: (panels, 2, 16).
        constant: of the variance.
        eps: of LayerNorm.
        keys: (prompts, heads, tokens, head_dim), like `own` and `cross`.
        keys_mix: (prompts, rows, rows), like the other mixes and grams; the latter are symmetric.
        keys_bias: (prompts, rows), like the other biases.
        own: of the first pass's coefficients in the variance.
        own_gram: of the same.
        own_bias: of the same.
        cross: of the new ones in the variance.
        cross_mix: of both together.
        cross_bias: of the new ones.
        gram: of the new ones.
        look: (prompts, heads, tokens of the look, head_dim), at most `tokens` of them.
        look_mix: (prompts, rows of the look, 2 * rows + 2).
        length: image tokens.
        state: as `decoder_first_pass` has left it, contiguous; overwritten with the coefficients.

    Returns:
        With the softmax over the image of the look's scores as weights: the sums of weight * coefficient 2 * rows *
        values (prompts, heads, tokens of the look, head_dim), and of weight * coefficients
        (prompts, 2 * rows + 2, rows of the look).

    Raises:
        ValueError: shapes or dtypes that don't fit together.
    """
    tokens = keys, keys_mix, keys_bias, own, own_gram, own_bias, cross, cross_mix, cross_bias, gram, look, look_mix
    result: tuple[Tensor, Tensor] = _ops.decoder_second_pass.default(
        image, values, norms, constant, eps, *tokens, length, state
    )
    return result


def decoder_upscale(
    state: Tensor,
    asked: Tensor,
    factors: Tensor,
    index: Tensor,
    weights: Tensor,
    base: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    enlarge_more: Tensor,
    enlarge_more_bias: Tensor,
    height: int,
    width: int,
    out: Tensor,
) -> None:
    """Low-resolution logits: two steps that double the resolution, then a product with each mask's weights.

    The first step is base * coefficient rows - 2 + factors * coefficients + bias, its four sub-cells one after the
    other; LayerNorm over `middle` and exact GELU follow, then the second step and GELU. Where the rest is float32, both
    matrices, `factors` and `enlarge_more`, may be bfloat16: what they are multiplied with is rounded to it then, and
    sums and all else stay float32. Processors with AVX512-BF16 need half as many products for that.

    Args:
        state: (prompts, panels, rows, 16), coefficients of the tokens of a grid of height x width, row by row.
        asked: (U,) int64, prompts with masks to make.
        factors: (U, 4 * middle, rows).
        index: (count,) int64 in [0, U): the prompt of each mask, among those asked for.
        weights: (count, narrow) of each mask over the upscaled channels.
        base: (panels, 4 * middle, 16).
        bias: (4 * middle,).
        norm_weight: (middle,), of LayerNorm.
        norm_bias: (middle,).
        norm_eps: added to the variance.
        enlarge_more: (4 * narrow, middle), a transposed convolution with 2 x 2 kernels at stride 2 as a matrix.
        enlarge_more_bias: (4 * narrow,).
        height: of the grid.
        width: of the grid.
        out: (count, 4 * height, 4 * width), contiguous: overwritten with the logits.

    Raises:
        ValueError: shapes or dtypes that don't fit together; an index or a prompt that there is not, but from the CUDA
            form, which doesn't wait to know and makes the masks of such a pair NaN.
    """
    steps = weights, base, bias, norm_weight, norm_bias, norm_eps, enlarge_more, enlarge_more_bias
    _ops.decoder_upscale.default(state, asked, factors, index, *steps, height, width, out)
