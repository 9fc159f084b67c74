"""Checks and cases of `bench.gpu` for attention and the decoder, and their peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.models.decoder_folded import FoldedImage
from fastsam_core.models.decoder_gpu import GpuImage, can_use_decoder_kernels
from fastsam_core.models.mask_decoder import MaskDecoder, TwoWayTransformer
from fastsam_core.ops._attention.windows import partition, unpartition

from .gpu_harness import Case, Check, Context, Skipped, Workload, count_bytes, rotating_inputs
from .recipe import import_from_tests

Arguments = tuple[Any, ...]
BACKENDS = ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "FLASH_ATTENTION", "MATH")


def require_package(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


def error_and_tolerance(op: str, arguments: Arguments, context: Context) -> tuple[float, float]:
    """Return the operation's largest error against float64, and the allowed error.

    Allowed is twice the error of the PyTorch sibling in the same dtype, plus four float32 roundings of the largest
    value: in float32, both errors consist of such roundings.
    """

    def run(call: Callable[..., Any], *, as_float64: bool = False) -> Tensor:
        inputs = [x.clone() if isinstance(x, Tensor) else x for x in arguments]  # some are modified in place
        inputs = [x.double() if as_float64 and isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
        result = call(*inputs)
        output: Tensor = inputs[-1] if result is None else result[0] if isinstance(result, tuple) else result
        return output.double()

    reference = ops.siblings(op)["reference"]
    exact = run(reference, as_float64=True)
    own_result, reference_result = run(getattr(ops, op)), run(reference)
    roundings = 4 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    return float((own_result - exact).abs().max()), 2 * float((reference_result - exact).abs().max()) + roundings


# ------------------------------------------------------------------------------------------------------------ attention


def attention_arguments(context: Context, window: int, seed: int, heads: int = 12, dim: int = 64) -> Arguments:
    heads, side = context.size(heads, 1), context.size(64, 8)
    window = min(window, side)
    tables = [context.randn(2 * (window or side) - 1, dim, seed=seed + i, scale=0.1) for i in (1, 2)]
    qkv = context.randn(1, side, side, 3 * heads * dim, seed=seed)
    return qkv, *tables, heads, window, context.randn(3 * heads * dim, seed=seed + 3)


def attention_work(
    context: Context, window: int, call: Callable[..., Any], note: str = "", heads: int = 12, dim: int = 64
) -> Workload:
    inputs = rotating_inputs(lambda seed: attention_arguments(context, window, 10 * seed, heads, dim), context.tiny)
    qkv = inputs[0][0]
    side, channels = qkv.shape[1], qkv.shape[3] // 3
    padded = -(-side // window) * window if window else side
    flops = 4 * padded**2 * (window or side) ** 2 * channels
    return Workload(call, inputs, flops, count_bytes([qkv]) * 4 / 3, note=note)


def packed_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def position_terms(q: Tensor, table_h: Tensor, table_w: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the relative position terms of rows and of columns, (B, heads, N, side) each."""
    positions = torch.arange(side, device=q.device)
    by_position = positions[:, None] - positions + side - 1
    grid = q.unflatten(2, (side, side))
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, table_h[by_position])
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, table_w[by_position])
    return rows.flatten(2, 3), columns.flatten(2, 3)


def attention_with_bias(
    qkv: Tensor, table_h: Tensor, table_w: Tensor, heads: int, window: int, padding: Tensor
) -> Tensor:
    """Compute attention by `scaled_dot_product_attention` with the full bias of all queries and keys in memory."""
    height, width = qkv.shape[1:3]
    if window:
        qkv = partition(qkv, window, padding)  # (windows, window, window, 3 * C)
    q, k, v = packed_heads(qkv, heads)
    rows, columns = position_terms(q, table_h, table_w, qkv.shape[1])
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(3)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    if not window:
        return out
    return unpartition(out.transpose(1, 2).flatten(2).unflatten(1, (window, window)), height, width)


