"""The native sibling: tensors in and out of the compiled module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._native import cpu_module
from .._threads import thread_count
from . import reference
from .inputs import (
    check_first_look,
    check_first_pass,
    check_mask_factors,
    check_prompts,
    check_second_pass,
    check_upscale,
)
from .schema import decoded, factors_of, gathered

_cpu: Any = cpu_module


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
    """See `fastsam_core.ops.decoder_prompts`."""
    own = check_prompts(tokens, weights, sizes, image, constant, eps, heads, length, chosen, state)
    if tokens.dtype != torch.float32:
        return reference.decoder_prompts(tokens, weights, sizes, image, constant, eps, heads, length, chosen, state)
    results = decoded(tokens, own, heads, len(chosen))
    given = _array(tokens), _array(weights), sizes, [*map(_array, image)], float(constant)
    _cpu.decoder_prompts(*given, eps, heads, length, chosen, *map(_writable, (state, *results)), thread_count())
    return results


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
    """See `fastsam_core.ops.decoder_mask_factors`."""
    given = final, first_own, second_own, asked, index, column
    check_mask_factors(*given, masks, layers, sizes, first, second, rest)
    if final.dtype != torch.float32:
        return reference.decoder_mask_factors(*given, masks, layers, sizes, first, second, rest)
    factors, weights = factors_of(final, first_own, asked, index, sizes, rest)
    of_weights = masks, _array(layers), sizes, *map(_array, (first, second, rest))
    _cpu.decoder_mask_factors(*map(_array, given), *of_weights, factors.numpy(), weights.numpy(), thread_count())
    return factors, weights


def decoder_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """See `fastsam_core.ops.decoder_first_look`."""
    check_first_look(q, keys, values, length)
    if q.dtype != torch.float32:
        return reference.decoder_first_look(q, keys, values, length)
    out = q.new_empty(q.shape)
    _cpu.decoder_first_look(_array(q), _array(keys), _array(values), length, out.numpy(), thread_count())
    return out


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
    """See `fastsam_core.ops.decoder_first_pass`."""
    given = image, values, norms, eps, keys, cross, gram, look, look_mix, length, state
    check_first_pass(*given)
    if state.dtype != torch.float32:
        return reference.decoder_first_pass(*given)
    seen, mixed = gathered(look, look_mix)
    tokens = map(_array, (keys, cross, gram, look, look_mix))
    out = map(_writable, (state, seen, mixed))
    _cpu.decoder_first_pass(*map(_array, (image, values, norms)), eps, *tokens, length, *out, thread_count())
    return seen, mixed


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
    """See `fastsam_core.ops.decoder_second_pass`."""
    tokens = keys, keys_mix, keys_bias, own, own_gram, own_bias, cross, cross_mix, cross_bias, gram, look, look_mix
    check_second_pass(image, values, norms, constant, eps, *tokens, length, state)
    if state.dtype != torch.float32:
        return reference.decoder_second_pass(image, values, norms, constant, eps, *tokens, length, state)
    seen, mixed = gathered(look, look_mix)
    arrays, out = map(_array, tokens), map(_writable, (state, seen, mixed))
    of_image = map(_array, (image, values, norms))
    _cpu.decoder_second_pass(*of_image, constant, eps, *arrays, length, *out, thread_count())
    return seen, mixed


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
    """See `fastsam_core.ops.decoder_upscale`."""
    before = state, asked, factors, index, weights, base, bias, norm_weight, norm_bias
    after = enlarge_more, enlarge_more_bias
    check_upscale(*before, norm_eps, *after, height, width, out)
    if state.dtype != torch.float32:
        return reference.decoder_upscale(*before, norm_eps, *after, height, width, out)
    arrays = (*map(_numbers, before), norm_eps, *map(_numbers, after))
    _cpu.decoder_upscale(*arrays, height, width, _writable(out), thread_count())


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _numbers(tensor: Tensor) -> Any:
    """NumPy has no bfloat16: its bits go as int16."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _writable(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
