"""Signatures and fakes of the decoder's operations."""

from __future__ import annotations

from torch import Tensor

from .inputs import check_first_look, check_first_pass, check_pass, check_upscale

SCHEMAS = {
    "decoder_first_look": "(Tensor q, Tensor keys, Tensor values, int length) -> Tensor",
    "decoder_first_pass": (
        "(Tensor source, Tensor position, Tensor queries, Tensor keys, Tensor values, Tensor norm_weight, "
        "Tensor norm_bias, float norm_eps, Tensor look, int length, Tensor(a!) out) -> Tensor"
    ),
    "decoder_pass": (
        "(Tensor(a!) tokens, Tensor position, Tensor keys, Tensor key_bias, Tensor values, Tensor norm_weight, "
        "Tensor norm_bias, float norm_eps, Tensor look, int length) -> Tensor"
    ),
    "decoder_upscale": (
        "(Tensor tokens, Tensor index, Tensor weights, Tensor enlarge, Tensor enlarge_bias, Tensor norm_weight, "
        "Tensor norm_bias, float norm_eps, Tensor enlarge_more, Tensor enlarge_more_bias, int height, int width, "
        "Tensor(a!) out) -> ()"
    ),
}


def decoder_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    check_first_look(q, keys, values, length)
    return q.new_empty(q.shape)


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
    check_first_pass(source, position, queries, keys, values, norm_weight, norm_bias, look, length, out)
    return look.new_empty(look.shape)


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
    check_pass(tokens, position, keys, key_bias, values, norm_weight, norm_bias, look, length)
    return look.new_empty(look.shape)


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
    check_upscale(
        tokens, index, weights, enlarge, enlarge_bias, norm_weight, norm_bias, enlarge_more, enlarge_more_bias,
        height, width, out,
    )  # fmt: skip
