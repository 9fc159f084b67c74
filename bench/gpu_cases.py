"""What `bench.gpu` checks and measures: single operations beside their peers. `gpu_models` has whole models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.models.decoder_folded import FoldedImage
from fastsam_core.models.decoder_gpu import GpuImage, GpuPrompts, serves_decoder
from fastsam_core.models.mask_decoder import MaskDecoder
from fastsam_core.ops._attention.cuda import takes_wgmma, wgmma_in_turn
from fastsam_core.ops._native_cuda import cuda_module, use_unvalidated
from fastsam_core.postprocess import MaskResizer

from .gpu_harness import Case, Check, Context, Skipped, Work, bytes_of, rotated
from .recipe import from_tests

Arguments = tuple[Any, ...]
BACKENDS = ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "FLASH_ATTENTION", "MATH")


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


def error_of(op: str, arguments: Arguments, context: Context) -> tuple[float, float]:
    """Largest errors of the operation and, twice, of its PyTorch sibling in the same dtype, both against float64.

    Four roundings of float32 are allowed besides: in that dtype both errors are no more than that.
    """

    def run(call: Callable[..., Any], *, wide: bool = False) -> Tensor:
        given = [x.clone() if isinstance(x, Tensor) else x for x in arguments]  # some are written to
        given = [x.double() if wide and isinstance(x, Tensor) and x.is_floating_point() else x for x in given]
        result = call(*given)
        found: Tensor = given[-1] if result is None else result[0] if isinstance(result, tuple) else result
        return found.double()

    reference = ops.siblings(op)["reference"]
    exact = run(reference, wide=True)
    ours, usual = run(getattr(ops, op)), run(reference)
    roundings = 4 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    return float((ours - exact).abs().max()), 2 * float((usual - exact).abs().max()) + roundings


# ------------------------------------------------------------------------------------------------------------ attention


def attention_arguments(context: Context, window: int, seed: int, heads: int = 12, dim: int = 64) -> Arguments:
    heads, side = context.size(heads, 1), context.size(64, 8)
    window = min(window, side)
    tables = [context.draw(2 * (window or side) - 1, dim, seed=seed + i, scale=0.1) for i in (1, 2)]
    qkv = context.draw(1, side, side, 3 * heads * dim, seed=seed)
    return qkv, *tables, heads, window, context.draw(3 * heads * dim, seed=seed + 3)


def attention_work(
    context: Context, window: int, call: Callable[..., Any], note: str = "", heads: int = 12, dim: int = 64
) -> Work:
    inputs = rotated(lambda seed: attention_arguments(context, window, 10 * seed, heads, dim), context.tiny)
    qkv = inputs[0][0]
    side, channels = qkv.shape[1], qkv.shape[3] // 3
    padded = -(-side // window) * window if window else side
    flops = 4 * padded**2 * (window or side) ** 2 * channels
    return Work(call, inputs, flops, bytes_of([qkv]) * 4 / 3, note=note)


def packed_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def position_terms(q: Tensor, table_h: Tensor, table_w: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(B, heads, N, side) each, of rows and of columns."""
    at = torch.arange(side, device=q.device)
    by_position = at[:, None] - at + side - 1
    grid = q.unflatten(2, (side, side))
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, table_h[by_position])
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, table_w[by_position])
    return rows.flatten(2, 3), columns.flatten(2, 3)


def with_bias(qkv: Tensor, table_h: Tensor, table_w: Tensor, heads: int, *_: Any) -> Tensor:
    q, k, v = packed_heads(qkv, heads)
    rows, columns = position_terms(q, table_h, table_w, qkv.shape[1])
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def sdpa_case(name: str) -> Case:
    def make(context: Context) -> Work:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backend = getattr(SDPBackend, name, None)
        if backend is None:
            raise Skipped("this PyTorch has no such back end")

        def call(*arguments: Any) -> Tensor:
            with sdpa_kernel([backend]):
                return with_bias(*arguments)

        return attention_work(context, 0, call, "its bias is made and stored in the call")

    return Case("attention", f"SDPA, bias stored, {name.lower()}", make)


