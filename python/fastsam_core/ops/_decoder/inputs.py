"""Input checks shared by all siblings of the decoder's operations and their fakes; all raise ValueError."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import check_vector
from .panels import PANEL, count_panels
from .weights import ImageParts, TokenSizes, mask_shapes, token_shapes, unflatten

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str, dtype: torch.dtype) -> None:
    """Raise ValueError unless `tensor` has this dtype and shape; `meaning` names the shape's sizes in the message."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {meaning} = {shape}; got {tuple(tensor.shape)}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, not {tensor.dtype}")


def _dtype_of(name: str, tensor: Tensor) -> torch.dtype:
    """Return the tensor's dtype, which all others must have except those of `_accumulation_dtype`.

    Raises ValueError for a dtype that no sibling takes.
    """
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} must be float32, float16, bfloat16 or float64, not {tensor.dtype}")
    return tensor.dtype


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of tensors that stay float32 when the others are in half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def check_first_token_to_image(q: Tensor, keys: Tensor, values: Tensor, length: int) -> None:
    """Check the arguments of `fastsam_core.ops.decoder_first_token_to_image`."""
    if q.dim() != 3 or 0 in (q.shape[0], q.shape[2]):
        raise ValueError(f"q must have shape (heads, rows, head_dim); got {tuple(q.shape)}")
    heads, _, head_dim = q.shape
    dtype = _dtype_of("q", q)
    check_shape("keys", keys, (_num_panels(length), heads * head_dim, PANEL), "(panels, heads * head_dim, 16)", dtype)
    _check_values(values, length, heads, head_dim, dtype)


def check_first_pass(
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
) -> None:
    """Check the arguments of `fastsam_core.ops.decoder_first_pass`."""
    prompts, heads, tokens, head_dim = _check_pass(4, image, values, keys, length, state)
    rows, dtype = heads * tokens, image.dtype
    check_shape("norms", norms, (_num_panels(length), PANEL), "(panels, 16)", _accumulation_dtype(dtype))
    for name, vectors in (("cross", cross), ("queries", queries)):
        check_shape(name, vectors, (prompts, heads, tokens, head_dim), "(prompts, heads, tokens, head_dim)", dtype)
    for name, matrix in (("gram", gram), ("queries_mix", queries_mix)):
        check_shape(name, matrix, (prompts, rows, rows), "(prompts, rows, rows)", dtype)


def check_second_pass(
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
) -> None:
    """Check the arguments of `fastsam_core.ops.decoder_second_pass`."""
    prompts, heads, tokens, head_dim = _check_pass(6, image, values, keys, length, state)
    rows, dtype = heads * tokens, image.dtype
    check_shape("norms", norms, (_num_panels(length), 2, PANEL), "(panels, 2, 16)", _accumulation_dtype(dtype))
    for name, vectors in (("first_cross", first_cross), ("cross", cross)):
        check_shape(name, vectors, (prompts, heads, tokens, head_dim), "(prompts, heads, tokens, head_dim)", dtype)
    mixes = {"keys_mix": keys_mix, "first_gram": first_gram, "cross_mix": cross_mix, "gram": gram}
    for name, matrix in mixes.items():
        check_shape(name, matrix, (prompts, rows, rows), "(prompts, rows, rows)", dtype)
    for name, bias in (("keys_bias", keys_bias), ("first_bias", first_bias), ("cross_bias", cross_bias)):
        check_shape(name, bias, (prompts, rows), "(prompts, rows)", dtype)
    if queries.dim() != 4 or not 1 <= queries.shape[2] <= tokens:
        raise ValueError(
            f"queries must have 1 to {tokens} tokens in its third axis; its shape is {tuple(queries.shape)}"
        )
    chosen = queries.shape[2]
    check_shape(
        "queries", queries, (prompts, heads, chosen, head_dim), "(prompts, heads, query tokens, head_dim)", dtype
    )
    shape = (prompts, heads * chosen, 2 * rows + 2)
    check_shape("queries_mix", queries_mix, shape, "(prompts, heads * query tokens, 2 * rows + 2)", dtype)


