"""Public functions of the mask decoder: SAM's two-way transformer and upscaling for many prompts on one image.

No prompt gets image tokens of its own. In the transformer, a prompt's image tokens are the image's own tokens, scaled,
plus a combination of the prompt's few value vectors. So a prompt's `state` holds only the scale and the coefficients of
that combination for each image token. `models.decoder_features` has the algebra and makes the operands.

Token-to-image attention is that of a prompt's tokens to the image tokens, image-to-token attention the reverse. A
*pass* is one sweep over the image tokens that fuses the image-to-token attention of one block with the token-to-image
attention that follows. `rows` = heads * tokens, heads outermost. Image tokens are stored in panels of 16, channel by
channel (`_decoder.panels`), the last one padded with zeros: `length` is the number of image tokens, and
panels = ceil(length / 16).

All tensors have one dtype: float32, float16, bfloat16 or float64. In half precision `norms`, the `constant` of
`decoder_prompts` and the logits of `decoder_upscale` are float32. Indices are int64.

The C++ code takes float32. The CUDA kernels take float16 and bfloat16; if FASTSAM_CUDA_KERNELS=1 is set, also float32
in the first token-to-image attention, both passes and the upscaling. PyTorch runs the rest. Results of the compiled
siblings are bit-identical for any number of threads, and don't depend on which other prompts are in the call.
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
    """Run the two-way transformer on the prompts of one image and predict their IoU: everything but the upscaling.

    Args:
        tokens: (prompts, tokens, width), output tokens first: the IoU token, then the mask tokens.
        weights: a packed `_decoder.weights.TokenWeights`.
        sizes: the fields of its `_decoder.weights.TokenSizes`.
        image: the tensors of a `_decoder.weights.ImageParts`.
        constant: (), the constant of the variance in `decoder_second_pass`.
        eps: of every LayerNorm.
        heads: of every attention.
        length: number of image tokens.
        chosen: indices of the tokens whose final values are returned. Must begin with 0, the IoU token, which is not
            checked.
        state: (prompts, panels, 2 * heads * tokens + 2, 16), contiguous; overwritten with the `state` for
            `decoder_upscale`.

    Returns:
        A tuple (final, iou, first_token_values, second_token_values): the final values of the chosen tokens
        (prompts, chosen, width), the predicted IoU (prompts, masks), and the value vectors of all tokens in the
        image-to-token attention of the first and the second block, (prompts, heads, tokens, head_dim) each.

    Raises:
        ValueError: shapes or dtypes that don't fit together, or indices in `chosen` that don't exist.
    """
    args = tokens, weights, sizes, image, constant, eps, heads, length, chosen, state
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _ops.decoder_prompts.default(*args)
    return result


def decoder_mask_factors(
    final: Tensor,
    first_token_values: Tensor,
    second_token_values: Tensor,
    selected: Tensor,
    index: Tensor,
    column: Tensor,
    masks: list[int],
    layers: Tensor,
    sizes: list[int],
    first_mix: Tensor,
    second_mix: Tensor,
    constant_mix: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute the operands of `decoder_upscale` that depend on the prompt (`factors`) and on the mask (`weights`).

    Args:
        final: (prompts, chosen, width), as from `decoder_prompts`: the IoU token first, then the chosen mask tokens.
        first_token_values: (prompts, heads, tokens, head_dim), as from `decoder_prompts`.
        second_token_values: (prompts, heads, tokens, head_dim), likewise.
        selected: (U,) int64, indices of the prompts for which masks are wanted.
        index: (count,) int64 in [0, U): the prompt of each wanted mask is selected[index].
        column: (count,) int64 in [0, chosen - 1): the mask's token is final[:, 1 + column].
        masks: chosen - 1 numbers: the row of `layers` for each of the chosen mask tokens.
        layers: (masks, weights), for each mask token a packed MLP of three layers with ReLU between them.
        sizes: number of outputs of each of the three layers; the last is `narrow`.
        first_mix: (4 * middle, heads * head_dim), maps the first block's values into the first step of the upscaling.
        second_mix: (4 * middle, heads * head_dim), the same for the second block's values.
        constant_mix: (4 * middle,), factor of that step's constant coefficient.

    Returns:
        factors (U, 4 * middle, 2 * heads * tokens + 2) and weights (count, narrow).

    Raises:
        ValueError: shapes or dtypes that don't fit together; on the CPU also indices out of range. On a GPU indices are
            not checked, which would mean waiting for it; the kernels clamp them to the valid range.
    """
    args = (
        final,
        first_token_values,
        second_token_values,
        selected,
        index,
        column,
        masks,
        layers,
        sizes,
        first_mix,
        second_mix,
        constant_mix,
    )
    result: tuple[Tensor, Tensor] = _ops.decoder_mask_factors.default(*args)
    return result