def flex_case() -> Case:
    def make(context: Context) -> Work:
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

        return attention_work(context, 0, call)

    return Case("attention", "FlexAttention, compiled", make)


def attention_case(
    name: str,
    window: int,
    sibling: str = "",
    heads: int = 12,
    dim: int = 64,
    wgmma: bool = False,
    in_turn: bool = True,
) -> Case:
    """wgmma: by the kernels for Hopper that wait to be validated, in turn or not; without, never by them."""

    def call(*arguments: Any) -> Any:
        reset = wgmma_in_turn.set(in_turn)
        with use_unvalidated(wgmma):
            result = (ops.siblings("attention")[sibling] if sibling else ops.attention)(*arguments)
        wgmma_in_turn.reset(reset)
        return result

    def make(context: Context) -> Work:
        work = attention_work(context, window, call, heads=heads, dim=dim)
        if wgmma:
            need_wgmma(context, work.inputs[0][0], dim)
        return work

    return Case("attention", name, make)


def need_wgmma(context: Context, qkv: Tensor, dim: int) -> None:
    """Skipped unless Hopper's own kernels serve where they are asked for; on the CPU PyTorch stands in."""
    with use_unvalidated():
        if not context.tiny and not (cuda_module and takes_wgmma(cuda_module, qkv, dim, 0)):
            raise Skipped("there are no kernels by wgmma for this dtype and GPU, or none were compiled (for sm_90a)")


def wgmma_check(heads: int, dim: int) -> Check:
    def make(context: Context) -> tuple[float, float]:
        arguments = attention_arguments(context, 0, 0, heads, dim)
        need_wgmma(context, arguments[0], dim)
        with use_unvalidated():
            return error_of("attention", arguments, context)

    return Check("attention", f"64 x 64, heads of {dim}, wgmma", make)


ATTENTION = [
    attention_case("ours, ViT-B, 64 x 64", 0),
    attention_case("ours by wgmma, ViT-B, 64 x 64", 0, wgmma=True),
    attention_case("ours by wgmma, not in turn, ViT-B, 64 x 64", 0, wgmma=True, in_turn=False),
    attention_case("PyTorch sibling, ViT-B, 64 x 64", 0, "reference"),
    *(sdpa_case(name) for name in BACKENDS),
    flex_case(),
    attention_case("ours, ViT-B, windows of 14", 14),
    attention_case("PyTorch sibling, ViT-B, windows of 14", 14, "reference"),
    attention_case("ours, ViT-H, 64 x 64", 0, heads=16, dim=80),
    attention_case("ours by wgmma, ViT-H, 64 x 64", 0, heads=16, dim=80, wgmma=True),
]
ATTENTION_CHECKS = [
    *(
        Check("attention", name, lambda c, w=window: error_of("attention", attention_arguments(c, w, 0, heads=2), c))
        for name, window in (("64 x 64", 0), ("windows of 14", 14))
    ),
    wgmma_check(2, 64),
    wgmma_check(2, 80),
]

# -------------------------------------------------------------------------------------------------------------- decoder


def decoder_of(context: Context) -> MaskDecoder:
    generator = torch.Generator().manual_seed(7)
    decoder = MaskDecoder(256)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return decoder.eval().to(context.device, context.dtype)


def decoder_inputs(context: Context, prompts: int) -> tuple[MaskDecoder, list[Tensor], Tensor]:
    side = context.size(64, 4)
    image = [context.draw(1, 256, *grid, seed=i) for i, grid in enumerate(((side, side), (side, side), (1, 1)))]
    return decoder_of(context), image, context.draw(prompts, 2, 256, seed=5)


# MAC for each image token and prompt: a look, and what follows; see csrc/decoder/decoder_cuda.h.
PASS_MACS, UPSCALE_MACS = 38_000, 63_500


