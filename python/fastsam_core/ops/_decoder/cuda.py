"""The CUDA sibling: float16 and bfloat16 on tensor cores, sums in float32.

There are kernels for the decoders of the published models: 8 heads of 16 channels, up to 8 tokens per prompt, 64 and 32
channels in the upscaling. The reference serves others, float32 and float64, GPUs before compute capability 8.0, and
those whose blocks have less than 160 KiB of shared memory. Nothing here waits for the GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .._native_cuda import DTYPES, aligned, left_to_pytorch, on_device_of, serves, shared_memory, why_too_old
from . import reference
from .inputs import (
    check_first_look,
    check_first_pass,
    check_mask_factors,
    check_numbers,
    check_prompts,
    check_second_pass,
    check_upscale,
)
from .layouts import (
    HEAD_DIM,
    HEADS,
    TOKENS,
    fragments,
    look_rows,
    matrices,
    merge,
    narrow_look,
    pad_bias,
    pad_pairs,
    pad_tokens,
    vectors,
)
from .schema import decoded, factors_of

HALVES = (torch.float16, torch.bfloat16)
_WIDTH, _MIDDLE, _NARROW = 256, 64, 32
_MOST_ROWS = 2 * HEADS * TOKENS + 2


def why_not(op: str, tensor: Tensor) -> str:
    """Why the kernels of `op` don't take a tensor like this one; "" where they do, if the sizes are theirs."""
    if tensor.dtype not in HALVES:
        return f"{op} has kernels for float16 and bfloat16; the tensor is {tensor.dtype}"
    if reason := why_too_old(op, tensor):
        return reason
    if tensor.is_cuda and serves(tensor):
        with on_device_of(tensor) as (cuda, _):
            if shared_memory(cuda, tensor.device) <= cuda.DECODER_SHARED_BYTES:
                return f"{op} needs {cuda.DECODER_SHARED_BYTES >> 10} KiB of shared memory, the tensor's GPU has less"
    return ""