def check_upscale(
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
    """Check the arguments of `fastsam_core.ops.decoder_upscale`, except the values of its indices."""
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive; got {height} x {width}")
    if state.dim() != 4 or state.shape[2] < 3:
        raise ValueError(f"state must have shape (prompts, panels, rows, 16); got {tuple(state.shape)}")
    dtype = _dtype_of("state", state)
    prompts, rows, panels = state.shape[0], state.shape[2], _num_panels(height * width)
    check_shape("state", state, (prompts, panels, rows, PANEL), "(prompts, panels, rows, 16)", dtype)
    check_vector("selected", selected)
    check_vector("index", index)
    if weights.dim() != 2 or not weights.shape[1] or norm_weight.dim() != 1 or not len(norm_weight):
        raise ValueError("weights must have shape (count, narrow) and norm_weight (middle)")
    count, narrow, middle = len(index), weights.shape[1], len(norm_weight)
    # Beside float32, the two matrices may be bfloat16.
    matrix_dtype = torch.bfloat16 if dtype == torch.float32 and factors.dtype == torch.bfloat16 else dtype
    check_shape("factors", factors, (len(selected), 4 * middle, rows), "(selected, 4 * middle, rows)", matrix_dtype)
    check_shape("weights", weights, (count, narrow), "(count, narrow)", dtype)
    check_shape("base", base, (panels, 4 * middle, PANEL), "(panels, 4 * middle, 16)", dtype)
    check_shape("bias", bias, (4 * middle,), "(4 * middle,)", dtype)
    check_shape("norm_weight", norm_weight, (middle,), "(middle,)", dtype)
    check_shape("norm_bias", norm_bias, (middle,), "(middle,)", dtype)
    check_shape("conv2", conv2, (4 * narrow, middle), "(4 * narrow, middle)", matrix_dtype)
    check_shape("conv2_bias", conv2_bias, (4 * narrow,), "(4 * narrow,)", dtype)
    check_shape(
        "out", out, (count, 4 * height, 4 * width), "(count, 4 * height, 4 * width)", _accumulation_dtype(dtype)
    )
    _check_writable("out", out)


def check_prompts(
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
) -> TokenSizes:
    """Check the arguments of `fastsam_core.ops.decoder_prompts` and return `sizes` as `TokenSizes`."""
    if len(sizes) != len(TokenSizes._fields) or min(sizes) < 1:
        raise ValueError(f"sizes must be {', '.join(TokenSizes._fields)}, all positive; got {list(sizes)}")
    token_sizes = TokenSizes(*sizes)
    if tokens.dim() != 3 or not tokens.shape[1]:
        raise ValueError(f"tokens must have shape (prompts, tokens, width); got {tuple(tokens.shape)}")
    prompts, num_tokens, _ = tokens.shape
    if heads < 1 or token_sizes.width % heads or token_sizes.inner % heads:
        raise ValueError(
            f"heads must divide the {token_sizes.width} channels and the {token_sizes.inner} of the cross-attention; "
            f"got {heads}"
        )
    dtype = _dtype_of("tokens", tokens)
    check_shape("tokens", tokens, (prompts, num_tokens, token_sizes.width), "(prompts, tokens, width)", dtype)
    check_shape("weights", weights, (token_shapes(token_sizes)[1],), "(all weights of these sizes,)", dtype)
    check_shape("constant", constant, (), "()", _accumulation_dtype(dtype))
    panels, inner, padded_dim = _num_panels(length), token_sizes.inner, count_panels(token_sizes.inner // heads) * PANEL
    values = heads, panels * PANEL, padded_dim
    first = (panels, inner, PANEL), values, (panels, 4 * inner, PANEL), values, (panels, PANEL)
    shapes = *first, (panels, 6 * inner, PANEL), values, (panels, 2, PANEL)
    for name, tensor, shape in zip(ImageParts._fields, unflatten(ImageParts, image), shapes, strict=True):
        part_dtype = _accumulation_dtype(dtype) if name.startswith("norms") else dtype
        check_shape(name, tensor, shape, "(for these sizes)", part_dtype)
    if not 1 <= len(chosen) <= num_tokens or not all(0 <= token < num_tokens for token in chosen):
        raise ValueError(f"chosen must name 1 to {num_tokens} tokens from 0 to {num_tokens - 1}; got {list(chosen)}")
    shape = (prompts, panels, 2 * heads * num_tokens + 2, PANEL)
    check_shape("state", state, shape, "(prompts, panels, 2 * heads * tokens + 2, 16)", dtype)
    _check_writable("state", state)
    return token_sizes


def check_mask_factors(
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
) -> None:
    """Check the arguments of `fastsam_core.ops.decoder_mask_factors`, except the values of its indices."""
    if (
        final.dim() != 3
        or 0 in final.shape[1:]
        or first_token_values.dim() != 4
        or constant_mix.dim() != 1
        or layers.dim() != 2
    ):
        raise ValueError(
            "final must have shape (prompts, chosen, width), first_token_values (prompts, heads, tokens, head_dim), "
            f"constant_mix (4 * middle,) and layers (masks, weights); got {tuple(final.shape)}, "
            f"{tuple(first_token_values.shape)}, {tuple(constant_mix.shape)} and {tuple(layers.shape)}"
        )
    prompts, count, width = final.shape
    _, heads, tokens, head_dim = first_token_values.shape
    dtype = _dtype_of("final", final)
    for name, token_values in (
        ("first_token_values", first_token_values),
        ("second_token_values", second_token_values),
    ):
        check_shape(name, token_values, (prompts, heads, tokens, head_dim), "(prompts, heads, tokens, head_dim)", dtype)
    for name, indices in (("selected", selected), ("index", index), ("column", column)):
        check_vector(name, indices)
    if len(index) != len(column):
        raise ValueError(f"index and column must be of one length; got {len(index)} and {len(column)}")
    check_shape("constant_mix", constant_mix, (len(constant_mix),), "(4 * middle,)", dtype)
    for name, mix in (("first_mix", first_mix), ("second_mix", second_mix)):
        check_shape(name, mix, (len(constant_mix), heads * head_dim), "(4 * middle, heads * head_dim)", dtype)
    if len(masks) != count - 1 or not all(0 <= mask < len(layers) for mask in masks):
        raise ValueError(f"masks must name {count - 1} masks from 0 to {len(layers) - 1}; got {list(masks)}")
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"sizes must be the outputs of three layers, all positive; got {list(sizes)}")
    size = mask_shapes(width, *sizes)[1]
    check_shape("layers", layers, (len(layers), size), "(masks, all weights of a mask's layers)", dtype)


def check_indices(selected: Tensor, index: Tensor, column: Tensor, prompts: int, chosen: int) -> None:
    """Raise ValueError if an index of `decoder_mask_factors` is out of range. On a GPU this would wait for it."""
    bounds = ("selected", selected, prompts), ("index", index, len(selected)), ("column", column, chosen - 1)
    for name, indices, end in bounds:
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < end:
            raise ValueError(f"{name} is out of range; it must be from 0 to {end - 1}")


def _check_pass(
    projections: int, image: Tensor, values: Tensor, keys: Tensor, length: int, state: Tensor
) -> tuple[int, int, int, int]:
    """Check the arguments that both passes share, and return the sizes of `keys`."""
    if keys.dim() != 4 or 0 in keys.shape[1:]:
        raise ValueError(f"keys must have shape (prompts, heads, tokens, head_dim); got {tuple(keys.shape)}")
    prompts, heads, tokens, head_dim = keys.shape
    dtype = _dtype_of("image", image)
    panels = _num_panels(length)
    check_shape("keys", keys, (prompts, heads, tokens, head_dim), "(prompts, heads, tokens, head_dim)", dtype)
    meaning = f"(panels, {projections} * heads * head_dim, 16)"
    check_shape("image", image, (panels, projections * heads * head_dim, PANEL), meaning, dtype)
    _check_values(values, length, heads, head_dim, dtype)
    meaning = "(prompts, panels, 2 * heads * tokens + 2, 16)"
    check_shape("state", state, (prompts, panels, 2 * heads * tokens + 2, PANEL), meaning, dtype)
    _check_writable("state", state)
    return prompts, heads, tokens, head_dim


def _check_values(values: Tensor, length: int, heads: int, head_dim: int, dtype: torch.dtype) -> None:
    shape = (heads, _num_panels(length) * PANEL, count_panels(head_dim) * PANEL)
    check_shape("values", values, shape, "(heads, panels * 16, head_dim rounded up to 16)", dtype)


def _check_writable(name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is written in place and must be contiguous; its strides are {tensor.stride()}")


def _num_panels(length: int) -> int:
    if length < 1:
        raise ValueError(f"there must be at least one image token; got length={length}")
    return count_panels(length)