def decoder_first_token_to_image(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """Attend from all prompts' tokens to the image tokens, which are still the same for all: softmax(q k) v per head.

    Args:
        q: (heads, rows, head_dim), already scaled by 1 / sqrt(head_dim). Here `rows` are the tokens of all prompts.
        keys: (panels, heads * head_dim, 16).
        values: (heads, panels * 16, head_dim rounded up to 16), zeros beyond `length` and `head_dim`.
        length: number of image tokens.

    Returns:
        (heads, rows, head_dim).

    Raises:
        ValueError: shapes or dtypes that don't fit together.
    """
    result: Tensor = _ops.decoder_first_token_to_image.default(q, keys, values, length)
    return result


def decoder_first_pass(
    image: Tensor,
    values: Tensor,
    norms: Tensor,
    eps: float,
    keys: Tensor,
    cross: Tensor,
    gram: Tensor,
    queries: Tensor,
    queries_mix: Tensor,
    length: int,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the first block's image-to-token attention with LayerNorm, and the second block's attention to its result.

    Take an image token with the projections i_0 ... i_3 (`.` is the dot product within a head). Let p be the softmax of
    keys . i_0 over the tokens of each head. Then

        scale = 1 / sqrt(eps + norms + sum of p * (cross . i_1 + gram p)), coefficients c = p * scale
        scores = (queries . i_2) * scale + queries . i_3 + queries_mix c

    The weights of the token-to-image attention are the softmax of these scores over all image tokens.

    Args:
        image: (panels, 4 * heads * head_dim, 16), the four projections one after the other.
        values: (heads, panels * 16, head_dim rounded up to 16), zeros beyond `length` and `head_dim`: the image's part
            of the values that the token-to-image attention averages.
        norms: (panels, 16), the image's part of the variance in the LayerNorm.
        eps: of the LayerNorm.
        keys: (prompts, heads, tokens, head_dim), keys of the prompt's tokens, already scaled.
        cross: (prompts, heads, tokens, head_dim), for the cross term of the variance.
        gram: (prompts, rows, rows), symmetric, for the prompt's own term of the variance.
        queries: (prompts, heads, tokens, head_dim), of the token-to-image attention, already scaled.
        queries_mix: (prompts, rows, rows), products of these queries with the coefficients' part of the keys.
        length: number of image tokens.
        state: (prompts, panels, 2 * rows + 2, 16), contiguous. Rows [0, rows) are overwritten with c, row 2 * rows with
            the scale.

    Returns:
        Sums over the image tokens: of weight * scale * values (prompts, heads, tokens, head_dim), and of weight * c
        (prompts, rows of c, rows of `queries`).

    Raises:
        ValueError: shapes or dtypes that don't fit together, or a `state` that isn't contiguous.
    """
    args = image, values, norms, eps, keys, cross, gram, queries, queries_mix, length, state
    result: tuple[Tensor, Tensor] = _ops.decoder_first_pass.default(*args)
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
    first_cross: Tensor,
    first_gram: Tensor,
    first_bias: Tensor,
    cross: Tensor,
    cross_mix: Tensor,
    cross_bias: Tensor,
    gram: Tensor,
    queries: Tensor,
    queries_mix: Tensor,
    length: int,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the second block's image-to-token attention with LayerNorm, and the final attention to its result.

    It continues from the state that `decoder_first_pass` has left. Take an image token with the projections
    i_0 ... i_5, and scale and c from that state. Let p be the softmax of
    (keys . i_0) * scale + keys_mix c + keys . i_1 + keys_bias over the tokens of each head. Then

        variance = scale^2 * norms_0 + scale * norms_1 + constant
                   + sum of c * (scale * (first_cross . i_2) + first_gram c + first_bias)
                   + sum of p * (scale * (cross . i_3) + cross_mix c + cross_bias + gram p)
        coefficients = (c, p, scale, 1) / sqrt(eps + variance)
        scores = (queries . i_4) * coefficient 2 * rows + queries . i_5 + queries_mix coefficients

    The weights of the token-to-image attention are the softmax of these scores over all image tokens.

    Args:
        image: (panels, 6 * heads * head_dim, 16), the six projections one after the other.
        values: as in `decoder_first_pass`.
        norms: (panels, 2, 16), the image's part of the variance.
        constant: of the variance.
        eps: of the LayerNorm.
        keys: (prompts, heads, tokens, head_dim), keys of the prompt's tokens, already scaled.
        keys_mix: (prompts, rows, rows), like all mixes and grams below; the grams are symmetric.
        keys_bias: (prompts, rows), like all biases below.
        first_cross: (prompts, heads, tokens, head_dim), for the terms of c in the variance.
        first_gram: for the same terms.
        first_bias: for the same terms.
        cross: (prompts, heads, tokens, head_dim), for the terms of p in the variance.
        cross_mix: for the terms with p and c.
        cross_bias: for the terms of p.
        gram: for the terms of p.
        queries: (prompts, heads, query tokens, head_dim), of the final attention, already scaled; from 1 to
            `tokens` of them.
        queries_mix: (prompts, heads * query tokens, 2 * rows + 2).
        length: number of image tokens.
        state: as `decoder_first_pass` has left it, contiguous; overwritten with the coefficients.

    Returns:
        Sums over the image tokens: of weight * coefficient 2 * rows * values (prompts, heads, query tokens,
        head_dim), and of weight * coefficients (prompts, 2 * rows + 2, heads * query tokens).

    Raises:
        ValueError: shapes or dtypes that don't fit together, or a `state` that isn't contiguous.
    """
    tokens = (
        keys,
        keys_mix,
        keys_bias,
        first_cross,
        first_gram,
        first_bias,
        cross,
        cross_mix,
        cross_bias,
        gram,
        queries,
        queries_mix,
    )
    result: tuple[Tensor, Tensor] = _ops.decoder_second_pass.default(
        image, values, norms, constant, eps, *tokens, length, state
    )
    return result


def decoder_upscale(
    state: Tensor,
    selected: Tensor,
    factors: Tensor,
    index: Tensor,
    weights: Tensor,
    base: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    conv2: Tensor,
    conv2_bias: Tensor,
    height: int,
    width: int,
    out: Tensor,
) -> None:
    """Compute low-resolution logits: two steps that double the resolution, then a product with each mask's weights.

    The first step is base * coefficient[rows - 2] + factors @ coefficients + bias. It yields four sub-cells of `middle`
    channels, one after the other; LayerNorm over `middle` and exact GELU follow, then the second step and GELU.

    With all else in float32, the two matrices `factors` and `conv2` may be bfloat16. Then what they are
    multiplied with is rounded to bfloat16 too, while sums and everything else stay float32. Processors with AVX512-BF16
    need half as many instructions for these products.

    Args:
        state: (prompts, panels, rows, 16), coefficients of the tokens of a grid of height x width in row-major order.
            `rows` are all coefficients here, 2 * heads * tokens + 2.
        selected: (U,) int64, indices of the prompts for which masks are wanted.
        factors: (U, 4 * middle, rows), from `decoder_mask_factors`.
        index: (count,) int64 in [0, U): the prompt of each wanted mask is selected[index].
        weights: (count, narrow), each mask's weights of the upscaled channels, from `decoder_mask_factors`.
        base: (panels, 4 * middle, 16), the image's part of the first step.
        bias: (4 * middle,), of the first step.
        norm_weight: (middle,), of the LayerNorm.
        norm_bias: (middle,), of the LayerNorm.
        norm_eps: added to the variance by the LayerNorm.
        conv2: (4 * narrow, middle), a transposed convolution with 2 x 2 kernels at stride 2 as a matrix.
        conv2_bias: (4 * narrow,).
        height: of the grid.
        width: of the grid.
        out: (count, 4 * height, 4 * width), contiguous: overwritten with the logits.

    Raises:
        ValueError: shapes or dtypes that don't fit together, an `out` that isn't contiguous, or indices out of range.
            The CUDA kernels don't check indices, which would mean waiting for the GPU: the masks of an invalid index
            are NaN.
    """
    steps = weights, base, bias, norm_weight, norm_bias, norm_eps, conv2, conv2_bias
    _ops.decoder_upscale.default(state, selected, factors, index, *steps, height, width, out)
