"""Signatures and fakes of the decoder's operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .inputs import (
    check_first_pass,
    check_first_token_to_image,
    check_mask_factors,
    check_prompts,
    check_second_pass,
    check_upscale,
)
from .weights import TokenSizes

SCHEMAS = {
    "decoder_prompts": (
        "(Tensor tokens, Tensor weights, int[] sizes, Tensor[] image, Tensor constant, float eps, int heads, "
        "int length, int[] chosen, Tensor(a!) state) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "decoder_mask_factors": (
        "(Tensor final, Tensor first_token_values, Tensor second_token_values, Tensor selected, Tensor index, "
        "Tensor column, int[] masks, Tensor layers, int[] sizes, Tensor first_mix, Tensor second_mix, "
        "Tensor constant_mix) -> (Tensor, Tensor)"
    ),
    "decoder_first_token_to_image": "(Tensor q, Tensor keys, Tensor values, int length) -> Tensor",
    "decoder_first_pass": (
        "(Tensor image, Tensor values, Tensor norms, float eps, Tensor keys, Tensor cross, Tensor gram, "
        "Tensor queries, Tensor queries_mix, int length, Tensor(a!) state) -> (Tensor, Tensor)"
    ),
    "decoder_second_pass": (
        "(Tensor image, Tensor values, Tensor norms, float constant, float eps, Tensor keys, Tensor keys_mix, "
        "Tensor keys_bias, Tensor first_cross, Tensor first_gram, Tensor first_bias, Tensor cross, Tensor cross_mix, "
        "Tensor cross_bias, Tensor gram, Tensor queries, Tensor queries_mix, int length, Tensor(a!) state) "
        "-> (Tensor, Tensor)"
    ),
    "decoder_upscale": (
        "(Tensor state, Tensor selected, Tensor factors, Tensor index, Tensor weights, Tensor base, Tensor bias, "
        "Tensor norm_weight, Tensor norm_bias, float norm_eps, Tensor conv2, Tensor conv2_bias, "
        "int height, int width, Tensor(a!) out) -> ()"
    ),
}


def decoder_prompts(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = check_prompts(*args)
    tokens, *_, heads, _, chosen, _ = args
    return allocate_prompt_results(tokens, tokens.shape[1], sizes, heads, len(chosen))


def allocate_prompt_results(
    tokens: Tensor, num_tokens: int, sizes: TokenSizes, heads: int, chosen: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate the results of `decoder_prompts` for `num_tokens` tokens per prompt.

    `tokens` sets the number of prompts, the width and the dtype; its own number of tokens may be lower.
    """
    prompts, _, width = tokens.shape
    values_shape = prompts, heads, num_tokens, sizes.inner // heads
    final, iou = tokens.new_empty(prompts, chosen, width), tokens.new_empty(prompts, sizes.iou3)
    return final, iou, tokens.new_empty(values_shape), tokens.new_empty(values_shape)


def decoder_mask_factors(*args: Any) -> tuple[Tensor, Tensor]:
    check_mask_factors(*args)
    final, first_token_values, _, selected, index, _, _, _, sizes, _, _, constant_mix = args
    return allocate_mask_factors(final, first_token_values, selected, index, sizes, constant_mix)


def allocate_mask_factors(
    final: Tensor, first_token_values: Tensor, selected: Tensor, index: Tensor, sizes: list[int], constant_mix: Tensor
) -> tuple[Tensor, Tensor]:
    """Allocate the results of `decoder_mask_factors`."""
    rows = first_token_values.shape[1] * first_token_values.shape[2]
    return final.new_empty(len(selected), len(constant_mix), 2 * rows + 2), final.new_empty(len(index), sizes[-1])


def decoder_first_token_to_image(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    check_first_token_to_image(q, keys, values, length)
    return q.new_empty(q.shape)


def decoder_first_pass(*args: Any) -> tuple[Tensor, Tensor]:
    check_first_pass(*args)
    *_, queries, queries_mix, _, _ = args
    return allocate_sums(queries, queries_mix)


def decoder_second_pass(*args: Any) -> tuple[Tensor, Tensor]:
    check_second_pass(*args)
    *_, queries, queries_mix, _, _ = args
    return allocate_sums(queries, queries_mix)


def allocate_sums(queries: Tensor, queries_mix: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate the results of a pass: the attention-weighted sums of the image's values, and of the coefficients."""
    prompts, rows, coefficients = queries_mix.shape
    return queries.new_empty(queries.shape), queries_mix.new_empty(prompts, coefficients, rows)


def decoder_upscale(*args: Any) -> None:
    check_upscale(*args)
