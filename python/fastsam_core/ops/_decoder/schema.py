"""Signatures and fakes of the decoder's operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .inputs import check_first_look, check_first_pass, check_second_pass, check_upscale

SCHEMAS = {
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
    """Memory for what a look gathers: of the image's values, and of the coefficients."""
    prompts, rows, coefficients = look_mix.shape
    return look.new_empty(look.shape), look_mix.new_empty(prompts, coefficients, rows)


def decoder_upscale(*given: Any) -> None:
    check_upscale(*given)
