"""Tests the CUDA kernels of attention in half precision: errors are at most twice those of plain PyTorch in that dtype.

Both are compared with float64 on the same rounded inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsam_core import ops
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._attention import cuda
from siblings import EMULATED, emulated, names_of, threads_backwards
from test_attention import example, plain_attention, plain_windowed_attention, windowed_example

CUDA = [name for name in names_of("attention") if name.startswith("cuda")]

pytestmark = pytest.mark.skipif(not CUDA, reason="the compiled operations are off")

each_form = pytest.mark.parametrize("sibling", CUDA)
each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@pytest.fixture(autouse=True)
def kernels_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn off the kernels that only Hopper runs; test_attention_wgmma.py tests those."""
    monkeypatch.setattr(cuda, "has_wgmma", lambda *given: False)


def cast(arguments: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(value.to(dtype) if isinstance(value, Tensor) else value for value in arguments)


def check_error(op: str, sibling: str, arguments: tuple[Any, ...], plain: Callable[..., Tensor]) -> None:
    """Check that a sibling's largest error is at most twice the reference's, both against `plain` in float64."""
    exact = plain(*cast(arguments, torch.float64))
    given = ops.siblings(op)[sibling](*arguments)
    assert given.dtype == arguments[0].dtype and given.is_contiguous() and not given.isnan().any()
    error, usual = (
        float((result.double() - exact).abs().max()) for result in (given, ops.siblings(op)["reference"](*arguments))
    )
    assert error <= 2 * usual, (error, usual)


@each_form
@each_half
@pytest.mark.parametrize("dim", [64, 80])
@pytest.mark.parametrize(
    ("height", "width", "window"),
    [
        (1, 1, 0),
        (5, 3, 0),
        (14, 14, 14),
        (20, 15, 14),  # windows over both edges
        (2, 3, 14),  # a window larger than the grid
        (9, 8, 7),
        (19, 16, 0),  # more rows than a warp holds position terms for at a time
        (7, 21, 0),
        (2, 64, 0),  # a tile is a row of keys
        (2, 100, 0),  # two strips of columns
    ],
)
def test_grids_and_windows_have_small_errors(sibling, dtype, dim, height, width, window):
    batch = 2 if height * width < 100 else 1
    arguments = cast(example(height, width, window, dim=dim, batch=batch, heads=1 + batch), dtype)
    check_error("attention", sibling, arguments, plain_attention)


@each_form
@each_half
@pytest.mark.parametrize("dim", [64, 80])
def test_more_key_rows_than_position_terms_have_small_errors(sibling, dtype, dim):
    check_error("attention", sibling, cast(example(18, 34, dim=dim, heads=1), dtype), plain_attention)


@each_half
@pytest.mark.parametrize("dim", [64, 80])
@pytest.mark.parametrize(("height", "width"), [(2, 64), (2, 100)])
def test_little_shared_memory_has_small_errors(monkeypatch, dtype, dim, height, width):
    monkeypatch.setattr(cuda, "shared_memory", lambda module, device: 100 * 1024)
    arguments = cast(example(height, width, dim=dim, batch=2, heads=2), dtype)
    check_error("attention", EMULATED, arguments, plain_attention)


@each_form
@each_half
@pytest.mark.parametrize(
    ("height", "width", "window"), [(1, 1, 1), (5, 3, 3), (7, 7, 7), (16, 9, 7), (8, 16, 8), (20, 15, 14), (2, 3, 14)]
)
def test_windowed_attention_has_small_errors(sibling, dtype, height, width, window):
    arguments = cast(windowed_example(height, width, window, dim=32, heads=3, batch=2), dtype)
    check_error("windowed_attention", sibling, arguments, plain_windowed_attention)


@each_form
@each_half
def test_scores_whose_exponential_overflows(sibling, dtype):
    # Weights would overflow float16 if the running maximum were updated too late.
    qkv, *tables, heads, window, padding = example(12, 12, dim=64, heads=1)
    qkv[..., :64] = 4.0
    for first, last in ((0, 90), (90, 0)):
        qkv[..., 64:128] = torch.linspace(first, last, 144).view(1, 12, 12, 1)
        arguments = cast((qkv, *tables, heads, window, padding), dtype)
        given = ops.siblings("attention")[sibling](*arguments)
        expected = plain_attention(*cast(arguments, torch.float64))
        torch.testing.assert_close(given.double(), expected, rtol=2e-2, atol=2e-2)


@each_form
@each_half
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 4), (3, 40, 0)])
def test_nan_and_infinity_stay_in_their_window_and_head(sibling, dtype, value, height, width, window):
    qkv, *others = cast(example(height, width, window, dim=64), dtype)
    run = ops.siblings("attention")[sibling]
    clean = run(qkv, *others)
    qkv[0, 1, 2, 5] = value  # a query of the first head in the first window
    qkv[0, 1, 3, 5 + 2 * 64] = value  # a key
    given = run(qkv, *others)
    assert given[0, 1, 2, :64].isnan().all()
    reached = (slice(None), slice(window or height), slice(window or width), slice(64))
    given[reached] = clean[reached]
    assert torch.equal(given, clean)


