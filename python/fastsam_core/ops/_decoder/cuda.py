"""CUDA sibling of the decoder's operations: products on tensor cores, sums in float32.

float16 and bfloat16 are multiplied directly, float32 in three products of TF32 numbers. There are kernels for the
decoders of the published models: 8 heads of 16 channels, up to 8 tokens per prompt, 64 and 32 channels in the
upscaling. Those for float32 cover only the operations on image tokens. The reference runs other sizes, float64, GPUs
before compute capability 8.0, and GPUs without more than 160 KiB of shared memory per multiprocessor, or 192 KiB for
float32. Nothing here waits for the GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .._native_cuda import DTYPES, aligned, falls_back_to_pytorch, on_device_of, shared_memory
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
from .kernels import (
    MOST_ROWS,
    WIDTH,
    bring_back,
    has_kernels,
    has_layers,
    has_mask_layers,
    has_upscaling,
    padded,
    why_not,
    written_to,
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
from .upscaler import Upscaler


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
    """See `fastsam_core.ops.decoder_prompts`. Runs as one chain of kernel launches."""
    given = tokens, weights, sizes, image, constant, eps, heads, length, chosen, state
    own = check_prompts(*given)
    prompts, number, _ = tokens.shape
    if _left_to_pytorch("decoder_prompts", tokens, has_layers(own, heads, number)):
        return reference.decoder_prompts(*given)
    with on_device_of(tokens, weights, constant, state, *image) as (cuda, stream), torch.no_grad():
        results = decoded(tokens, number, own, heads, len(chosen))
        written = written_to(state)
        if prompts:
            shape = prompts, number, length, chosen
            size = cuda.decoder_prompts_scratch(len(weights), sizes, False, *shape)
            scratch = tokens.new_empty(size, dtype=torch.uint8)
            ready = [aligned(tensor) for tensor in (tokens, weights, constant, *image)]
            addresses = [tensor.data_ptr() for tensor in ready]
            cuda.decoder_prompts(
                *(DTYPES[tokens.dtype], addresses[0], 0, 0, addresses[1], len(weights), sizes, addresses[3:], False),
                *(addresses[2], eps, *shape, written.data_ptr()),
                *(tensor.data_ptr() for tensor in results),
                *(scratch.data_ptr(), len(scratch), shared_memory(cuda, state.device), stream),
            )
        bring_back(written, state)
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
    """See `fastsam_core.ops.decoder_mask_factors`. The kernels clamp indices to the valid range."""
    of_prompts, of_weights = (final, first_own, second_own, asked, index, column), (first, second, rest)
    check_mask_factors(*of_prompts, masks, layers, sizes, *of_weights)
    if not final.is_cuda:
        check_numbers(asked, index, column, len(final), final.shape[1])
    _, heads, number, head_dim = first_own.shape
    fits = final.shape[2] == WIDTH and len(rest) % 16 == 0 and has_mask_layers(sizes)
    fits = fits and len(masks) < TOKENS and has_kernels(heads, head_dim, number)
    if _left_to_pytorch("decoder_mask_factors", final, fits):
        return reference.decoder_mask_factors(*of_prompts, masks, layers, sizes, *of_weights)
    return mask_factors(*of_prompts, masks, layers, sizes, *of_weights, laid_out=False)


def mask_factors(
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
    *,
    laid_out: bool,
) -> tuple[Tensor, Tensor]:
    """Run the kernels of `decoder_mask_factors`; the caller must have checked that there are some for these sizes.

    laid_out: return the factors in the layout of `Upscaler`.
    """
    of_prompts, of_weights = (final, first_own, second_own, asked, index, column), (first, second, rest)
    prompts, number = len(final), first_own.shape[2]
    with on_device_of(*of_prompts, layers, *of_weights) as (cuda, stream), torch.no_grad():
        results = factors_of(final, first_own, asked, index, sizes, rest)
        if laid_out:
            depth = padded(2 * HEADS * number + 2)
            results = final.new_empty(len(asked), len(rest), depth), results[1]
        if prompts and len(asked):
            shape = prompts, number, len(rest), len(asked), len(index)
            size = cuda.decoder_mask_factors_scratch(layers.shape[1], sizes, masks, *shape)
            scratch = final.new_empty(size, dtype=torch.uint8)
            given = [aligned(x) for x in (final, first_own, second_own)]
            given += [x.contiguous() for x in (asked, index, column)]  # read one by one: no alignment needed
            given += [aligned(x) for x in (layers, *of_weights)]
            cuda.decoder_mask_factors(
                *(DTYPES[final.dtype], *(tensor.data_ptr() for tensor in given[:7])),
                *(layers.shape[1], sizes, masks, *shape),
                *(*(tensor.data_ptr() for tensor in given[7:]), laid_out),
                *(*(tensor.data_ptr() for tensor in (*results, scratch)), size, stream),
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
        written = written_to(state)
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
        bring_back(written, state)
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
        sums = _sums(cuda, state, length, MOST_ROWS, HEADS * each)
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
        written = written_to(state)
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
        bring_back(written, state)
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
    """See `fastsam_core.ops.decoder_upscale`. The masks of an index out of range are NaN."""
    before = state, asked, factors, index, weights, base, bias, norm_weight, norm_bias
    given = *before, norm_eps, enlarge_more, enlarge_more_bias, height, width, out
    check_upscale(*given)
    fits = has_upscaling(state, len(norm_weight), weights.shape[1]) and factors.dtype == state.dtype
    if _left_to_pytorch("decoder_upscale", state, fits) or not (len(asked) and len(state)):
        return reference.decoder_upscale(*given)
    with on_device_of(*(x for x in given if isinstance(x, Tensor))), torch.no_grad():
        present, within = asked.clamp(0, len(state) - 1), index.clamp(0, len(asked) - 1)
        valid = (index == within) & (asked == present)[within]
        ordered, places = torch.sort(within, stable=True)
        first = torch.searchsorted(ordered, torch.arange(len(asked) + 1, device=index.device))
        weights = torch.where(valid[:, None], weights, torch.nan)[places]
        of_image = base, bias, norm_weight, norm_bias, norm_eps, enlarge_more, enlarge_more_bias, height, width
        rows = state.shape[2]
        factors = matrices(F.pad(factors, (0, padded(rows) - rows)))
        Upscaler(*of_image)(state, present, factors, first, places, weights, out)


def _left_to_pytorch(op: str, tensor: Tensor, fits: bool) -> bool:
    """Return whether PyTorch must run this call, and log why. fits: whether there are kernels for its sizes."""
    return falls_back_to_pytorch(
        why_not(op, tensor) or ("" if fits else f"{op} has no kernel for these sizes of a decoder")
    )


def _sums(cuda: Any, like: Tensor, length: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate what a pass sums up over each part of the image: the arguments of `layouts.merge`."""
    n, parts = len(like), cuda.decoder_parts(length)
    shapes = (n, parts, columns), (n, parts, columns), (n, parts, HEADS, HEAD_DIM, 8), (n, parts, rows, columns)
    tops, totals, seen, mixed = (like.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return tops, totals, seen, mixed
