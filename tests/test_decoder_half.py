"""Tests of the mask decoder's CUDA kernels: errors are at most twice those of plain PyTorch in the same dtype.

Both are compared with float64 on the same rounded inputs. Kernels for half precision use tensor cores directly; those
for float32 add three TF32 products.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from decoder_arguments import arguments_in, cast
from fastsam_core import ops
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._decoder import cuda
from siblings import EMULATED, names_of, threads_backwards
from test_decoder import IMAGE_OPS, run

CUDA = [name for name in names_of("decoder_upscale") if name.startswith("cuda")]

pytestmark = pytest.mark.skipif(not CUDA, reason="the compiled operations are off")

each_form = pytest.mark.parametrize("sibling", CUDA)
each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
each_dtype = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
SIZE = {"heads": 8, "prompts": 2, "tokens": 7, "dim": 256, "grid": (3, 11)}


def check_errors(sibling: str, op: str, given: tuple[Any, ...]) -> None:
    """Assert the module's rule for the largest error of each result, or for float32 results the root mean square."""
    exact = run(ops.siblings(op)["reference"], op, cast(op, given, torch.float64))
    plain = run(ops.siblings(op)["reference"], op, given)
    found = run(ops.siblings(op)[sibling], op, given)
    for i, (wanted, usual, ours) in enumerate(zip(exact, plain, found, strict=True)):
        assert ours.dtype == usual.dtype and ours.shape == usual.shape and not ours.isnan().any(), i
        if ours.dtype == torch.float32 or not ours.numel():  # the largest of few float32 errors is a matter of chance
            errors = ((x.double() - wanted).square().mean().sqrt() if x.numel() else x.sum() for x in (ours, usual))
            smallest = torch.finfo(torch.float32).eps * wanted.abs().max() if ours.numel() else 0.0
        else:
            errors, smallest = ((x.double() - wanted).abs().max() for x in (ours, usual)), 0.0
        error, allowed = map(float, errors)
        assert error <= 2 * allowed + smallest, (i, error, allowed)


def check_mean_errors(sibling: str, op: str, draws: list[tuple[Any, ...]]) -> None:
    """Assert the module's rule for the root mean square error of each result over all draws together.

    The largest error of a few numbers, such as the predicted IoU of a prompt, is a matter of chance: in half precision
    it differs up to sixfold between draws with the same arithmetic.
    """
    squares: list[list[float]] = []
    for given in draws:
        exact = run(ops.siblings(op)["reference"], op, cast(op, given, torch.float64))
        plain = run(ops.siblings(op)["reference"], op, given)
        found = run(ops.siblings(op)[sibling], op, given)
        squares = squares or [[0.0, 0.0] for _ in exact]
        for i, (wanted, usual, ours) in enumerate(zip(exact, plain, found, strict=True)):
            assert ours.dtype == usual.dtype and ours.shape == usual.shape and not ours.isnan().any(), i
            for which, x in enumerate((ours, usual)):
                squares[i][which] += float((x.double() - wanted).square().sum())
    for i, (ours, usual) in enumerate(squares):
        assert ours**0.5 <= 2 * usual**0.5, (i, ours, usual)


@each_form
@each_dtype
@pytest.mark.parametrize("op", IMAGE_OPS)
@pytest.mark.parametrize(
    "size",
    [
        SIZE,
        {**SIZE, "tokens": 8, "grid": (4, 4)},  # the largest number of tokens, one full panel
        {**SIZE, "tokens": 6, "grid": (1, 145)},  # one tile and one panel
        {**SIZE, "tokens": 1, "grid": (1, 1)},
        {**SIZE, "prompts": 3, "tokens": 3, "grid": (2, 40)},
    ],
    ids=str,
)
def test_errors_are_at_most_twice_pytorchs(sibling: str, op: str, dtype: torch.dtype, size: dict[str, Any]) -> None:
    check_errors(sibling, op, arguments_in(dtype, op, **size))


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("op", ["decoder_first_pass", "decoder_second_pass", "decoder_upscale"])
def test_errors_on_images_of_several_blocks(sibling: str, op: str, dtype: torch.dtype) -> None:
    size = {**SIZE, "prompts": 1, "grid": (33, 50)}  # 104 panels; a block of a pass takes 64
    check_errors(sibling, op, arguments_in(dtype, op, **size))