@each_form
@each_half
def test_bias_of_minus_infinity_gives_no_weight_as_on_the_cpu(sibling, dtype):
    qkv, bias, window, padding = cast(windowed_example(9, 8, 5, dim=32), dtype)
    bias[torch.rand(bias.shape, generator=torch.Generator().manual_seed(3)) < 0.5] = -torch.inf
    bias[..., 0] = 0.0  # one key is left to each query
    given = ops.siblings("windowed_attention")[sibling](qkv, bias, window, padding)
    arguments = cast((qkv, bias, window, padding), torch.float32)
    expected = ops.siblings("windowed_attention")[f"cpu[{ops.available_isas()[0]}]"](*arguments)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(given.float(), expected, rtol=2 * eps, atol=4 * eps)


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_query_without_weighted_keys_gets_zeros(sibling, dtype):
    qkv, bias, window, padding = cast(windowed_example(9, 8, 5, dim=32), dtype)
    run = ops.siblings("windowed_attention")[sibling]
    expected = run(qkv, bias, window, padding)
    bias[1, 6] = -torch.inf  # row 1, column 1 of each window, in the second head
    expected[:, 1::5, 1::5, 32:] = 0
    assert torch.equal(run(qkv, bias, window, padding), expected)


CALLS = [
    ("attention", example(2, 64, dim=64, heads=2)),
    ("attention", example(10, 15, 14, dim=80, heads=1)),
    ("attention", example(2, 70, dim=80, heads=1)),
    ("windowed_attention", windowed_example(20, 15, 7, dim=32, heads=2)),
]


@each_form
@each_half
@pytest.mark.parametrize(("op", "arguments"), CALLS)
def test_same_bits_over_repeats(sibling, dtype, op, arguments):
    run, arguments = ops.siblings(op)[sibling], cast(arguments, dtype)
    expected = run(*arguments)
    for _ in range(20):
        assert torch.equal(run(*arguments), expected)


@each_half
@pytest.mark.parametrize(("op", "arguments"), CALLS)
@pytest.mark.parametrize("shared_memory", [100 * 1024, 228 * 1024])
def test_same_bits_with_threads_in_reverse_order(monkeypatch, dtype, op, arguments, shared_memory):
    monkeypatch.setattr(cuda, "shared_memory", lambda module, device: shared_memory)
    run, arguments = ops.siblings(op)[EMULATED], cast(arguments, dtype)
    expected = run(*arguments)
    with threads_backwards():
        assert torch.equal(run(*arguments), expected)


@each_form
def test_calls_without_kernel_use_pytorch_and_log_once(sibling, caplog):
    calls = [
        ("attention", example(4, 4, dim=48), "attention has no kernel for heads of 48 channels"),
        ("attention", cast(example(4, 4, dim=64), torch.float64), "attention has kernels for float32, float16 and"),
        ("windowed_attention", windowed_example(4, 4, 2, dim=64), "windowed_attention has no kernel for heads of 64"),
    ]
    for op, arguments, message in calls:
        _native_cuda.log_pytorch_fallback.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.INFO, "fastsam_core"):
            for _ in range(2):
                given = ops.siblings(op)[sibling](*arguments)
        torch.testing.assert_close(given, ops.siblings(op)["reference"](*arguments))
        (record,) = caplog.records
        assert message in record.getMessage()


def test_why_not_names_dtype_and_compute_capability(monkeypatch):
    assert cuda.why_not("attention", torch.empty(0, dtype=torch.bfloat16)) == ""
    assert "the tensor is torch.float64" in cuda.why_not("attention", torch.empty(0, dtype=torch.float64))
    monkeypatch.setattr(_native_cuda, "compute_capability", lambda device: (7, 5))
    with torch._subclasses.fake_tensor.FakeTensorMode():
        tensor = torch.empty(1, device="cuda")
    assert cuda.why_not("attention", tensor) == "attention needs compute capability 8.0; the tensor's GPU has 7.5"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.attention(1, 16, 1, 4, 4, 2, 48, 16, 16, 0, 0, 16, 0, 0),
            "no kernels for this number of channels per head",
        ),
        (lambda m: m.attention(3, 16, 1, 4, 4, 2, 64, 16, 16, 0, 0, 16, 0, 0), "no kernels for this dtype"),
        (lambda m: m.attention(1, 16, 0, 4, 4, 2, 64, 16, 16, 0, 0, 16, 0, 0), "sizes must be positive"),
        (lambda m: m.attention(1, 16, 1, 4, 4, 2, 64, 16, 16, -1, 0, 16, 0, 0), "window must not be negative"),
        (lambda m: m.attention(1, 16, 1, 4, 4, 2, 64, 16, 16, 3, 0, 16, 0, 0), "need a padding vector"),
        (lambda m: m.attention(1, 16, 1, 2**20, 2**20, 2, 64, 16, 16, 0, 0, 16, 0, 0), r"more than 2\^28 tokens"),
        (
            lambda m: m.windowed_attention(1, 16, 1, 4, 4, 2, 64, 16, 2, 0, 16, 0),
            "no kernels for this number of channels per head",
        ),
        (lambda m: m.windowed_attention(1, 16, 1, 4, 4, 2, 32, 16, 0, 0, 16, 0), "window must be positive"),
        (lambda m: m.windowed_attention(1, 16, 1, 4, 4, 2, 32, 16, 2**40, 16, 16, 0), r"more than 2\^28 tokens"),
    ],
)
def test_module_checks_sizes_again(call, message):
    with pytest.raises(ValueError, match=message):
        call(emulated)
