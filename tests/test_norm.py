"""`add_norm_into`, a residual sum with its LayerNorm: every sibling against float64, and no writes elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._norm import cuda
from siblings import EMULATED, ON_GPU, Calls, each_sibling_of, emulated, names_of

EPS = 1e-6
each_sibling = each_sibling_of("add_norm_into")
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
needs_emulator = pytest.mark.skipif(EMULATED not in names_of("add_norm_into"), reason="the compiled operations are off")


def example(
    rows: int, channels: int, dtype: torch.dtype = torch.float32, draw: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, delta, weight and bias. As in a ViT, x has a mean, a large channel and rows of different size."""
    generator = torch.Generator().manual_seed(rows + channels + 10_000 * draw)
    x, delta = (torch.randn(rows, channels, generator=generator) for _ in range(2))
    x = x * torch.linspace(0.1, 4, rows)[:, None] + 0.5
    x[:, 7] += 20
    weight, bias = torch.randn(2, channels, generator=generator)
    return x.to(dtype), delta.to(dtype), weight.to(dtype), bias.to(dtype)


def run(
    sibling: str, x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float = EPS
) -> tuple[Tensor, Tensor]:
    """Return the sum and its LayerNorm, computed on copies of `x` and `delta`."""
    x, delta = x.clone(), delta.clone()
    assert ops.siblings("add_norm_into")[sibling](x, delta, weight, bias, eps) is None
    return x, delta


def called(*given: Any) -> set[str]:
    """Return {"add_norm"} if the CUDA front end calls the kernel for these arguments, else an empty set."""
    calls = Calls(emulated)
    _native_cuda.bind_module(calls, cuda.add_norm_into)(*given)
    return calls.names & {"add_norm"}


@each_sibling
@each_dtype
@pytest.mark.parametrize(
    ("rows", "channels"),
    [
        (1, 256),
        (3, 512),
        (9, 768),
        (5, 1024),
        (7, 1280),
        (2, 1536),
        (6, 1792),
        (13, 2048),
        (4, 96),
        (5, 8),
        (3, 160),
        (6, 264),
        (5, 320),
        (2, 504),
        (3, 520),
        (2, 2304),
    ],
)
def test_errors_are_at_most_twice_pytorchs(sibling: str, dtype: torch.dtype, rows: int, channels: int) -> None:
    """Compares the largest errors of several draws: in a single one, PyTorch's may happen to be small."""
    # The CUDA sibling falls back to PyTorch for these rows, so PyTorch must run on the GPU here too.
    device = "cuda" if sibling == ON_GPU and channels in (520, 2304) else "cpu"
    error = usual = 0.0
    for draw in range(4):
        given = example(rows, channels, dtype, draw)
        x, normalised = run(sibling, *given)
        summed = given[0] + given[1]
        assert torch.equal(x, summed) and normalised.dtype == dtype
        wide = [tensor.double() for tensor in (summed, *given[2:])]
        exact = F.layer_norm(wide[0], (channels,), *wide[1:], EPS)
        there = [tensor.to(device) for tensor in (summed, *given[2:])]
        plain = F.layer_norm(there[0], (channels,), *there[1:], EPS).cpu()
        error, usual = (
            max(largest, float((one.double() - exact).abs().max()))
            for largest, one in ((error, normalised), (usual, plain))
        )
    assert 0 < error <= 2 * usual


@each_sibling
@each_dtype
@pytest.mark.parametrize("channels", [768, 320])
def test_nan_and_infinity_stay_in_their_row(sibling: str, dtype: torch.dtype, channels: int) -> None:
    x, delta, weight, bias = example(11, channels, dtype)
    expected = run(sibling, x, delta, weight, bias)
    assert all(torch.equal(one, two) for one, two in zip(run(sibling, x, delta, weight, bias), expected, strict=True))
    x[1, 5], delta[4, 310], x[7, 3], x[7, 4] = float("nan"), float("-inf"), float("inf"), float("-inf")
    x[9], delta[9] = torch.finfo(dtype).max, torch.finfo(dtype).max  # the sum overflows to infinity
    found = run(sibling, x, delta, weight, bias)
    bad = [1, 4, 7, 9]
    assert found[1][bad].isnan().all()
    torch.testing.assert_close(found[0], x + delta, rtol=0, atol=0, equal_nan=True)
    good = [row for row in range(11) if row not in bad]
    assert all(torch.equal(one[good], two[good]) for one, two in zip(found, expected, strict=True))