@each_form
@pytest.mark.parametrize("op", ["decoder_first_pass", "decoder_second_pass"])
def test_many_prompts_share_blocks_and_give_the_same(sibling: str, op: str) -> None:
    """Blocks take three or two prompts, depending on the pass; the last block and the last tile aren't full."""
    given = arguments_in(torch.bfloat16, op, **{**SIZE, "prompts": 65, "grid": (1, 35)})
    check_errors(sibling, op, given)
    shared = 4 if op == "decoder_first_pass" else 5
    few = tuple(x[40:] if isinstance(x, Tensor) and i >= shared else x for i, x in enumerate(given))
    call = ops.siblings(op)[sibling]
    together = run(call, op, given)
    for all_of_them, some in zip(together, run(call, op, few), strict=True):
        assert torch.equal(all_of_them[40:], some)
    if sibling == EMULATED:  # the reverse order of threads would reveal a missing barrier
        with threads_backwards():
            assert all(torch.equal(a, b) for a, b in zip(run(call, op, given), together, strict=True))


@each_form
def test_many_masks_equal_few_though_blocks_are_larger(sibling: str) -> None:
    size = {**SIZE, "grid": (1, 265)}  # 17 panels; a block takes more of them when there are many masks
    state, selected, factors, _, weights, *rest = arguments_in(torch.bfloat16, "decoder_upscale", **size)
    upscale, numbers = ops.siblings("decoder_upscale")[sibling], torch.arange(128)
    out = torch.full((128, *rest[-1].shape[1:]), torch.nan)
    given = selected[numbers % 2], factors[numbers % 2], numbers, weights[numbers % 5]
    upscale(state, *given, *rest[:-1], out)
    expected = torch.full_like(out[-10:], torch.nan)
    upscale(state, selected, factors, numbers[-10:] % 2, weights[numbers[-10:] % 5], *rest[:-1], expected)
    assert torch.equal(out[-10:], expected)


@each_form
@each_dtype
def test_second_pass_accepts_any_number_of_query_tokens(sibling: str, dtype: torch.dtype) -> None:
    *given, queries, queries_mix, length, state = arguments_in(dtype, "decoder_second_pass", **SIZE)
    rows = queries_mix.unflatten(1, queries.shape[1:3])
    for width in range(1, 6):
        narrower = queries[:, :, :width].contiguous(), rows[:, :, :width].flatten(1, 2)
        check_errors(sibling, "decoder_second_pass", (*given, *narrower, length, state))


@each_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 20])
def test_upscale_accepts_any_number_of_masks(sibling: str, count: int, dtype: torch.dtype) -> None:
    state, selected, factors, _, weights, *rest = arguments_in(dtype, "decoder_upscale", **SIZE)
    generator = torch.Generator().manual_seed(2)
    index = torch.randint(0, 2, (count,), generator=generator)
    weights = torch.randn(count, 32, generator=generator).to(dtype)
    out = torch.full((count, *rest[-1].shape[1:]), torch.nan)
    check_errors(sibling, "decoder_upscale", (state, selected, factors, index, weights, *rest[:-1], out))


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_masks_with_wrong_indices_are_nan_and_others_unchanged(sibling: str, dtype: torch.dtype) -> None:
    upscale = ops.siblings("decoder_upscale")[sibling]
    state, selected, factors, index, *rest, out = arguments_in(dtype, "decoder_upscale", **SIZE)
    upscale(state, selected, factors, index, *rest, out)
    kept = out.clone()
    for wrong in (-1, 2, 2**62, -(2**63)):
        index[2] = wrong
        upscale(state, selected, factors, index, *rest, out)
        assert out[2].isnan().all() and torch.equal(out[[0, 1, 3, 4]], kept[[0, 1, 3, 4]])
    for wrong in (-1, len(state), 2**62):
        upscale(state, torch.tensor([wrong, 0]), factors, torch.tensor([1, 0, 1, 1, 0]), *rest, out)
        assert out[[1, 4]].isnan().all() and not out[[0, 2, 3]].isnan().any()


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("op", ["decoder_first_pass", "decoder_second_pass"])
def test_results_do_not_depend_on_other_prompts(sibling: str, op: str, dtype: torch.dtype) -> None:
    """Results don't depend on the alignment of tensors either."""
    given = arguments_in(dtype, op, **SIZE)
    shared = 4 if op == "decoder_first_pass" else 5
    alone = tuple(shifted(x[1:]) if isinstance(x, Tensor) and i >= shared else x for i, x in enumerate(given))
    call = ops.siblings(op)[sibling]
    for both, one in zip(run(call, op, given), run(call, op, alone), strict=True):
        assert torch.equal(both[1:], one)


