"""Tests the wgmma attention kernels for Hopper on the emulator: errors are at most twice those of plain PyTorch.

test_gpu_attention.py tests them on a GPU; test_attention_half.py tests the kernels that run all other calls.
"""

from __future__ import annotations

import pytest
import torch

from fastsam_core import ops
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._attention import cuda, reference
from siblings import EMULATED, Calls, emulated, names_of, threads_backwards
from test_attention import example
from test_attention_half import cast, check_error, plain_attention

pytestmark = pytest.mark.skipif(EMULATED not in names_of("attention"), reason="the compiled operations are off")

each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
each_dim = pytest.mark.parametrize("dim", [64, 80])


def called(arguments: tuple) -> set[str]:
    """Return which of the module's attention functions this call uses."""
    calls = Calls(emulated)
    _native_cuda.bind_module(calls, cuda.attention)(*arguments)
    return calls.names & {"attention", "attention_wgmma"}


@each_half
@each_dim
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 64),  # two of three warpgroups are idle
        (3, 64),  # one full block of queries
        (4, 50),  # tiles with fewer keys than slots; a second block with few queries
        (7, 33),
        (2, 64),  # two warpgroups
        (17, 40),  # more rows than position terms are computed for at a time
    ],
)
def test_grids_have_small_errors(dtype, dim, height, width):
    batch = 2 if height * width < 300 else 1
    arguments = cast(example(height, width, dim=dim, batch=batch, heads=1 + batch), dtype)
    assert called(arguments) == {"attention_wgmma"}
    check_error("attention", EMULATED, arguments, plain_attention)


@each_dim
def test_more_rows_than_tile_columns_have_small_errors(dim):
    arguments = cast(example(66, 35, dim=dim, heads=1), torch.bfloat16)
    assert called(arguments) == {"attention_wgmma"}
    check_error("attention", EMULATED, arguments, reference.attention)


@pytest.mark.slow
def test_grid_of_64_by_64_has_small_errors():
    check_error("attention", EMULATED, cast(example(64, 64, dim=64, heads=1), torch.bfloat16), reference.attention)


@pytest.mark.parametrize(
    "arguments",
    [
        cast(example(2, 32, dim=64), torch.float16),
        cast(example(2, 65, dim=64), torch.float16),
        cast(example(2, 100, dim=80), torch.bfloat16),
        cast(example(3, 40, 14, dim=64), torch.float16),
        example(2, 64, dim=64),
    ],
)
def test_calls_without_wgmma_kernel_use_other_kernels(arguments):
    assert called(arguments) == {"attention"}


def test_wgmma_kernels_exist_while_position_terms_fit():
    has = emulated.attention_wgmma_has_kernel
    rows = {dim: [n for n in range(1, 200) if has(1, n, 64, dim, 0)] for dim in (64, 80)}
    assert all(found == list(range(1, found[-1] + 1)) and found[-1] % 16 == 0 for found in rows.values())
    assert rows[64][-1] >= 96 and rows[80][-1] >= 64
    assert not has(1, 2**30, 64, 64, 0)
    # A window of the grid's size is global attention.
    assert has(2, 64, 64, 64, 64)
    assert not has(0, 64, 64, 64, 0)
    assert not has(1, 64, 64, 32, 0)


def test_window_of_the_grids_size_is_global():
    arguments = cast(example(40, 40, 40, dim=64, heads=1), torch.float16)
    assert called(arguments) == {"attention_wgmma"}
    whole = (*arguments[:4], 0, None)
    run = ops.siblings("attention")[EMULATED]
    assert torch.equal(run(*arguments), run(*whole))


@each_half
def test_scores_whose_exponential_overflows(dtype):
    qkv, *tables, heads, window, padding = example(4, 36, dim=64, heads=1)
    qkv[..., :64] = 4.0
    for first, last in ((0, 90), (90, 0)):
        qkv[..., 64:128] = torch.linspace(first, last, 144).view(1, 4, 36, 1)
        arguments = cast((qkv, *tables, heads, window, padding), dtype)
        given = ops.siblings("attention")[EMULATED](*arguments)
        expected = plain_attention(*cast(arguments, torch.float64))
        torch.testing.assert_close(given.double(), expected, rtol=2e-2, atol=2e-2)


@each_half
@each_dim
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_stay_in_their_image_and_head(dtype, dim, value):
    qkv, *others = cast(example(3, 40, dim=dim, batch=2), dtype)
    run = ops.siblings("attention")[EMULATED]
    clean = run(qkv, *others)
    qkv[0, 1, 2, 5] = value  # a query of the first head
    qkv[0, 1, 3, 5 + 2 * dim] = value  # a key
    given = run(qkv, *others)
    assert given[0, 1, 2, :dim].isnan().all()
    given[0, ..., :dim] = clean[0, ..., :dim]
    assert torch.equal(given, clean)


@each_half
@each_dim
def test_same_bits_over_repeats_and_with_threads_in_reverse_order(dtype, dim):
    run, arguments = ops.siblings("attention")[EMULATED], cast(example(9, 50, dim=dim, heads=2), dtype)
    expected = run(*arguments)
    assert torch.equal(run(*arguments), expected)
    with threads_backwards():
        assert torch.equal(run(*arguments), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.attention_wgmma(0, 16, 1, 4, 64, 2, 64, 16, 16, 16, 0), "no wgmma kernel for this call"),
        (lambda m: m.attention_wgmma(7, 16, 1, 4, 64, 2, 64, 16, 16, 16, 0), "no wgmma kernel for this call"),
        (lambda m: m.attention_wgmma(1, 16, 1, 4, 32, 2, 64, 16, 16, 16, 0), "no wgmma kernel for this call"),
        (lambda m: m.attention_wgmma(1, 16, 1, 4, 64, 2, 48, 16, 16, 16, 0), "no wgmma kernel for this call"),
        (lambda m: m.attention_wgmma(1, 16, 0, 4, 64, 2, 64, 16, 16, 16, 0), "sizes must be positive"),
    ],
)
def test_module_checks_sizes_again(call, message):
    with pytest.raises(ValueError, match=message):
        call(emulated)


@pytest.mark.parametrize(
    ("compute_capability", "architectures", "taken"),
    [
        ((9, 0), "80, 90a-real", True),
        ((9, 0), "80, 90", False),
        ((10, 0), "80, 90a-real", False),
        ((8, 0), "80, 90a-real", False),
    ],
)
def test_wgmma_is_used_only_on_hopper_and_if_compiled(monkeypatch, compute_capability, architectures, taken):
    module = type(
        "Module",
        (),
        {"EMULATED": False, "ARCHITECTURES": architectures, "attention_wgmma_has_kernel": lambda self, *sizes: True},
    )()
    monkeypatch.setattr(cuda, "compute_capability", lambda device: compute_capability)
    with torch._subclasses.fake_tensor.FakeTensorMode():
        qkv = torch.empty(1, 64, 64, 192, device="cuda", dtype=torch.float16)
    assert cuda.should_use_wgmma(module, qkv, 64, 0) is taken