@each_sibling
@each_dtype
def test_constant_rows_use_eps(sibling: str, dtype: torch.dtype) -> None:
    x, delta, weight, bias = example(2, 256, dtype)
    x[:], delta[:] = 3, 0.5
    x[1, :128] += 1
    for eps in (EPS, 2.0):
        _, normalised = run(sibling, x, delta, weight, bias, eps)
        exact = F.layer_norm(x.double() + delta.double(), (256,), weight.double(), bias.double(), eps)
        close = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(normalised.double(), exact, rtol=close, atol=close)


@each_sibling
@each_dtype
@pytest.mark.parametrize("shape", [(0, 256), (2, 0, 3, 256), (1, 3, 5, 256), (1, 3, 5, 96), (15, 264)])
def test_any_shape_writes_only_its_own_memory(sibling: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    given = example(15, shape[-1], dtype)
    size = torch.Size(shape).numel()
    expected = run(sibling, *given)
    memory = torch.full((2, 16 + size + 16), 77, dtype=dtype)
    inner = [row[16 : 16 + size].view(shape) for row in memory]
    for view, values in zip(inner, given, strict=False):
        view.copy_(values.flatten()[:size].view(shape))
    kept = [tensor.clone() for tensor in given[2:]]
    ops.siblings("add_norm_into")[sibling](*inner, *given[2:], EPS)
    for view, values in zip(inner, expected, strict=True):
        assert torch.equal(view.flatten(), values.flatten()[:size])
    assert (memory[:, :16] == 77).all() and (memory[:, -16:] == 77).all()
    assert all(torch.equal(one, two) for one, two in zip(kept, given[2:], strict=True))


@needs_emulator
@each_dtype
def test_kernel_is_called_only_for_supported_rows_and_alignment(dtype: torch.dtype) -> None:
    for channels in (8, 96, 256, 384, 504, 768, 1024, 1280, 2048):
        assert called(*example(1, channels, dtype), EPS) == {"add_norm"}
    for channels in (255, 12, 520, 776, 2304):
        assert called(*example(1, channels, dtype), EPS) == set()
    assert called(*example(1, 256, torch.float64), EPS) == set()
    given = example(3, 256, dtype)
    expected = run("reference", *given)
    shifted = [torch.empty(tensor.numel() + 1, dtype=dtype)[1:].view(tensor.shape).copy_(tensor) for tensor in given]
    # Unaligned weights are copied to an aligned address; if tensors to be written are unaligned, PyTorch runs the call.
    assert called(*given[:2], *shifted[2:], EPS) == {"add_norm"}
    torch.testing.assert_close(given[1], expected[1], rtol=2 * torch.finfo(dtype).eps, atol=1e-2)
    assert called(*shifted, EPS) == set()
    assert all(torch.equal(one, two) for one, two in zip(shifted, expected, strict=False))
    with pytest.raises(ValueError, match="no kernel for rows of 2304"):
        emulated.add_norm(0, 0, 0, 0, 0, 1, 2304, EPS, 0)
    with pytest.raises(ValueError, match="multiple of 16"):
        emulated.add_norm(0, 8, 0, 0, 0, 1, 256, EPS, 0)


@needs_emulator
def test_unvalidated_short_rows_fall_back_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "unvalidated_disabled_reason", lambda: "nobody has seen it")
    assert called(*example(3, 96), EPS) == set()
    assert called(*example(3, 256), EPS) == {"add_norm"}


@each_sibling
def test_bad_arguments_raise_value_error(sibling: str) -> None:
    x, delta, weight, bias = example(4, 256)
    call = ops.siblings("add_norm_into")[sibling]
    for wrong, message in (
        ((x.long(), delta, weight, bias), "x must have shape"),
        ((x[0, 0], delta, weight, bias), "x must have shape"),
        ((x, delta[:3], weight, bias), "delta must be"),
        ((x, delta.half(), weight, bias), "delta must be"),
        ((x, delta, weight[:5], bias), "weight must be"),
        ((x, delta, weight, bias.half()), "bias must be"),
        ((x.T.contiguous().T, delta, weight, bias), "must be contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            call(*wrong, EPS)
    # Copying to a GPU would make these contiguous and separate.
    if sibling != ON_GPU:
        with pytest.raises(ValueError, match="must be contiguous"):
            call(x, delta[:1].expand(4, 256), weight, bias, EPS)
        both = torch.cat([x, x])
        for other in (both[:4], both[1:5], both[3:7]):
            with pytest.raises(ValueError, match="overlaps"):
                call(both[:4], other, weight, bias, EPS)
