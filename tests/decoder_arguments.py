"""Random arguments for the mask decoder's operations, of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastsam_core.models.decoder_features import compute_features, derive_decoder_weights, project_position
from fastsam_core.models.mask_decoder import MaskDecoder, TwoWayTransformer
from fastsam_core.ops._decoder.chain import Chain
from fastsam_core.ops._decoder.panels import to_panels
from fastsam_core.ops._decoder.weights import ImageParts, TokenSizes


def cast(op: str, given: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Convert floating-point arguments to `dtype`.

    With half precision, arguments that the operation takes in float32 beside it stay float32.
    """
    exact = {
        "decoder_first_pass": (2,),
        "decoder_second_pass": (2,),
        "decoder_upscale": (14,),
        "decoder_prompts": (4, "norms1", "norms2"),
    }.get(op, ())
    half = dtype in (torch.float16, torch.bfloat16)

    def convert(x: Any, position: Any) -> Any:
        if isinstance(x, list) and x and isinstance(x[0], Tensor):
            return [convert(part, name) for part, name in zip(x, ImageParts._fields, strict=True)]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return x.to(torch.float32 if half and position in exact else dtype)

    return tuple(convert(x, position) for position, x in enumerate(given))


def arguments_in(dtype: torch.dtype, op: str, **sizes: Any) -> tuple[Any, ...]:
    """Return `arguments(op, **sizes)` in this dtype."""
    return cast(op, arguments(op, **sizes), dtype)


def chain_of(given: tuple[Any, ...], outputs: int = 5) -> tuple[Chain, tuple[Any, ...]]:
    """Split arguments of `decoder_prompts` into a `Chain` of their image and what the chain takes per prompt.

    The first `outputs` tokens of the first prompt serve as the output tokens that all prompts share.
    """
    tokens, weights, sizes, image, *image_args, chosen, state = given
    chain = Chain(tokens[0, :outputs], weights, TokenSizes(*sizes), ImageParts(*image), *image_args)
    return chain, (tokens[:, outputs:], chosen, state)


def arguments(
    op: str,
    *,
    heads: int,
    prompts: int,
    tokens: int,
    dim: int,
    grid: tuple[int, int],
    hidden: tuple[int, int] = (56, 40),
    seed: int = 5,
) -> tuple[Any, ...]:
    """Return random arguments of an operation. The head dimension is SAM's: dim // 2 // heads.

    hidden: widths of the hidden layers of the tokens' MLP and of the IoU prediction head.
    """
    generator = torch.Generator().manual_seed(seed)
    length, width = grid[0] * grid[1], dim // 2 // heads

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def panels(*shape: int) -> Tensor:
        return to_panels(draw(*shape))

    if op == "decoder_first_token_to_image":
        values = torch.zeros(heads, -(-length // 16) * 16, -(-width // 16) * 16)
        values[:, :length, :width] = draw(heads, length, width)
        return draw(heads, prompts * tokens, width), panels(length, heads * width), values, length
    if op in ("decoder_prompts", "decoder_mask_factors"):
        return _of_prompts(op, heads, prompts, tokens, dim, grid, hidden, seed)
    rows = heads * tokens

    def vectors() -> Tensor:
        return draw(prompts, heads, tokens, width) / 4

    def gram() -> Tensor:  # the factor has more columns than rows, so that no variance is near 0
        factor = draw(prompts, rows, rows + 8) / (rows + 8) ** 0.5
        return factor @ factor.mT

    if op == "decoder_upscale":
        index, selected = torch.tensor([1, 0, 1, 0, 0]), torch.tensor([prompts - 1, 0])
        middle, narrow, out = dim // 4, dim // 8, torch.zeros(5, 4 * grid[0], 4 * grid[1])
        state = panels(prompts, length, 2 * rows + 2)
        factors = draw(2, 4 * middle, 2 * rows + 2) / 8
        first = panels(length, 4 * middle), draw(4 * middle)
        steps = draw(middle), draw(middle), 1e-6, draw(4 * narrow, middle), draw(4 * narrow)
        return state, selected, factors, index, draw(5, narrow), *first, *steps, *grid, out
    values = torch.zeros(heads, -(-length // 16) * 16, -(-width // 16) * 16)
    values[:, :length, :width] = draw(heads, length, width)
    mix = [draw(prompts, rows, rows) / rows**0.5 for _ in range(3)]
    bias = [draw(prompts, rows) / 4 for _ in range(3)]
    if op == "decoder_first_pass":
        state = torch.zeros(prompts, -(-length // 16), 2 * rows + 2, 16)
        image = panels(length, 4 * heads * width), values, panels(length, 1)[:, 0].abs().contiguous() + 4, 1e-5
        return *image, vectors(), vectors(), gram(), vectors(), mix[0], length, state
    image = panels(length, 6 * heads * width), values, panels(length, 2).abs() + 4, 9.0, 1e-5
    state = panels(prompts, length, 2 * rows + 2).abs() / 4
    queries = draw(prompts, heads, max(1, tokens - 2), width) / 4
    queries_mix = draw(prompts, queries.shape[1] * queries.shape[2], 2 * rows + 2) / rows**0.5
    token_operands = vectors(), mix[0], bias[0], vectors(), gram(), bias[1], vectors(), mix[1], bias[2], gram()
    return *image, *token_operands, queries, queries_mix, length, state


def randomised(module: nn.Module) -> nn.Module:
    """Set every parameter to random values, scaled to keep activations in range; nothing stays zero-initialised."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return module.eval()


@torch.no_grad()
def _of_prompts(
    op: str, heads: int, prompts: int, tokens: int, dim: int, grid: tuple[int, int], hidden: tuple[int, int], seed: int
) -> tuple[Any, ...]:
    """Return arguments derived from one random decoder and image, so that weights and features belong together."""
    generator = torch.Generator().manual_seed(seed)
    transformer = TwoWayTransformer(2, dim, heads, hidden[0])
    decoder = randomised(MaskDecoder(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=hidden[1]))
    assert isinstance(decoder, MaskDecoder)
    length = grid[0] * grid[1]
    source, position = torch.randn(2, length, dim, generator=generator)
    weights = derive_decoder_weights(decoder)
    image_features = compute_features(weights, source, project_position(weights, position))
    input_tokens = torch.randn(prompts, tokens, dim, generator=generator)
    if op == "decoder_prompts":
        chosen = [0, *range(1, tokens, 2)]
        state = torch.zeros(prompts, -(-length // 16), 2 * heads * tokens + 2, 16)
        tail = (
            weights.token_weights,
            list(weights.token_sizes),
            list(image_features.parts),
            weights.constant,
            weights.eps,
        )
        return input_tokens, *tail, heads, length, chosen, state
    token_values = torch.randn(2, prompts, heads, tokens, dim // 2 // heads, generator=generator)
    final = torch.randn(prompts, 3, dim, generator=generator)
    selected, index = torch.tensor([prompts - 1, 0]), torch.tensor([1, 0, 1, 0, 0])
    pairs, layers = (index, torch.tensor([0, 1, 1, 0, 0])), (weights.mask_layers, weights.mask_sizes)
    return final, token_values[0], token_values[1], selected, *pairs, [3, 1], *layers, *weights.conv1_mix