def decode_work(context: Context, kind: Any, prompts: int, chosen: float) -> Work:
    """Decode prompts, then three masks of a share of them. The image is prepared outside."""
    prompts = context.size(prompts, 4)
    decoder, image, sparse = decoder_inputs(context, prompts)
    if kind is GpuImage and not context.tiny and not serves_decoder(decoder, *image):
        raise Skipped("the kernels don't serve here; `fastsam doctor` says why")
    prepared, tokens = kind(decoder, *image), image[0].shape[-1] ** 2
    wanted = list(range(round(prompts * chosen)))
    rows, masks = [i for i in wanted for _ in range(3)], [1, 2, 3] * len(wanted)

    def run(sparse: Tensor) -> Any:
        decoded = prepared.decode(sparse, (1, 2, 3), 0.0)
        return decoded.predicted_iou(), decoded.logits(rows, masks)

    flops = 2 * tokens * (prompts * PASS_MACS + len(wanted) * UPSCALE_MACS)
    state = 2 * 114 * tokens * (3 * prompts + len(wanted))
    return Work(run, [(sparse,), (sparse.clone(),)], flops, state + 64.0 * tokens * len(rows))


def decode_case(name: str, kind: Any, prompts: int, chosen: float) -> Case:
    return Case("decoder", name, lambda context: decode_work(context, kind, prompts, chosen))


# Of what happens to prompts' tokens between their looks at the image; kernels that wait to be validated are asked for.
CHAINS = ("decoder_prompts", "decoder_mask_factors")


def need_chain(context: Context, tensor: Tensor) -> None:
    """Skipped unless the tokens' kernels serve where they are asked for; on the CPU PyTorch stands in."""
    for op in CHAINS if not context.tiny else ():
        if reason := ops.why(op, tensor)["cuda"]:
            raise Skipped(reason)


def tokens_case(prompts: int, by_kernels: bool) -> Case:
    """Prompts with all their masks by the passes' kernels, and their tokens by kernels or by PyTorch."""

    def make(context: Context) -> Work:
        work = decode_work(context, GpuImage, prompts, 1.0)
        count = context.size(prompts, 4)
        decoder, image, sparse = decoder_inputs(context, count)
        rows, masks = [i for i in range(count) for _ in range(3)], [1, 2, 3] * count
        prepared = GpuImage(decoder, *image)
        with use_unvalidated(by_kernels):
            if by_kernels:
                need_chain(context, sparse)

        def run(sparse: Tensor) -> Any:
            with use_unvalidated(by_kernels):
                decoded = GpuPrompts(prepared, sparse, (1, 2, 3))  # however few
                return decoded.predicted_iou(), decoded.logits(rows, masks)

        return Work(run, work.inputs, work.flops, work.bytes)

    count = "one prompt" if prompts == 1 else f"{prompts:,} prompts"
    return Case("decoder", f"ours, {count}, tokens by {'kernels' if by_kernels else 'PyTorch'}", make)


def chain_check(op: str) -> Check:
    """The largest of all results' errors as a share of what `error_of` allows each."""

    def make(context: Context) -> tuple[float, float]:
        drawn = from_tests("decoder_arguments")
        side = context.size(64, 4)
        given = drawn.arguments_in(context.dtype, op, heads=8, prompts=5, tokens=7, dim=256, grid=(side, side))
        reference = ops.siblings(op)["reference"]
        exact = reference(*there(drawn.cast(op, given, torch.float64), context))
        usual = reference(*there(given, context))
        with use_unvalidated():
            given = there(given, context)
            need_chain(context, given[0])
            ours = getattr(ops, op)(*given)
        shares = []
        for found, plain, wanted in zip(ours, usual, exact, strict=True):
            errors = [float((x.double() - wanted).abs().max()) for x in (found, plain)]
            roundings = 4 * torch.finfo(torch.float32).eps * float(wanted.abs().max())
            shares.append(errors[0] / (2 * errors[1] + roundings))
        return float(torch.tensor(shares).max()), 1.0  # NaN is the largest

    return Check("decoder", f"{op}, its kernels", make)


def there(given: Any, context: Context) -> Any:
    """Arguments on the device, lists of tensors included."""
    if isinstance(given, (tuple, list)):
        return type(given)(there(x, context) for x in given)
    return given.to(context.device) if isinstance(given, Tensor) else given


