"""Signatures and fakes of the decoder's operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .inputs import (
    check_first_look,
    check_first_pass,
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
        "(Tensor final, Tensor first_own, Tensor second_own, Tensor asked, Tensor index, Tensor column, "
        "int[] masks, Tensor layers, int[] sizes, Tensor first, Tensor second, Tensor rest) -> (Tensor, Tensor)"
    ),
    "decoder_first_look": "(Tensor q, Tensor keys, Tensor values, int length) -> Tensor",
    "decoder_first_pass": (
        "(Tensor image, Tensor values, Tensor norms, float eps, Tensor keys, Tensor cross, Tensor gram, Tensor look, "
        "Tensor look_mix, int length, Tensor(a!) state) -> (Tensor, Tensor)"
    ),
    "decoder_second_pass": (
        "(Tensor image, Tensor values, Tensor norms, float constant, float eps, Tensor keys, Tensor keys_mix, "
        "Tensor keys_bias, Tensor own, Tensor own_gram, Tensor own_bias, Tensor cross, Tensor cross_mix, "
        "Tensor cross_bias, Tensor gram, Tensor look, Tensor look_mix, int length, Tensor(a!) state) "
        "-> (Tensor, Tensor)"
    ),
    "decoder_upscale": (
        "(Tensor state, Tensor asked, Tensor factors, Tensor index, Tensor weights, Tensor base, Tensor bias, "
        "Tensor norm_weight, Tensor norm_bias, float norm_eps, Tensor enlarge_more, Tensor enlarge_more_bias, "
        "int height, int width, Tensor(a!) out) -> ()"
    ),
}


def decoder_prompts(*given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    own = check_prompts(*given)
    tokens, *_, heads, _, chosen, _ = given
    return decoded(tokens, tokens.shape[1], own, heads, len(chosen))


def decoded(
    tokens: Tensor, number: int, sizes: TokenSizes, heads: int, chosen: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate the results of `decoder_prompts` for `number` tokens per prompt.

    `tokens` sets the number of prompts, the width and the dtype; its own number of tokens may be lower.
    """
    prompts, _, width = tokens.shape
    own = prompts, heads, number, sizes.inner // heads
    final, iou = tokens.new_empty(prompts, chosen, width), tokens.new_empty(prompts, sizes.iou3)
    return final, iou, tokens.new_empty(own), tokens.new_empty(own)


def decoder_mask_factors(*given: Any) -> tuple[Tensor, Tensor]:
    check_mask_factors(*given)
    final, first_own, _, asked, index, _, _, _, sizes, _, _, rest = given
    return factors_of(final, first_own, asked, index, sizes, rest)


def factors_of(
    final: Tensor, first_own: Tensor, asked: Tensor, index: Tensor, sizes: list[int], rest: Tensor
) -> tuple[Tensor, Tensor]:
    """Allocate the results of `decoder_mask_factors`."""
    rows = first_own.shape[1] * first_own.shape[2]
    return final.new_empty(len(asked), len(rest), 2 * rows + 2), final.new_empty(len(index), sizes[-1])


def decoder_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    check_first_look(q, keys, values, length)
    return q.new_empty(q.shape)


def decoder_first_pass(*given: Any) -> tuple[Tensor, Tensor]:
    check_first_pass(*given)
    *_, look, look_mix, _, _ = given
    return gathered(look, look_mix)


def decoder_second_pass(*given: Any) -> tuple[Tensor, Tensor]:
    check_second_pass(*given)
    *_, look, look_mix, _, _ = given
    return gathered(look, look_mix)


def gathered(look: Tensor, look_mix: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate the results of a look: the weighted sums of the image's values, and of the coefficients."""
    prompts, rows, coefficients = look_mix.shape
    return look.new_empty(look.shape), look_mix.new_empty(prompts, coefficients, rows)


def decoder_upscale(*given: Any) -> None:
    check_upscale(*given)
