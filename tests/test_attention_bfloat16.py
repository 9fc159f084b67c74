"""Tests attention in bfloat16 for each CPU instruction set: errors are at most twice those of plain PyTorch.

Both are compared with float64 on the same rounded inputs.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastsam_core import ops
from siblings import names_of
from test_attention import GRIDS, example, plain_attention, plain_windowed_attention, windowed_example
from test_attention_half import cast, check_error

BF16 = torch.bfloat16
# avx512 uses the bfloat16 dot-product instructions (AVX512-BF16) if the processor has them.
NATIVE = [name for name in names_of("attention") if name.startswith("cpu")]

pytestmark = pytest.mark.skipif(not NATIVE, reason="the compiled operations are off")

each_set = pytest.mark.parametrize("sibling", NATIVE)


@each_set
@pytest.mark.parametrize(("height", "width", "window"), GRIDS)
@pytest.mark.parametrize("dim", [1, 3, 32, 64, 80])
def test_grids_and_windows_have_small_errors(sibling: str, height: int, width: int, window: int, dim: int) -> None:
    arguments = cast(example(height, width, window, dim=dim, batch=2), BF16)
    check_error("attention", sibling, arguments, plain_attention)


@each_set
@pytest.mark.parametrize(("height", "width", "window"), [grid for grid in GRIDS if grid[2]])
@pytest.mark.parametrize("dim", [3, 32])
def test_windowed_attention_has_small_errors(sibling: str, height: int, width: int, window: int, dim: int) -> None:
    arguments = cast(windowed_example(height, width, window, dim=dim, heads=3, batch=2), BF16)
    check_error("windowed_attention", sibling, arguments, plain_windowed_attention)


@each_set
def test_several_tiles_of_keys_have_small_errors(sibling: str) -> None:
    check_error("attention", sibling, cast(example(21, 35, dim=64), BF16), plain_attention)


@each_set
def test_scores_whose_exponential_overflows(sibling: str) -> None:
    qkv, *tables, heads, window, padding = example(12, 13, dim=64, heads=1)
    qkv[..., :64] = 4.0
    for first, last in ((0, 90), (90, 0)):  # the running maximum grows with every tile, or is in the first one
        qkv[..., 64:128] = torch.linspace(first, last, 156).view(1, 12, 13, 1)
        arguments = cast((qkv, *tables, heads, window, padding), BF16)
        given = ops.siblings("attention")[sibling](*arguments)
        expected = plain_attention(*cast(arguments, torch.float64))
        torch.testing.assert_close(given.double(), expected, rtol=2e-2, atol=2e-2)


@each_set
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 4), (3, 41, 0)])
def test_nan_and_infinity_stay_in_their_window_and_head(
    sibling: str, value: float, height: int, width: int, window: int
) -> None:
    qkv, *others = cast(example(height, width, window, dim=64), BF16)
    run = ops.siblings("attention")[sibling]
    clean = run(qkv, *others)
    qkv[0, 1, 2, 5] = value  # a query of the first head in the first window
    qkv[0, 1, 3, 5 + 4 * 64] = value  # a value
    given = run(qkv, *others)
    assert not given[0, 1, 3, 5].isfinite()
    reached = (slice(None), slice(window or height), slice(window or width), slice(64))
    given[reached] = clean[reached]
    assert torch.equal(given, clean)


@each_set
def test_bias_of_minus_infinity_gives_no_weight(sibling: str) -> None:
    qkv, bias, window, padding = cast(windowed_example(9, 8, 5, dim=32), BF16)
    bias[torch.rand(bias.shape, generator=torch.Generator().manual_seed(3)) < 0.5] = -torch.inf
    bias[..., 0] = 0.0  # one key is left to each query
    bias[:, 3, 1:] = -torch.inf
    check_error("windowed_attention", sibling, (qkv, bias, window, padding), plain_windowed_attention)


@each_set
def test_same_bits_over_threads_and_strides(sibling: str) -> None:
    for arguments in (example(20, 23, heads=3, batch=2), example(20, 33, 7, heads=3, batch=2)):
        qkv, *others = cast(arguments, BF16)
        run = ops.siblings("attention")[sibling]
        torch.set_num_threads(1)
        expected = run(qkv, *others)
        assert torch.equal(run(torch.stack([qkv, qkv], -1)[..., 1], *others), expected)
        for threads in (2, 4, 1) * 3:
            torch.set_num_threads(threads)
            assert torch.equal(run(qkv, *others), expected)


@each_set
def test_other_tensors_are_converted_to_the_dtype_of_qkv(sibling: str) -> None:
    qkv, rel_pos_h, rel_pos_w, heads, window, padding = example(6, 10, 4, dim=64)
    assert padding is not None
    run, qkv = ops.siblings("attention")[sibling], qkv.to(BF16)
    rounded = [tensor.to(BF16) for tensor in (rel_pos_h, rel_pos_w, padding)]
    given = run(qkv, rounded[0].double(), rounded[1].float(), heads, window, padding)
    assert given.dtype == BF16 and torch.equal(given, run(qkv, *rounded[:2], heads, window, rounded[2]))


def test_dispatcher_uses_native_code_for_bfloat16() -> None:
    arguments = cast(example(6, 10, 4, dim=8), BF16)
    (qkv,) = [value for value in arguments if isinstance(value, Tensor) and value.ndim == 4]
    assert ops.why("attention", qkv)["cpu"] == ""
    assert torch.equal(ops.attention(*arguments), ops.siblings("attention")[f"cpu[{ops.isa()}]"](*arguments))
    assert "float32 and bfloat16" in ops.why("attention", qkv.half())["cpu"]
    assert "float32, and" in ops.why("linear", qkv)["cpu"]