def plain_decoder(context: Context) -> Work:
    prompts = context.size(1024, 4)
    decoder, image, sparse = decoder_inputs(context, context.size(64, 2))

    def run(sparse: Tensor) -> Any:
        return decoder(image[0], image[1], sparse, image[2])

    note = f"one of {prompts // len(sparse)} batches of {len(sparse)} timed"
    return Work(run, [(sparse,)], share=len(sparse) / prompts, note=note)


def decoder_check(context: Context) -> tuple[float, float]:
    decoder, image, sparse = decoder_inputs(context, 8)
    kind = GpuImage if serves_decoder(decoder, *image) or context.tiny else FoldedImage
    rows, masks = [i for i in range(8) for _ in range(3)], [1, 2, 3] * 8
    ours = kind(decoder, *image).decode(sparse, (1, 2, 3)).logits(rows, masks)
    plain = decoder(image[0], image[1], sparse, image[2])[0]
    wide = [x.double() for x in image]
    exact = decoder.double()(wide[0], wide[1], sparse.double(), wide[2])[0]
    wanted, usual = exact[:, 1:].flatten(0, 1), plain[:, 1:].flatten(0, 1)
    return float((ours - wanted).abs().max()), 2 * float((usual - wanted).abs().max())


def tokens_check(context: Context) -> tuple[float, float]:
    with use_unvalidated():
        need_chain(context, context.draw(1, seed=0))
        return decoder_check(context)


# For each operation: MAC per image token and prompt, bytes of its coefficients read and written.
OPERATIONS = {
    "decoder_first_look": (1_800, 0),
    "decoder_first_pass": (13_000, 2 * 57),
    "decoder_second_pass": (25_000, 2 * (57 + 114)),
    "decoder_upscale": (UPSCALE_MACS, 2 * 114 + 3 * 64),
}


def operation_arguments(context: Context, op: str, prompts: int) -> Arguments:
    """As tests/decoder_arguments.py draws them; of the upscaling, three masks of each prompt."""
    side = context.size(64, 4)
    sizes = {"heads": 8, "prompts": prompts, "tokens": 7, "dim": 256, "grid": (side, side)}
    given = from_tests("decoder_arguments").arguments_in(context.dtype, op, **sizes)
    given = tuple(x.to(context.device) if isinstance(x, Tensor) else x for x in given)
    if op != "decoder_upscale":
        return given
    state, _, factors, _, _, *steps, out = given
    asked = torch.arange(prompts, device=context.device)
    index = asked.repeat_interleave(3)
    weights = context.draw(len(index), 32, seed=3)
    return state, asked, factors[asked % 2], index, weights, *steps, out.new_zeros(len(index), *out.shape[1:])


def operation_case(op: str, sibling: str) -> Case:
    """256 prompts by ours, 16 by PyTorch; both as the time of 1,024."""

    def make(context: Context) -> Work:
        prompts = context.size(16 if sibling else 256, 2)
        whole, tokens = context.size(1024, 4), context.size(4096, 16)
        macs, moved = OPERATIONS[op]
        call = ops.siblings(op)[sibling] if sibling else getattr(ops, op)
        inputs = [operation_arguments(context, op, prompts)]
        note = f"{prompts} prompts timed"
        return Work(call, inputs, 2 * tokens * whole * macs, tokens * whole * moved, prompts / whole, note)

    return Case("decoder", f"{'PyTorch sibling' if sibling else 'ours'}, {op.removeprefix('decoder_')}", make)


