"""The native sibling: tensors in and out of the compiled module."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._native import cpu_module
from .._threads import thread_count
from .inputs import check_first_look, check_first_pass, check_pass, check_upscale

_cpu: Any = cpu_module


def decoder_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """See `fastsam_core.ops.decoder_first_look`."""
    check_first_look(q, keys, values, length)
    out = q.new_empty(q.shape)
    _cpu.decoder_first_look(_array(q), _array(keys), _array(values), length, out.numpy(), thread_count())
    return out


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
    """See `fastsam_core.ops.decoder_first_pass`."""
    check_first_pass(source, position, queries, keys, values, norm_weight, norm_bias, look, length, out)
    memory = out.untyped_storage().data_ptr()
    if any(given.untyped_storage().data_ptr() == memory for given in (source, position, queries)):
        raise ValueError("out shares memory with an input, which all prompts still have to read; give it its own")
    arrays = map(_array, (source, position, queries, keys))
    return _run(arrays, None, values, norm_weight, norm_bias, norm_eps, look, length, out)


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
    """See `fastsam_core.ops.decoder_pass`."""
    check_pass(tokens, position, keys, key_bias, values, norm_weight, norm_bias, look, length)
    arrays = (None, _array(position), None, _array(keys))
    return _run(arrays, _array(key_bias), values, norm_weight, norm_bias, norm_eps, look, length, tokens)


def _run(
    arrays: Any,
    key_bias: Any,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    look: Tensor,
    length: int,
    image: Tensor,
) -> Tensor:
    gathered = look.new_empty(look.shape)
    norm = _array(norm_weight), _array(norm_bias), norm_eps
    outs = image.detach().numpy(), gathered.numpy()
    _cpu.decoder_pass(*arrays, key_bias, _array(values), *norm, _array(look), length, *outs, thread_count())
    return gathered


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
    """See `fastsam_core.ops.decoder_upscale`."""
    check_upscale(
        tokens, index, weights, enlarge, enlarge_bias, norm_weight, norm_bias, enlarge_more, enlarge_more_bias,
        height, width, out,
    )  # fmt: skip
    before = map(_array, (tokens, index, weights, enlarge, enlarge_bias, norm_weight, norm_bias))
    after = map(_array, (enlarge_more, enlarge_more_bias))
    _cpu.decoder_upscale(*before, norm_eps, *after, height, width, out.detach().numpy(), thread_count())


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()