def sdpa_case(name: str, window: int = 0) -> Case:
    def make(context: Context) -> Workload:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backend = getattr(SDPBackend, name, None)
        if backend is None:
            raise Skipped("this PyTorch has no such back end")

        def call(*arguments: Any) -> Tensor:
            with sdpa_kernel([backend]):
                return attention_with_bias(*arguments)

        return attention_work(context, window, call, "its bias is made and stored in the call")

    return Case("attention", f"SDPA, {f'windows of {window}' if window else 'bias stored'}, {name.lower()}", make)


def flex_case() -> Case:
    def make(context: Context) -> Workload:
        if context.tiny:
            raise Skipped("what is compiled is left out of the harness's own test")
        from torch.nn.attention.flex_attention import flex_attention

        compiled = torch.compile(flex_attention)

        def call(qkv: Tensor, table_h: Tensor, table_w: Tensor, heads: int, *_: Any) -> Any:
            side = qkv.shape[1]
            q, k, v = (x.contiguous() for x in packed_heads(qkv, heads))
            rows, columns = position_terms(q, table_h, table_w, side)

            def add(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return score + rows[b, h, query, key // side] + columns[b, h, query, key % side]

            return compiled(q, k, v, score_mod=add)

        return replace(attention_work(context, 0, call), capture=False)

    return Case("attention", "FlexAttention, compiled", make)


def attention_case(name: str, window: int, sibling: str = "", heads: int = 12, dim: int = 64) -> Case:
    call = ops.siblings("attention")[sibling] if sibling else ops.attention
    return Case("attention", name, lambda context: attention_work(context, window, call, heads=heads, dim=dim))


def attention_check(name: str, window: int, dim: int) -> Check:
    return Check(
        "attention", name, lambda c: error_and_tolerance("attention", attention_arguments(c, window, 0, 2, dim), c)
    )


ATTENTION = [
    attention_case("ours, ViT-B, 64 x 64", 0),
    attention_case("PyTorch sibling, ViT-B, 64 x 64", 0, "reference"),
    *(sdpa_case(name) for name in BACKENDS),
    attention_case("ours, ViT-B, windows of 14", 14),
    attention_case("PyTorch sibling, ViT-B, windows of 14", 14, "reference"),
    *(sdpa_case(name, 14) for name in BACKENDS[:2]),
    attention_case("ours, ViT-H, 64 x 64", 0, heads=16, dim=80),
    attention_case("ours, ViT-H, windows of 14", 14, heads=16, dim=80),
    flex_case(),
]
ATTENTION_CHECKS = [
    attention_check(f"{grid}, heads of {dim}", window, dim)
    for grid, window in (("64 x 64", 0), ("windows of 14", 14))
    for dim in (64, 80)
]

# -------------------------------------------------------------------------------------------------------------- decoder


def decoder_of(context: Context) -> MaskDecoder:
    generator = torch.Generator().manual_seed(7)
    decoder = MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 2048))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return decoder.eval().to(context.device, context.dtype)


def decoder_inputs(context: Context, prompts: int) -> tuple[MaskDecoder, list[Tensor], Tensor]:
    side = context.size(64, 4)
    image = [context.randn(1, 256, *grid, seed=i) for i, grid in enumerate(((side, side), (side, side), (1, 1)))]
    return decoder_of(context), image, context.randn(prompts, 2, 256, seed=5)


# Multiply-adds per image token and prompt: of both passes, and of upscaling three masks. See
# csrc/decoder/decoder_cuda.h.
PASS_MACS, UPSCALE_MACS = 38_000, 63_500