DECODER = [
    *(operation_case(op, sibling) for op in OPERATIONS for sibling in ("", "reference")),
    decode_case("ours, 1,024 prompts, IoU alone", GpuImage, 1024, 0.0),
    decode_case("ours, 1,024 prompts, masks of 40 %", GpuImage, 1024, 0.4),
    decode_case("ours, 1,024 prompts, all masks", GpuImage, 1024, 1.0),
    *(tokens_case(prompts, by_kernels) for prompts in (1, 64, 1024) for by_kernels in (False, True)),
    decode_case("ours, 64 prompts, all masks", GpuImage, 64, 1.0),
    decode_case("ours, one prompt", GpuImage, 1, 1.0),
    decode_case("PyTorch, folded, 64 prompts, all masks", FoldedImage, 64, 1.0),
    decode_case("PyTorch, folded, one prompt", FoldedImage, 1, 1.0),
    Case("decoder", "PyTorch, plain, 1,024 prompts, all masks", plain_decoder),
]
DECODER_CHECKS = [
    *(Check("decoder", op, lambda c, op=op: error_of(op, operation_arguments(c, op, 2), c)) for op in OPERATIONS),
    Check("decoder", "logits of 8 prompts", decoder_check),
    *(chain_check(op) for op in CHAINS),
    Check("decoder", "logits of 8 prompts, tokens by kernels", tokens_check),
]

# ------------------------------------------------------------------------------------------------------- NMS, and masks


def boxes_of(context: Context, seed: int) -> Arguments:
    count = context.size(10_000, 200)
    generator = torch.Generator().manual_seed(seed)
    corner, size = (
        1000 * torch.rand(count, 2, generator=generator),
        20 + 180 * torch.rand(count, 2, generator=generator),
    )
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(count, generator=generator)
    return boxes.to(context.device), scores.to(context.device), 0.7


def nms_case(name: str, sibling: str) -> Case:
    def make(context: Context) -> Work:
        if sibling == "torchvision":
            need("torchvision")
            from torchvision.ops import nms

            call: Callable[..., Any] = nms
        else:
            call = ops.siblings("nms")[sibling] if sibling else ops.nms
        return Work(call, [boxes_of(context, seed) for seed in range(4)])

    return Case("nms", name, make)


def nms_check(context: Context) -> tuple[float, float]:
    boxes, scores, threshold = boxes_of(context, 0)
    expected = ops.nms(boxes.cpu(), scores.cpu(), threshold).tolist()
    return float(ops.nms(boxes, scores, threshold).tolist() != expected), 0.0


def mask_arguments(context: Context, count: int) -> Arguments:
    """Logits of discs, as a decoder gives them."""
    side = context.size(256, 32)
    generator = torch.Generator().manual_seed(count)
    centre, radius = (
        side * torch.rand(count, 2, 1, 1, generator=generator),
        side / 60 + side / 4 * torch.rand(count, 1, 1, generator=generator),
    )
    cells = torch.arange(side) + 0.5
    logits = (60 * (1 - torch.hypot(cells[:, None] - centre[:, 0], cells - centre[:, 1]) / radius)).clamp(-20, 20)
    height, width = context.size(1200, 60), context.size(1800, 90)
    content = round(4 * side * height / width), 4 * side
    resizer = MaskResizer(content, (height, width), 4 * side)
    axes = resizer._axes_on(context.device)
    return logits.float().to(context.device), *axes, 0.0, 1.0, height, width


def masks_case(name: str, count: int, sibling: str) -> Case:
    def make(context: Context) -> Work:
        some = context.size(count, 3)
        given = mask_arguments(context, some)
        call = ops.siblings("mask_runs")[sibling] if sibling else ops.mask_runs
        return Work(call, [given], bytes=bytes_of(given[:1]))

    return Case("masks", name, make)


def masks_check(context: Context) -> tuple[float, float]:
    given = mask_arguments(context, context.size(64, 3))
    there = ops.mask_runs(*(x.cpu() if isinstance(x, Tensor) else x for x in given))
    return float(any(not torch.equal(a.cpu(), b) for a, b in zip(ops.mask_runs(*given), there, strict=True))), 0.0


SMALL = [
    nms_case("ours, 10,000 boxes", ""),
    nms_case("torchvision, 10,000 boxes", "torchvision"),
    nms_case("PyTorch sibling, 10,000 boxes", "reference"),
    masks_case("ours, 1,024 masks to runs at 1800 x 1200", 1024, ""),
    masks_case("PyTorch sibling, 16 masks to runs at 1800 x 1200", 16, "reference"),
]
SMALL_CHECKS = [
    Check("nms", "the boxes that the CPU keeps (1 if not)", nms_check),
    Check("masks", "the runs that the CPU finds (1 if not)", masks_check),
]