def shifted(x: Tensor) -> Tensor:
    """Return a copy that starts one element after a 16-byte boundary."""
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


@each_dtype
@pytest.mark.parametrize("op", ["decoder_first_pass", "decoder_second_pass"])
@each_form
def test_large_scores_stay_finite_and_nan_does_not_crash(sibling: str, op: str, dtype: torch.dtype) -> None:
    given = list(arguments_in(dtype, op, **SIZE))
    keys, queries = (4, 7) if op == "decoder_first_pass" else (5, 15)
    large = [*given]
    large[keys], large[queries] = given[keys] * 300, given[queries] * 300
    for result in run(ops.siblings(op)[sibling], op, tuple(large)):
        assert bool(result.isfinite().all())
    for value in (float("nan"), float("inf"), -float("inf")):
        spoilt = [*given]
        spoilt[keys] = torch.full_like(given[keys], value)
        run(ops.siblings(op)[sibling], op, tuple(spoilt))


@each_form
@pytest.mark.parametrize("op", ["decoder_first_token_to_image", "decoder_first_pass", "decoder_second_pass"])
def test_zero_prompts_give_empty_results(sibling: str, op: str) -> None:
    check_errors(sibling, op, arguments_in(torch.float16, op, **{**SIZE, "prompts": 0}))


@pytest.mark.parametrize("op", IMAGE_OPS)
def test_arguments_without_kernels_fall_back_to_pytorch_and_log_it(
    op: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if EMULATED not in CUDA:
        pytest.skip("the compiled operations are off")
    monkeypatch.setattr(logging.getLogger("fastsam_core"), "propagate", True)
    exact = arguments_in(torch.float64, op, **SIZE)
    others = arguments_in(torch.float16, op, **{**SIZE, "heads": 4, "dim": 96})
    reasons = (
        "kernels for float32, float16 and bfloat16; the tensor is torch.float64",
        f"{op} has no kernel for these sizes",
    )
    with caplog.at_level("INFO", logger="fastsam_core"):
        for given, reason in zip((exact, others), reasons, strict=True):
            _native_cuda.log_pytorch_fallback.cache_clear()
            caplog.clear()
            results = [run(ops.siblings(op)[name], op, given) for name in ("reference", EMULATED)]
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
            (message,) = caplog.messages
            assert reason in message
    assert cuda.why_not(op, exact[0]) and not cuda.why_not(op, others[0])


def test_unvalidated_float32_kernels_are_opt_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native_cuda, "use_unvalidated", False)
    with _native_cuda.use_module(None):
        for op in IMAGE_OPS:
            assert "not yet validated on a GPU; FASTSAM_CUDA_KERNELS=1" in cuda.why_not(op, torch.empty(0))
            assert not cuda.why_not(op, torch.empty(0, dtype=torch.bfloat16))
            monkeypatch.setattr(_native_cuda, "use_unvalidated", True)
            assert not cuda.why_not(op, torch.empty(0))
            monkeypatch.setattr(_native_cuda, "use_unvalidated", False)
    assert "kernels for float16 and bfloat16; the tensor is torch.float32" in cuda.why_not(
        "decoder_prompts", torch.empty(0)
    )


@each_form
@each_dtype
def test_first_token_to_image_does_not_depend_on_other_prompts(sibling: str, dtype: torch.dtype) -> None:
    q, keys, values, length = arguments_in(dtype, "decoder_first_token_to_image", **{**SIZE, "grid": (5, 40)})
    attention = ops.siblings("decoder_first_token_to_image")[sibling]
    alone = attention(q[:, 7:].contiguous(), keys, values, length)
    q[:, :7] *= 8  # now these have much larger scores than the others, and their maxima come late
    together = attention(q, keys, values, length)
    assert torch.equal(together[:, 7:], alone)