def decode_work(context: Context, decoder_type: Any, prompts: int, mask_fraction: float) -> Workload:
    """Decode prompts, then upscale three masks for `mask_fraction` of them. Preparing the image isn't timed."""
    prompts = context.size(prompts, 4)
    decoder, image, sparse = decoder_inputs(context, prompts)
    if decoder_type is GpuImage and not context.tiny and not can_use_decoder_kernels(decoder, *image):
        raise Skipped("the kernels don't serve here; `fastsam doctor` says why")
    prepared, tokens = decoder_type(decoder, *image), image[0].shape[-1] ** 2
    masked_prompts = list(range(round(prompts * mask_fraction)))
    rows, masks = [i for i in masked_prompts for _ in range(3)], [1, 2, 3] * len(masked_prompts)

    def run(sparse: Tensor) -> Any:
        decoded = prepared.decode(sparse, (1, 2, 3), 0.0)
        return decoded.predicted_iou(), decoded.logits(rows, masks)

    flops = 2 * tokens * (prompts * PASS_MACS + len(masked_prompts) * UPSCALE_MACS)
    state = context.dtype.itemsize * 114 * tokens * (3 * prompts + len(masked_prompts))
    inputs = [(sparse,), (sparse.clone(),)]
    return Workload(run, inputs, flops, state + 64.0 * tokens * len(rows), capture=False)  # the host selects the masks


def decode_case(
    name: str, decoder_type: Any, prompts: int, mask_fraction: float, dtype: torch.dtype | None = None
) -> Case:
    """Return a decoding case. dtype: instead of the context's."""
    return Case(
        "decoder", name, lambda context: decode_work(with_dtype(context, dtype), decoder_type, prompts, mask_fraction)
    )


def with_dtype(context: Context, dtype: torch.dtype | None) -> Context:
    return replace(context, dtype=dtype or context.dtype)


# Operations on prompt tokens between the passes over the image.
CHAINS = ("decoder_prompts", "decoder_mask_factors")


def chain_check(op: str) -> Check:
    """Return a check of the largest error of all results, divided by those allowed as in `error_and_tolerance`."""

    def make(context: Context) -> tuple[float, float]:
        examples = import_from_tests("decoder_arguments")
        side = context.size(64, 4)
        inputs = examples.arguments_in(context.dtype, op, heads=8, prompts=5, tokens=7, dim=256, grid=(side, side))
        reference = ops.siblings(op)["reference"]
        exact = reference(*to_device(examples.cast(op, inputs, torch.float64), context))
        reference_results = reference(*to_device(inputs, context))
        results = getattr(ops, op)(*to_device(inputs, context))
        error_ratios = []
        for result, reference_result, expected in zip(results, reference_results, exact, strict=True):
            errors = [float((x.double() - expected).abs().max()) for x in (result, reference_result)]
            roundings = 4 * torch.finfo(torch.float32).eps * float(expected.abs().max())
            error_ratios.append(errors[0] / (2 * errors[1] + roundings))
        return float(torch.tensor(error_ratios).max()), 1.0  # torch's max propagates NaN

    return Check("decoder", op, make)


def to_device(value: Any, context: Context) -> Any:
    """Move arguments to the device, including tensors in nested lists and tuples."""
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(x, context) for x in value)
    return value.to(context.device) if isinstance(value, Tensor) else value


def plain_decoder(context: Context) -> Workload:
    prompts = context.size(1024, 4)
    decoder, image, sparse = decoder_inputs(context, context.size(64, 2))

    def run(sparse: Tensor) -> Any:
        return decoder.predict_masks(image[0], image[1], sparse, image[2])

    note = f"one of {prompts // len(sparse)} batches of {len(sparse)} timed"
    return Workload(run, [(sparse,)], fraction=len(sparse) / prompts, note=note)


def decoder_check(context: Context) -> tuple[float, float]:
    decoder, image, sparse = decoder_inputs(context, 8)
    decoder_type = GpuImage if can_use_decoder_kernels(decoder, *image) or context.tiny else FoldedImage
    rows, masks = [i for i in range(8) for _ in range(3)], [1, 2, 3] * 8
    ours = decoder_type(decoder, *image).decode(sparse, (1, 2, 3)).logits(rows, masks)
    reference_masks = decoder.predict_masks(image[0], image[1], sparse, image[2])[0]
    image_float64 = [x.double() for x in image]
    exact = decoder.double().predict_masks(image_float64[0], image_float64[1], sparse.double(), image_float64[2])[0]
    expected, reference_logits = exact[:, 1:].flatten(0, 1), reference_masks[:, 1:].flatten(0, 1)
    roundings = 4 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    return float((ours - expected).abs().max()), 2 * float((reference_logits - expected).abs().max()) + roundings


