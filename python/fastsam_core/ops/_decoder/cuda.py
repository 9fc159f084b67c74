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
    check_first_pass,
    check_first_token_to_image,
    check_indices,
    check_mask_factors,
    check_prompts,
    check_second_pass,
    check_upscale,
)
from .kernels import (
    MAX_ROWS,
    WIDTH,
    aligned_output,
    copy_back,
    has_kernels,
    has_layers,
    has_mask_layers,
    has_upscaling,
    padded_depth,
    why_not,
)
from .layouts import (
    HEAD_DIM,
    HEADS,
    TOKENS,
    fragments,
    matrices,
    merge_sums,
    pack_few_queries,
    pad_bias,
    pad_pairs,
    pad_query_rows,
    pad_tokens,
    vectors,
)
from .schema import allocate_mask_factors, allocate_prompt_results
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
    args = tokens, weights, sizes, image, constant, eps, heads, length, chosen, state
    token_sizes = check_prompts(*args)
    prompts, num_tokens, _ = tokens.shape
    if _left_to_pytorch("decoder_prompts", tokens, has_layers(token_sizes, heads, num_tokens)):
        return reference.decoder_prompts(*args)
    with on_device_of(tokens, weights, constant, state, *image) as (cuda, stream), torch.no_grad():
        results = allocate_prompt_results(tokens, num_tokens, token_sizes, heads, len(chosen))
        output_state = aligned_output(state)
        if prompts:
            shape = prompts, num_tokens, length, chosen
            scratch_bytes = cuda.decoder_prompts_scratch_bytes(len(weights), sizes, False, *shape)
            scratch = tokens.new_empty(scratch_bytes, dtype=torch.uint8)
            aligned_tensors = [aligned(tensor) for tensor in (tokens, weights, constant, *image)]
            addresses = [tensor.data_ptr() for tensor in aligned_tensors]
            cuda.decoder_prompts(
                *(DTYPES[tokens.dtype], addresses[0], 0, 0, addresses[1], len(weights), sizes, addresses[3:], False),
                *(addresses[2], eps, *shape, output_state.data_ptr()),
                *(tensor.data_ptr() for tensor in results),
                *(scratch.data_ptr(), len(scratch), shared_memory(cuda, state.device), stream),
            )
        copy_back(output_state, state)
    return results


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
    """See `fastsam_core.ops.decoder_mask_factors`. The kernels clamp indices to the valid range."""
    prompt_args, weight_args = (
        (final, first_token_values, second_token_values, selected, index, column),
        (first_mix, second_mix, constant_mix),
    )
    check_mask_factors(*prompt_args, masks, layers, sizes, *weight_args)
    if not final.is_cuda:
        check_indices(selected, index, column, len(final), final.shape[1])
    _, heads, num_tokens, head_dim = first_token_values.shape
    fits = final.shape[2] == WIDTH and len(constant_mix) % 16 == 0 and has_mask_layers(sizes)
    fits = fits and len(masks) < TOKENS and has_kernels(heads, head_dim, num_tokens)
    if _left_to_pytorch("decoder_mask_factors", final, fits):
        return reference.decoder_mask_factors(*prompt_args, masks, layers, sizes, *weight_args)
    return mask_factors(*prompt_args, masks, layers, sizes, *weight_args, packed=False)


def mask_factors(
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
    *,
    packed: bool,
) -> tuple[Tensor, Tensor]:
    """Run the kernels of `decoder_mask_factors`; the caller must have checked that there are some for these sizes.

    packed: return the factors in the layout of `Upscaler`.
    """
    prompt_args, weight_args = (
        (final, first_token_values, second_token_values, selected, index, column),
        (first_mix, second_mix, constant_mix),
    )
    prompts, num_tokens = len(final), first_token_values.shape[2]
    with on_device_of(*prompt_args, layers, *weight_args) as (cuda, stream), torch.no_grad():
        results = allocate_mask_factors(final, first_token_values, selected, index, sizes, constant_mix)
        if packed:
            depth = padded_depth(2 * HEADS * num_tokens + 2)
            results = final.new_empty(len(selected), len(constant_mix), depth), results[1]
        if prompts and len(selected):
            shape = prompts, num_tokens, len(constant_mix), len(selected), len(index)
            scratch_bytes = cuda.decoder_mask_factors_scratch_bytes(layers.shape[1], sizes, masks, *shape)
            scratch = final.new_empty(scratch_bytes, dtype=torch.uint8)
            tensors = [aligned(x) for x in (final, first_token_values, second_token_values)]
            tensors += [x.contiguous() for x in (selected, index, column)]  # read one by one: no alignment needed
            tensors += [aligned(x) for x in (layers, *weight_args)]
            cuda.decoder_mask_factors(
                *(DTYPES[final.dtype], *(tensor.data_ptr() for tensor in tensors[:7])),
                *(layers.shape[1], sizes, masks, *shape),
                *(*(tensor.data_ptr() for tensor in tensors[7:]), packed),
                *(*(tensor.data_ptr() for tensor in (*results, scratch)), scratch_bytes, stream),
            )
    return results