def has_kernels(heads: int, head_dim: int, tokens: int) -> bool:
    """Whether there are kernels for a decoder of these sizes and prompts of so many tokens, output tokens included."""
    return heads == HEADS and head_dim == HEAD_DIM and 1 <= tokens <= TOKENS


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
    """See `fastsam_core.ops.decoder_prompts`. One chain of launches, for layers of these widths."""
    given = tokens, weights, sizes, image, constant, eps, heads, length, chosen, state
    own = check_prompts(*given)
    prompts, number, _ = tokens.shape
    fits = own.width == _WIDTH and not any(size % 8 for size in own[:-1]) and own.iou3 % 2 == 0
    if _left_to_pytorch("decoder_prompts", tokens, fits and has_kernels(heads, own.inner // heads, number)):
        return reference.decoder_prompts(*given)
    with on_device_of(tokens, weights, constant, state, *image) as (cuda, stream), torch.no_grad():
        results = decoded(tokens, own, heads, len(chosen))
        written = _written(state)
        if prompts:
            shape = prompts, number, length, chosen
            scratch = tokens.new_empty(cuda.decoder_prompts_scratch(len(weights), sizes, *shape), dtype=torch.uint8)
            ready = [aligned(tensor) for tensor in (tokens, weights, constant, *image)]
            addresses = [tensor.data_ptr() for tensor in ready]
            cuda.decoder_prompts(
                *(DTYPES[tokens.dtype], addresses[0], addresses[1], len(weights), sizes, addresses[3:]),
                *(addresses[2], eps, *shape, written.data_ptr()),
                *(tensor.data_ptr() for tensor in results),
                *(scratch.data_ptr(), len(scratch), shared_memory(cuda, state.device), stream),
            )
        _bring_back(written, state)
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
    """See `fastsam_core.ops.decoder_mask_factors`. Numbers out of range mean the nearest that there are."""
    of_prompts, of_weights = (final, first_own, second_own, asked, index, column), (first, second, rest)
    check_mask_factors(*of_prompts, masks, layers, sizes, *of_weights)
    if not final.is_cuda:
        check_numbers(asked, index, column, len(final), final.shape[1])
    (prompts, _, width), (_, heads, number, head_dim) = final.shape, first_own.shape
    fits = width == _WIDTH and not (sizes[0] % 8 or sizes[1] % 8 or sizes[2] % 2 or len(rest) % 16)
    fits = fits and len(masks) < TOKENS and has_kernels(heads, head_dim, number)
    if _left_to_pytorch("decoder_mask_factors", final, fits):
        return reference.decoder_mask_factors(*of_prompts, masks, layers, sizes, *of_weights)
    with on_device_of(*of_prompts, layers, *of_weights) as (cuda, stream), torch.no_grad():
        results = factors_of(final, first_own, asked, index, sizes, rest)
        if prompts and len(asked):
            shape = prompts, number, len(rest), len(asked), len(index)
            size = cuda.decoder_mask_factors_scratch(layers.shape[1], sizes, masks, *shape)
            scratch = final.new_empty(size, dtype=torch.uint8)
            given = [aligned(x) for x in (final, first_own, second_own)]
            given += [x.contiguous() for x in (asked, index, column)]  # read one by one
            given += [aligned(x) for x in (layers, *of_weights)]
            cuda.decoder_mask_factors(
                *(DTYPES[final.dtype], *(tensor.data_ptr() for tensor in given[:7])),
                *(layers.shape[1], sizes, masks, *shape),
                *(tensor.data_ptr() for tensor in (*given[7:], *results, scratch)),
                *(size, stream),
            )
    return results


def decoder_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """See `fastsam_core.ops.decoder_first_look`."""
    check_first_look(q, keys, values, length)
    if _left_to_pytorch("decoder_first_look", q, has_kernels(q.shape[0], q.shape[2], 1)):
        return reference.decoder_first_look(q, keys, values, length)
    with on_device_of(q, keys, values) as (cuda, stream):
        out = q.new_empty(q.shape)
        if out.numel():
            ready = aligned(q), fragments(keys.detach()), fragments(values.detach())
            addresses = (tensor.data_ptr() for tensor in ready)
            cuda.decoder_first_look(DTYPES[q.dtype], *addresses, q.shape[1], length, out.data_ptr(), stream)
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
    prompts, heads, tokens, head_dim = keys.shape
    if _left_to_pytorch("decoder_first_pass", state, has_kernels(heads, head_dim, tokens)):
        return reference.decoder_first_pass(*given)
    with on_device_of(*(x for x in given if isinstance(x, Tensor))) as (cuda, stream), torch.no_grad():
        sums = _sums(cuda, state, length, HEADS * TOKENS, HEADS * TOKENS)
        ready = fragments(image), fragments(values), aligned(norms)
        of_tokens = (
            *(vectors(pad_tokens(keys)), vectors(pad_tokens(cross)), matrices(pad_pairs(gram))),
            *(vectors(pad_tokens(look)), matrices(pad_pairs(look_mix))),
        )
        written = _written(state)
        if prompts:
            cuda.decoder_first_pass(
                DTYPES[state.dtype],
                *(tensor.data_ptr() for tensor in ready),
                eps,
                *(tensor.data_ptr() for tensor in of_tokens),
                *(prompts, tokens, length, written.data_ptr()),
                *(tensor.data_ptr() for tensor in sums),
                *(shared_memory(cuda, state.device), stream),
            )
        _bring_back(written, state)
        seen, mixed = merge(*sums)
        mixed = mixed.view(prompts, HEADS, TOKENS, HEADS, TOKENS)[:, :, :tokens, :, :tokens]
        seen = seen.mT[:, :, :tokens]
        shape = prompts, heads * tokens, heads * tokens
        return seen.to(state.dtype).contiguous(), mixed.reshape(shape).to(state.dtype)


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
    of_tokens = keys, keys_mix, keys_bias, own, own_gram, own_bias, cross, cross_mix, cross_bias, gram, look, look_mix
    given = image, values, norms, constant, eps, *of_tokens, length, state
    check_second_pass(*given)
    prompts, heads, tokens, head_dim = keys.shape
    if _left_to_pytorch("decoder_second_pass", state, has_kernels(heads, head_dim, tokens)):
        return reference.decoder_second_pass(*given)
    with on_device_of(*(x for x in given if isinstance(x, Tensor))) as (cuda, stream), torch.no_grad():
        rows, chosen = heads * tokens, look.shape[2]
        narrow = chosen <= TOKENS // 2
        each = TOKENS // 2 if narrow else TOKENS
        sums = _sums(cuda, state, length, _MOST_ROWS, HEADS * each)
        mix = look_rows(look_mix, each)
        mixes = [mix[..., :rows], mix[..., rows : 2 * rows]]
        wide = [F.pad(x.unflatten(2, (HEADS, tokens)), (0, TOKENS - tokens)).flatten(2) for x in mixes]
        ready = fragments(image), fragments(values), aligned(norms)
        laid_out = []
        by_role = (keys, keys_mix, keys_bias), (own, own_gram, own_bias), (cross, cross_mix, cross_bias)
        for vector, matrix, bias in by_role:
            laid_out += [vectors(pad_tokens(vector)), matrices(pad_pairs(matrix)), pad_bias(bias)]
        laid_out += [matrices(pad_pairs(gram)), narrow_look(look) if narrow else vectors(pad_tokens(look))]
        laid_out += [matrices(torch.cat(wide, 2)), mix[..., 2 * rows :].float().contiguous()]
        written = _written(state)
        if prompts:
            cuda.decoder_second_pass(
                DTYPES[state.dtype],
                *(tensor.data_ptr() for tensor in ready),
                *(constant, eps),
                *(tensor.data_ptr() for tensor in laid_out),
                *(narrow, prompts, tokens, length, written.data_ptr()),
                *(tensor.data_ptr() for tensor in sums),
                *(shared_memory(cuda, state.device), stream),
            )
        _bring_back(written, state)
        seen, mixed = merge(*sums)
        seen = seen.mT  # (n, heads, columns, 16)
        if narrow:
            seen = torch.stack([seen[:, 0::2, :each], seen[:, 1::2, each:]], 2).flatten(1, 2)
        mixed = mixed.unflatten(2, (HEADS, each))[..., :chosen].flatten(2)  # (n, 130, rows of the look)
        first, second, rest = mixed.split([HEADS * TOKENS, HEADS * TOKENS, 2], 1)
        parts = [x.unflatten(1, (HEADS, TOKENS))[:, :, :tokens].flatten(1, 2) for x in (first, second)]
        gathered = torch.cat([*parts, rest], 1).to(state.dtype)
        return seen[:, :, :chosen].to(state.dtype).contiguous(), gathered


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
    """See `fastsam_core.ops.decoder_upscale`. An index or a prompt that there is not makes its masks NaN."""
    before = state, asked, factors, index, weights, base, bias, norm_weight, norm_bias
    given = *before, norm_eps, enlarge_more, enlarge_more_bias, height, width, out
    check_upscale(*given)
    fits = _has_upscaling(state, len(norm_weight), weights.shape[1])
    if _left_to_pytorch("decoder_upscale", state, fits) or not (len(asked) and len(state)):
        return reference.decoder_upscale(*given)
    with on_device_of(*(x for x in given if isinstance(x, Tensor))), torch.no_grad():
        present, within = asked.clamp(0, len(state) - 1), index.clamp(0, len(asked) - 1)
        valid = (index == within) & (asked == present)[within]
        ordered, places = torch.sort(within, stable=True)
        first = torch.searchsorted(ordered, torch.arange(len(asked) + 1, device=index.device))
        weights = torch.where(valid[:, None], weights, torch.nan)[places]
        of_image = base, bias, norm_weight, norm_bias, norm_eps, enlarge_more, enlarge_more_bias, height, width
        Upscaler(*of_image)(state, present, factors, first, places, weights, out)


class Upscaler:
    """`decoder_upscale` on one image, the operands that all its masks share laid out once. Takes the op's arguments.

    Its caller has looked for errors, and whether there is a kernel: `can_upscale`.
    """

    def __init__(
        self,
        base: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        norm_eps: float,
        enlarge_more: Tensor,
        enlarge_more_bias: Tensor,
        height: int,
        width: int,
    ) -> None:
        tensors = bias, norm_weight, norm_bias
        self._before = fragments(base), *(tensor.float().contiguous() for tensor in tensors)
        self._after = matrices(enlarge_more[None]), enlarge_more_bias.float().contiguous()
        self._norm_eps, self._size = norm_eps, (height, width)

    def __call__(
        self, state: Tensor, asked: Tensor, factors: Tensor, first: Tensor, places: Tensor, weights: Tensor, out: Tensor
    ) -> None:
        """As the op, on prompts `asked` that there are, by whom their masks come: those of asked[i] are the numbers
        first[i] to first[i + 1] - 1 of `weights`, and `places` says which of `out` each is.

        first: (asked + 1,) int64; places: (count,) int64, each of [0, count) once.
        """
        with on_device_of(state, asked, factors, first, places, weights, out, *self._before) as (cuda, stream):
            rows = state.shape[2]
            factors = matrices(F.pad(factors, (0, (128 if rows <= 128 else 160) - rows)))
            ready = aligned(state), asked, factors, first, places, aligned(weights), *self._before
            written = _written(out)
            if len(places):
                cuda.decoder_upscale(
                    DTYPES[state.dtype],
                    *(tensor.data_ptr() for tensor in ready),
                    self._norm_eps,
                    *(tensor.data_ptr() for tensor in self._after),
                    *(len(asked), rows, *self._size, written.data_ptr(), stream),
                )
            _bring_back(written, out)


def can_upscale(state: Tensor, middle: int, narrow: int) -> bool:
    """Whether an `Upscaler` takes this state, with so many channels in the upscaling and in a mask's weights."""
    return serves(state) and _has_upscaling(state, middle, narrow) and not why_not("decoder_upscale", state)


def _has_upscaling(state: Tensor, middle: int, narrow: int) -> bool:
    return (middle, narrow) == (_MIDDLE, _NARROW) and state.shape[2] <= _MOST_ROWS


def _left_to_pytorch(op: str, tensor: Tensor, fits: bool) -> bool:
    """Whether there is no kernel for this call."""
    return left_to_pytorch(why_not(op, tensor) or ("" if fits else f"{op} has no kernel for these sizes of a decoder"))


def _sums(cuda: Any, like: Tensor, length: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory for what a pass gathers over each part of the image; see `layouts.merge`."""
    n, parts = len(like), cuda.decoder_parts(length)
    shapes = (n, parts, columns), (n, parts, columns), (n, parts, HEADS, HEAD_DIM, 8), (n, parts, rows, columns)
    tops, totals, seen, mixed = (like.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return tops, totals, seen, mixed


def _written(tensor: Tensor) -> Tensor:
    """The tensor, or a copy to write to where it begins in the middle of 16 bytes."""
    return tensor.detach() if tensor.data_ptr() % 16 == 0 else tensor.detach().clone()


def _bring_back(written: Tensor, tensor: Tensor) -> None:
    if written.data_ptr() != tensor.data_ptr():
        tensor.copy_(written)