# For each operation: multiply-adds, and bytes of coefficients read and written, per image token and prompt.
OPERATIONS = {
    "decoder_first_token_to_image": (1_800, 0),
    "decoder_first_pass": (13_000, 2 * 57),
    "decoder_second_pass": (25_000, 2 * (57 + 114)),
    "decoder_upscale": (UPSCALE_MACS, 2 * 114 + 3 * 64),
}


def operation_arguments(context: Context, op: str, prompts: int) -> Arguments:
    """Return arguments from tests/decoder_arguments.py; for upscaling, three masks of each prompt."""
    side = context.size(64, 4)
    sizes = {"heads": 8, "prompts": prompts, "tokens": 7, "dim": 256, "grid": (side, side)}
    inputs: Arguments = to_device(
        import_from_tests("decoder_arguments").arguments_in(context.dtype, op, **sizes), context
    )
    if op != "decoder_upscale":
        return inputs
    state, _, factors, _, _, *steps, out = inputs
    prompt_index = torch.arange(prompts, device=context.device)
    prompt_of_mask = prompt_index.repeat_interleave(3)
    weights = context.randn(len(prompt_of_mask), 32, seed=3)
    return (
        state,
        prompt_index,
        factors[prompt_index % 2],
        prompt_of_mask,
        weights,
        *steps,
        out.new_zeros(len(prompt_of_mask), *out.shape[1:]),
    )


def operation_case(op: str, sibling: str) -> Case:
    """Return a case that times 256 prompts for ours and 16 for PyTorch; both are scaled to 1,024 prompts."""

    def make(context: Context) -> Workload:
        prompts = context.size(16 if sibling else 256, 2)
        total_prompts, tokens = context.size(1024, 4), context.size(4096, 16)
        macs, bytes_moved = OPERATIONS[op]
        call = ops.siblings(op)[sibling] if sibling else getattr(ops, op)
        inputs = [operation_arguments(context, op, prompts)]
        note = f"{prompts} prompts timed"
        # PyTorch's upscaling reads on the host which masks belong to which prompt.
        capture = not (sibling and op == "decoder_upscale")
        return Workload(
            call,
            inputs,
            2 * tokens * total_prompts * macs,
            tokens * total_prompts * bytes_moved,
            prompts / total_prompts,
            note,
            capture,
        )

    return Case("decoder", f"{'PyTorch sibling' if sibling else 'ours'}, {op.removeprefix('decoder_')}", make)


ONE_PROMPT = decode_case("ours, one prompt", GpuImage, 1, 1.0)
DECODER = [
    *(operation_case(op, sibling) for op in OPERATIONS for sibling in ("", "reference")),
    decode_case("ours, 1,024 prompts, IoU alone", GpuImage, 1024, 0.0),
    decode_case("ours, 1,024 prompts, masks of 40 %", GpuImage, 1024, 0.4),
    decode_case("ours, 1,024 prompts, all masks", GpuImage, 1024, 1.0),
    decode_case("ours, 64 prompts, all masks", GpuImage, 64, 1.0),
    ONE_PROMPT,
    decode_case("PyTorch, folded, 64 prompts, all masks", FoldedImage, 64, 1.0),
    decode_case("PyTorch, folded, one prompt", FoldedImage, 1, 1.0),
    decode_case("ours, 1,024 prompts, all masks, float32", GpuImage, 1024, 1.0, torch.float32),
    decode_case("PyTorch, folded, 1,024 prompts, all masks, float32", FoldedImage, 1024, 1.0, torch.float32),
    Case("decoder", "PyTorch, plain, 1,024 prompts, all masks", plain_decoder),
]
DECODER_CHECKS = [
    *(
        Check("decoder", op, lambda c, op=op: error_and_tolerance(op, operation_arguments(c, op, 2), c))
        for op in OPERATIONS
    ),
    Check("decoder", "logits of 8 prompts", decoder_check),
    Check("decoder", "logits of 8 prompts, float32", lambda c: decoder_check(with_dtype(c, torch.float32))),
    *(chain_check(op) for op in CHAINS),
]
