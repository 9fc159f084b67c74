"""Tests of the kernel chain for prompts' tokens: `decoder_prompts` and `decoder_mask_factors`, also in the emulator."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decoder_arguments import arguments_in, chain_of
from fastsam_core import ops
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._decoder import cuda
from fastsam_core.ops._decoder.layouts import matrices
from fastsam_core.ops._decoder.weights import mask_shapes
from siblings import EMULATED, Calls, carry, emulated, threads_backwards
from test_decoder import run
from test_decoder_half import CUDA, check_mean_errors, each_form, each_half, shifted

needs_module = pytest.mark.skipif(not CUDA, reason="the compiled operations are off")
CHAINS = ("decoder_prompts", "decoder_mask_factors")
SIZE = {"heads": 8, "prompts": 2, "tokens": 7, "dim": 256, "grid": (3, 11)}


@needs_module
@each_form
@each_half
@pytest.mark.parametrize("op", CHAINS)
def test_errors_are_at_most_twice_pytorchs(sibling: str, op: str, dtype: torch.dtype) -> None:
    sizes: tuple[dict[str, Any], ...] = (
        SIZE,
        {**SIZE, "tokens": 8, "grid": (4, 4)},
        {**SIZE, "prompts": 24, "tokens": 1, "grid": (1, 1)},
        {**SIZE, "prompts": 1, "tokens": 6, "grid": (33, 40)},  # the image is processed in two parts
        {**SIZE, "prompts": 19, "tokens": 3, "grid": (2, 9)},
        {**SIZE, "prompts": 1, "hidden": (2048, 256), "grid": (1, 20)},
    )
    check_mean_errors(sibling, op, [arguments_in(dtype, op, **size, seed=5 + i) for i, size in enumerate(sizes)])


@needs_module
@each_form
@pytest.mark.parametrize("op", CHAINS)
def test_chain_makes_no_separate_pass_over_the_image(sibling: str, op: str) -> None:
    given = arguments_in(torch.bfloat16, op, **SIZE)
    calls = Calls(module_of(sibling))
    with _native_cuda.use_module(calls):
        getattr(cuda, op)(*moved_for(given, sibling))
    assert op in calls.names and "decoder_first_pass" not in calls.names


def module_of(sibling: str) -> Any:
    return emulated if sibling == EMULATED else _native_cuda.cuda_module


def moved_for(given: Any, sibling: str) -> Any:
    return given if sibling == EMULATED else carry(given, "cuda")


@needs_module
@each_form
@each_half
@pytest.mark.parametrize(("prompts", "outputs", "tokens"), [(3, 5, 7), (12, 5, 8), (1, 1, 1)])
def test_precomputed_chain_of_an_image_equals_the_operation(
    sibling: str, dtype: torch.dtype, prompts: int, outputs: int, tokens: int
) -> None:
    size = {**SIZE, "prompts": prompts, "tokens": tokens, "grid": (3, 5)}
    first, *given, state = arguments_in(dtype, "decoder_prompts", **size)
    first[:, :outputs] = first[0, :outputs]
    expected = ops.siblings("decoder_prompts")[sibling](first, *given, written := state.clone())
    with _native_cuda.use_module(module_of(sibling)):
        chain, (sparse, chosen, own_state) = chain_of(moved_for((first, *given, state), sibling), outputs)
        for of_prompts in (sparse.contiguous(), shifted(sparse)):  # the second call finds the chain unchanged
            own_state.zero_()
            found = chain(of_prompts, chosen, own_state)
            for ours, wanted in zip((*found, own_state), (*expected, written), strict=True):
                assert torch.equal(ours.cpu(), wanted)
        assert [len(x) for x in chain(sparse[:0], chosen, own_state[:0])] == [0] * 4


@needs_module
@each_form
@each_half
@pytest.mark.parametrize("tokens", [1, 7, 8])
def test_packed_factors_equal_those_of_the_operation(sibling: str, dtype: torch.dtype, tokens: int) -> None:
    given = arguments_in(dtype, "decoder_mask_factors", **{**SIZE, "prompts": 3, "tokens": tokens})
    with _native_cuda.use_module(module_of(sibling)):
        (factors, weights), (packed, same) = (
            cuda.mask_factors(*moved_for(given, sibling), packed=packed) for packed in (False, True)
        )
    rows = 16 * tokens + 2
    expected = matrices(F.pad(factors, (0, (128 if rows <= 128 else 160) - rows)))
    assert torch.equal(packed.flatten(), expected.flatten()) and torch.equal(weights, same)


@needs_module
@each_form
@each_half
def test_any_tokens_can_be_chosen(sibling: str, dtype: torch.dtype) -> None:
    draws = []
    for seed, chosen in enumerate(([0], [0, 3], [6, 0, 2], [0, 1, 2, 3], [0, 2, 4, 6, 1], [*range(7)])):
        *given, _, state = arguments_in(dtype, "decoder_prompts", **{**SIZE, "prompts": 5}, seed=seed)
        draws.append((*given, chosen, state))
    check_mean_errors(sibling, "decoder_prompts", draws)


@needs_module
@each_form
def test_many_prompts_give_the_same_as_few(sibling: str) -> None:
    """Many rows are multiplied by other kernels, and blocks of several prompts pass over the image."""
    size = {**SIZE, "prompts": 100, "grid": (1, 3), "hidden": (256, 64)}
    tokens, *given, state = arguments_in(torch.bfloat16, "decoder_prompts", **size)
    check_mean_errors(sibling, "decoder_prompts", [(tokens, *given, state)])
    call = ops.siblings("decoder_prompts")[sibling]
    together = run(call, "decoder_prompts", (tokens, *given, state))
    few = run(call, "decoder_prompts", (tokens[98:], *given, state[98:]))
    for whole, part in zip(together, few, strict=True):
        assert torch.equal(whole[98:], part)


@needs_module
@each_form
@pytest.mark.parametrize(("count", "hidden"), [(200, (1032, 520)), (200, (40, 1032)), (300, (264, 1032))], ids=str)
def test_many_rows_of_wide_layers_give_the_same_as_few(sibling: str, count: int, hidden: tuple[int, int]) -> None:
    """Covers depths whose quarters end within a stage, a depth that is no whole number of stages, and large blocks."""
    _, *owns, _, _, _, _, _, _, first, second, rest = arguments_in(
        torch.bfloat16, "decoder_mask_factors", **{**SIZE, "prompts": 3}
    )
    generator = torch.Generator().manual_seed(9)
    final = torch.randn(3, 5, 256, generator=generator).bfloat16()
    sizes = [*hidden, 32]
    size = mask_shapes(256, *sizes)[1]
    layers = (torch.randn(4, size, generator=generator) / 16).bfloat16()
    selected, index, column = torch.arange(count) % 3, torch.arange(count - 1, -1, -1), torch.arange(count) % 4
    weights = [2, 0, 3, 1], layers, sizes, first, second, rest
    given = final, *owns, selected, index, column, *weights
    check_mean_errors(sibling, "decoder_mask_factors", [given])
    call = ops.siblings("decoder_mask_factors")[sibling]
    factors, found = call(*given)
    few_factors, few = call(final, *owns, selected[-10:], torch.arange(9, -1, -1), column[:10], *weights)
    assert torch.equal(factors[-10:], few_factors) and torch.equal(found[:10], few)
    if sibling == EMULATED:
        with threads_backwards():
            assert all(torch.equal(a, b) for a, b in zip(call(*given), (factors, found), strict=True))


@needs_module
@each_form
@pytest.mark.parametrize("op", CHAINS)
def test_results_do_not_depend_on_the_alignment_of_tensors(sibling: str, op: str) -> None:
    given = arguments_in(torch.bfloat16, op, **SIZE)

    def moved(x: Any) -> Any:
        if isinstance(x, list) and isinstance(x[0], Tensor):
            return [moved(part) for part in x]
        return shifted(x) if isinstance(x, Tensor) and x.dim() else x

    call = ops.siblings(op)[sibling]
    for a, b in zip(run(call, op, given), run(call, op, tuple(map(moved, given))), strict=True):
        assert torch.equal(a, b)
    # The reverse order of a block's threads would reveal a missing barrier.
    if sibling == EMULATED:
        with threads_backwards():
            again = run(call, op, given)
        assert all(torch.equal(a, b) for a, b in zip(run(call, op, given), again, strict=True))


@needs_module
@each_form
def test_unaligned_state_is_written(sibling: str) -> None:
    *given, state = arguments_in(torch.float16, "decoder_prompts", **SIZE)
    call = ops.siblings("decoder_prompts")[sibling]
    elsewhere = shifted(state)
    call(*given, state)
    call(*given, elsewhere)
    assert torch.equal(state, elsewhere) and state.any()


@needs_module
@pytest.mark.parametrize("op", CHAINS)
@pytest.mark.parametrize("chosen", [[0, 2], [*range(7)]], ids=str)
def test_uninitialised_memory_is_never_read(op: str, chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """New tensors are filled with set bits, which are NaN in every floating-point dtype."""
    given = list(arguments_in(torch.float16, op, **{**SIZE, "tokens": 7}))
    if op == "decoder_prompts":
        given[-2] = chosen
    call, usual = ops.siblings(op)[EMULATED], Tensor.new_empty
    expected = run(call, op, tuple(given))

    def spoilt(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = usual(self, *args, **kwargs)
        made.view(-1).view(torch.uint8).fill_(255)
        return made

    monkeypatch.setattr(Tensor, "new_empty", spoilt)
    if op == "decoder_prompts":
        given[-1] = torch.full_like(given[-1], torch.nan)
    for a, b in zip(expected, run(call, op, tuple(given)), strict=True):
        assert torch.equal(a, b)


@needs_module
@each_form
def test_zero_prompts_or_masks_give_empty_results(sibling: str) -> None:
    tokens, *given, state = arguments_in(torch.float16, "decoder_prompts", **SIZE)
    results = ops.siblings("decoder_prompts")[sibling](tokens[:0], *given, state[:0])
    assert [x.shape for x in results] == [(0, 4, 256), (0, 4), (0, 8, 7, 16), (0, 8, 7, 16)]
    call = ops.siblings("decoder_mask_factors")[sibling]
    *token_args, selected, index, column, masks, layers, sizes, first_mix, second_mix, constant_mix = arguments_in(
        torch.float16, "decoder_mask_factors", **SIZE
    )
    weights = masks, layers, sizes, first_mix, second_mix, constant_mix
    factors, found = call(*token_args, selected[:0], index[:0], column[:0], *weights)
    assert factors.shape == (0, 256, 114) and found.shape == (0, 32)
    factors, found = call(*token_args, selected, index[:0], column[:0], *weights)
    assert torch.equal(factors, call(*token_args, selected, index, column, *weights)[0]) and found.shape == (0, 32)
    final, *others = token_args
    factors, found = call(final[:, :1], *others, selected, index[:0], column[:0], [], *weights[1:])
    assert factors.shape == (2, 256, 114) and found.shape == (0, 32)


@needs_module
@each_half
@each_form
def test_nan_and_large_numbers_do_not_change_other_prompts(sibling: str, dtype: torch.dtype) -> None:
    # A single panel of image tokens: over several, prompts that share a warp of the first token-to-image attention
    # change each other's last bits when one of them makes the warp rescale its sums.
    tokens, *given, state = arguments_in(dtype, "decoder_prompts", **{**SIZE, "grid": (1, 15)})
    call = ops.siblings("decoder_prompts")[sibling]
    expected = run(call, "decoder_prompts", (tokens, *given, state))
    for value in (float("nan"), float("inf"), 3e4):
        spoilt = tokens.clone()
        spoilt[0] = value
        found = run(call, "decoder_prompts", (spoilt, *given, state))
        assert all(torch.equal(a[1], b[1]) for a, b in zip(expected, found, strict=True))  # the other prompt's


@needs_module
@pytest.mark.parametrize("wrong", [-1, 2, 2**62, -(2**63)])
def test_indices_out_of_range_do_not_affect_other_results(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the CPU are checked. On a GPU, where that would wait for the device, kernels clamp indices instead."""
    *token_args, selected, index, column, masks, layers, sizes, first_mix, second_mix, constant_mix = arguments_in(
        torch.float16, "decoder_mask_factors", **SIZE
    )
    call = ops.siblings("decoder_mask_factors")[EMULATED]
    weights = masks, layers, sizes, first_mix, second_mix, constant_mix
    expected = call(*token_args, selected, index, column, *weights)
    for which in range(3):
        indices = [selected.clone(), index.clone(), column.clone()]
        indices[which][1] = wrong
        with pytest.raises(ValueError, match="must be from 0"):
            call(*token_args, *indices, *weights)
    with monkeypatch.context() as without:
        without.setattr(cuda, "check_indices", lambda *given: None)
        for which in range(3):
            indices = [selected.clone(), index.clone(), column.clone()]
            indices[which][1] = wrong
            factors, found = call(*token_args, *indices, *weights)
            assert torch.equal(factors[0], expected[0][0])
            assert torch.equal(found[3:], expected[1][3:])  # weights of the prompt that `selected` names first


@needs_module
@pytest.mark.parametrize("op", CHAINS)
def test_sizes_without_kernels_fall_back_to_pytorch(
    op: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if EMULATED not in CUDA:
        pytest.skip("the compiled operations are off")
    monkeypatch.setattr(logging.getLogger("fastsam_core"), "propagate", True)
    others = (
        arguments_in(torch.float32, op, **SIZE),
        arguments_in(torch.float16, op, **{**SIZE, "tokens": 9}),
        arguments_in(torch.float16, op, **{**SIZE, "heads": 4, "dim": 64}),
        arguments_in(torch.float16, op, **{**SIZE, "hidden": (54, 40)}),  # rows that are no multiple of 16 bytes
    )[: 4 if op == "decoder_prompts" else 3]
    with caplog.at_level("INFO", logger="fastsam_core"):
        for given in others:
            _native_cuda.log_pytorch_fallback.cache_clear()
            caplog.clear()
            results = [run(ops.siblings(op)[name], op, given) for name in ("reference", EMULATED)]
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
            (message,) = caplog.messages
            sizes = given[0].dtype == torch.float16
            assert (f"{op} has no kernel for these sizes of a decoder" if sizes else "torch.float32") in message
