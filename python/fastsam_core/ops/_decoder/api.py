"""What callers see of the decoder's operations.

They are the two-way transformer's work on image tokens, folded as in `models.decoder_folded`: projections of the image
are already in the operands of the prompt's tokens, scale factors too. Image tokens lie in panels of 16, channel by
channel (`_decoder.panels`), so `length` says how many of them there are. All tensors are float32; results are the same
to the bit for any number of threads, and for a prompt whatever the others of its call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops: Any = torch.ops.fastsam_core


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
        ValueError: shapes that don't fit, another dtype than float32.
    """
    result: Tensor = _ops.decoder_first_look.default(q, keys, values, length)
    return result


def decoder_first_pass(
    source: Tensor,
    position: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    look: Tensor,
    length: int,
    out: Tensor,
) -> Tensor:
    """Image tokens attend to each prompt's, from the one image; then the prompt's tokens attend to the result.

    Args:
        source: (panels, channels, 16) image tokens.
        position: (panels, channels, 16), their position embedding.
        queries: (panels, heads * head_dim, 16) of the image tokens.
        keys: (heads, prompts, tokens, head_dim), scaled: softmax over `tokens` of queries . keys.
        values: (heads, prompts, tokens, channels), through the output projection.
        norm_weight: (channels,), of LayerNorm over the channels of source + attention.
        norm_bias: (channels,).
        norm_eps: added to the variance.
        look: (heads, prompts, tokens, channels): softmax over the image of look . (image token + position).
        length: image tokens.
        out: (prompts, panels, channels, 16), contiguous: overwritten with the new image tokens.

    Returns:
        (heads, prompts, tokens, channels): the new image tokens, averaged by the weights of `look`.

    Raises:
        ValueError: shapes that don't fit, another dtype than float32.
    """
    arguments = source, position, queries, keys, values, norm_weight, norm_bias, norm_eps, look, length, out
    result: Tensor = _ops.decoder_first_pass.default(*arguments)
    return result


def decoder_pass(
    tokens: Tensor,
    position: Tensor,
    keys: Tensor,
    key_bias: Tensor,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    look: Tensor,
    length: int,
) -> Tensor:
    """The same from each prompt's own image tokens, which it replaces.

    Args:
        tokens: (prompts, panels, channels, 16), contiguous: the prompt's image tokens, overwritten with the new ones.
        keys: (heads, prompts, tokens, channels): softmax over `tokens` of keys . (image token + position) + key_bias.
        key_bias: (heads, prompts, tokens).
        position: as in `decoder_first_pass`, like all that follow.
        values: (heads, prompts, tokens, channels).
        norm_weight: (channels,).
        norm_bias: (channels,).
        norm_eps: added to the variance.
        look: (heads, prompts, tokens, channels).
        length: image tokens.

    Returns:
        (heads, prompts, tokens, channels), as in `decoder_first_pass`.
    """
    arguments = tokens, position, keys, key_bias, values, norm_weight, norm_bias, norm_eps, look, length
    result: Tensor = _ops.decoder_pass.default(*arguments)
    return result


def decoder_upscale(
    tokens: Tensor,
    index: Tensor,
    weights: Tensor,
    enlarge: Tensor,
    enlarge_bias: Tensor,
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

    Args:
        tokens: (prompts, panels, channels, 16) image tokens of a grid of height x width, row by row.
        index: (count,) int64, the prompt of each mask.
        weights: (count, narrow) of each mask over the upscaled channels.
        enlarge: (4 * middle, channels), a transposed convolution with 2 x 2 kernels at stride 2 as a matrix, the rows
            of its four sub-cells one after the other.
        enlarge_bias: (4 * middle,).
        norm_weight: (middle,), of LayerNorm over `middle`, which the exact GELU follows.
        norm_bias: (middle,).
        norm_eps: added to the variance.
        enlarge_more: (4 * narrow, middle), the second step, which GELU follows.
        enlarge_more_bias: (4 * narrow,).
        height: of the grid.
        width: of the grid.
        out: (count, 4 * height, 4 * width), contiguous: overwritten with the logits.

    Raises:
        ValueError: shapes that don't fit, another dtype than float32, an index outside [0, prompts).
    """
    steps = enlarge, enlarge_bias, norm_weight, norm_bias, norm_eps, enlarge_more, enlarge_more_bias
    _ops.decoder_upscale.default(tokens, index, weights, *steps, height, width, out)