def decoder_first_token_to_image(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """See `fastsam_core.ops.decoder_first_token_to_image`."""
    check_first_token_to_image(q, keys, values, length)
    if _left_to_pytorch("decoder_first_token_to_image", q, has_kernels(q.shape[0], q.shape[2], 1)):
        return reference.decoder_first_token_to_image(q, keys, values, length)
    with on_device_of(q, keys, values) as (cuda, stream):
        out = q.new_empty(q.shape)
        if out.numel():
            aligned_tensors = aligned(q), fragments(keys.detach()), fragments(values.detach())
            addresses = (tensor.data_ptr() for tensor in aligned_tensors)
            cuda.decoder_first_token_to_image(DTYPES[q.dtype], *addresses, q.shape[1], length, out.data_ptr(), stream)
    return out


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
    """See `fastsam_core.ops.decoder_first_pass`."""
    args = image, values, norms, eps, keys, cross, gram, queries, queries_mix, length, state
    check_first_pass(*args)
    prompts, heads, tokens, head_dim = keys.shape
    if _left_to_pytorch("decoder_first_pass", state, has_kernels(heads, head_dim, tokens)):
        return reference.decoder_first_pass(*args)
    with on_device_of(*(x for x in args if isinstance(x, Tensor))) as (cuda, stream), torch.no_grad():
        sums = _allocate_sums(cuda, state, length, HEADS * TOKENS, HEADS * TOKENS)
        aligned_tensors = fragments(image), fragments(values), aligned(norms)
        token_operands = (
            *(vectors(pad_tokens(keys)), vectors(pad_tokens(cross)), matrices(pad_pairs(gram))),
            *(vectors(pad_tokens(queries)), matrices(pad_pairs(queries_mix))),
        )
        output_state = aligned_output(state)
        if prompts:
            cuda.decoder_first_pass(
                DTYPES[state.dtype],
                *(tensor.data_ptr() for tensor in aligned_tensors),
                eps,
                *(tensor.data_ptr() for tensor in token_operands),
                *(prompts, tokens, length, output_state.data_ptr()),
                *(tensor.data_ptr() for tensor in sums),
                *(shared_memory(cuda, state.device), stream),
            )
        copy_back(output_state, state)
        value_sum, coefficient_sum = merge_sums(*sums)
        coefficient_sum = coefficient_sum.view(prompts, HEADS, TOKENS, HEADS, TOKENS)[:, :, :tokens, :, :tokens]
        value_sum = value_sum.mT[:, :, :tokens]
        shape = prompts, heads * tokens, heads * tokens
        return value_sum.to(state.dtype).contiguous(), coefficient_sum.reshape(shape).to(state.dtype)


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
    """See `fastsam_core.ops.decoder_second_pass`."""
    token_args = (
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
    args = image, values, norms, constant, eps, *token_args, length, state
    check_second_pass(*args)
    prompts, heads, tokens, head_dim = keys.shape
    if _left_to_pytorch("decoder_second_pass", state, has_kernels(heads, head_dim, tokens)):
        return reference.decoder_second_pass(*args)
    with on_device_of(*(x for x in args if isinstance(x, Tensor))) as (cuda, stream), torch.no_grad():
        rows, chosen = heads * tokens, queries.shape[2]
        few_queries = chosen <= TOKENS // 2
        tokens_per_head = TOKENS // 2 if few_queries else TOKENS
        sums = _allocate_sums(cuda, state, length, MAX_ROWS, HEADS * tokens_per_head)
        mix = pad_query_rows(queries_mix, tokens_per_head)
        mixes = [mix[..., :rows], mix[..., rows : 2 * rows]]
        padded_mixes = [F.pad(x.unflatten(2, (HEADS, tokens)), (0, TOKENS - tokens)).flatten(2) for x in mixes]
        aligned_tensors = fragments(image), fragments(values), aligned(norms)
        packed = []
        by_role = (keys, keys_mix, keys_bias), (first_cross, first_gram, first_bias), (cross, cross_mix, cross_bias)
        for vector, matrix, bias in by_role:
            packed += [vectors(pad_tokens(vector)), matrices(pad_pairs(matrix)), pad_bias(bias)]
        packed += [
            matrices(pad_pairs(gram)),
            pack_few_queries(queries) if few_queries else vectors(pad_tokens(queries)),
        ]
        packed += [matrices(torch.cat(padded_mixes, 2)), mix[..., 2 * rows :].float().contiguous()]
        output_state = aligned_output(state)
        if prompts:
            cuda.decoder_second_pass(
                DTYPES[state.dtype],
                *(tensor.data_ptr() for tensor in aligned_tensors),
                *(constant, eps),
                *(tensor.data_ptr() for tensor in packed),
                *(few_queries, prompts, tokens, length, output_state.data_ptr()),
                *(tensor.data_ptr() for tensor in sums),
                *(shared_memory(cuda, state.device), stream),
            )
        copy_back(output_state, state)
        value_sum, coefficient_sum = merge_sums(*sums)
        value_sum = value_sum.mT  # (n, heads, columns, 16)
        if few_queries:
            value_sum = torch.stack(
                [value_sum[:, 0::2, :tokens_per_head], value_sum[:, 1::2, tokens_per_head:]], 2
            ).flatten(1, 2)
        # (n, 130, heads * query tokens)
        coefficient_sum = coefficient_sum.unflatten(2, (HEADS, tokens_per_head))[..., :chosen].flatten(2)
        first, second, last = coefficient_sum.split([HEADS * TOKENS, HEADS * TOKENS, 2], 1)
        parts = [x.unflatten(1, (HEADS, TOKENS))[:, :, :tokens].flatten(1, 2) for x in (first, second)]
        coefficient_sum = torch.cat([*parts, last], 1).to(state.dtype)
        return value_sum[:, :, :chosen].to(state.dtype).contiguous(), coefficient_sum


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
    """See `fastsam_core.ops.decoder_upscale`. The masks of an index out of range are NaN."""
    leading = state, selected, factors, index, weights, base, bias, norm_weight, norm_bias
    args = *leading, norm_eps, conv2, conv2_bias, height, width, out
    check_upscale(*args)
    fits = has_upscaling(state, len(norm_weight), weights.shape[1]) and factors.dtype == state.dtype
    if _left_to_pytorch("decoder_upscale", state, fits) or not (len(selected) and len(state)):
        return reference.decoder_upscale(*args)
    with on_device_of(*(x for x in args if isinstance(x, Tensor))), torch.no_grad():
        clamped_selected, clamped_index = selected.clamp(0, len(state) - 1), index.clamp(0, len(selected) - 1)
        valid = (index == clamped_index) & (selected == clamped_selected)[clamped_index]
        sorted_index, out_indices = torch.sort(clamped_index, stable=True)
        mask_offsets = torch.searchsorted(sorted_index, torch.arange(len(selected) + 1, device=index.device))
        weights = torch.where(valid[:, None], weights, torch.nan)[out_indices]
        image_args = base, bias, norm_weight, norm_bias, norm_eps, conv2, conv2_bias, height, width
        rows = state.shape[2]
        factors = matrices(F.pad(factors, (0, padded_depth(rows) - rows)))
        Upscaler(*image_args)(state, clamped_selected, factors, mask_offsets, out_indices, weights, out)


def _left_to_pytorch(op: str, tensor: Tensor, fits: bool) -> bool:
    """Return whether PyTorch must run this call, and log why. fits: whether there are kernels for its sizes."""
    return falls_back_to_pytorch(
        why_not(op, tensor) or ("" if fits else f"{op} has no kernel for these sizes of a decoder")
    )


def _allocate_sums(
    cuda: Any, like: Tensor, length: int, rows: int, columns: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate what a pass sums up over each part of the image: the arguments of `layouts.merge_sums`."""
    n, parts = len(like), cuda.decoder_parts(length)
    shapes = (n, parts, columns), (n, parts, columns), (n, parts, HEADS, HEAD_DIM, 8), (n, parts, rows, columns)
    max_scores, weight_sums, value_sums, coefficient_sums = (
        like.new_empty(shape, dtype=torch.float32) for shape in shapes
    )
    return max_scores, weight_sums, value_sums, coefficient_sums
