"""Tests every implementation of the channels-last convolutions against `F.conv2d`, at sizes that are mostly border."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._conv import cuda
from siblings import EMULATED, NAMES, Calls, each_sibling, each_sibling_of, emulated, names_of, use_sibling

NATIVE = [name for name in NAMES if name != "reference"]
# (height, width): a single pixel, smaller than the kernel window, no multiples of any tile.
SIZES = [(1, 1), (2, 3), (7, 5), (12, 33)]

each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def mbconv_arguments(size: tuple[int, int], channels: int, hidden: int, out: int, batch: int = 2) -> list[Tensor]:
    return [
        random(batch, *size, channels),
        random(hidden, channels, seed=1) / channels**0.5,
        random(hidden, seed=2),
        random(hidden, 3, 3, seed=3) / 3,
        random(hidden, seed=4),
        random(out, hidden, seed=5) / hidden**0.5,
        random(out, seed=6),
    ]


def stem_arguments(size: tuple[int, int], hidden: int = 5, out: int = 18, channels: int = 3) -> list[Tensor]:
    return [
        random(2, channels, *size),
        random(hidden, channels, 3, 3, seed=1) / 5,
        random(hidden, seed=2),
        random(out, hidden, 3, 3, seed=3) / 5,
        random(out, seed=4),
    ]


def plain(x: Tensor, weight: Tensor, bias: Tensor, stride: int, gelu: bool, groups: int = 1) -> Tensor:
    """Compute the convolution in float64, so that differences are the sibling's rounding alone."""
    out = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias.double(), stride, 1, groups=groups)
    return (F.gelu(out) if gelu else out).permute(0, 2, 3, 1)


def plain_mbconv(
    x: Tensor, expand: Tensor, b1: Tensor, mix: Tensor, b2: Tensor, project: Tensor, b3: Tensor, stride: int, same: bool
) -> Tensor:
    wide = F.gelu(F.linear(x.double(), expand.double(), b1.double()))
    wide = plain(wide, mix[:, None], b2, stride, True, groups=mix.shape[0])
    out = F.linear(wide, project.double(), b3.double())
    return F.gelu(out + x) if same else out


def close(given: Tensor, expected: Tensor) -> None:
    assert given.dtype == torch.float32 and given.is_contiguous()
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=2e-5)


@each_sibling
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "out"), [(1, 1), (3, 17), (16, 33), (70, 40)])
def test_conv3x3_matches_float64(monkeypatch, sibling, size, channels, out, stride):
    use_sibling(monkeypatch, sibling)
    x, weight, bias = random(2, *size, channels), random(out, channels, 3, 3) / channels**0.5, random(out, seed=1)
    for gelu in (False, True):
        close(ops.conv3x3(x, weight, bias, stride, gelu), plain(x, weight, bias, stride, gelu))


@each_sibling
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 15, 16, 37])
def test_depthwise3x3_matches_float64(monkeypatch, sibling, size, channels, stride):
    use_sibling(monkeypatch, sibling)
    x, weight, bias = random(2, *size, channels), random(channels, 3, 3), random(channels, seed=1)
    for gelu in (False, True):
        expected = plain(x, weight[:, None], bias, stride, gelu, groups=channels)
        close(ops.depthwise3x3(x, weight, bias, stride, gelu), expected)
        expected = plain(x.double() + 3 * bias, weight[:, None], bias, stride, gelu, groups=channels)
        close(ops.depthwise3x3(x, weight, bias, stride, gelu, 3 * bias), expected)


def depthwise_arguments(size: tuple[int, int], channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    given = random(2, *size, channels), random(3, 3, channels), random(channels, seed=1)
    x, weight, bias = (tensor.to(dtype) for tensor in given)
    return x, weight.permute(2, 0, 1), bias  # channels last in memory, as the kernel reads it


@each_sibling_of("depthwise3x3")
@each_half
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [*SIZES, (3, 150)])
@pytest.mark.parametrize("channels", [8, 40, 136])
def test_depthwise3x3_has_small_errors_in_half_precision(sibling, size, channels, stride, dtype):
    x, weight, bias = depthwise_arguments(size, channels, dtype)
    kept = x.clone()
    for gelu in (False, True):
        exact = plain(x, weight[:, None], bias, stride, gelu, groups=channels)
        usual = ops.siblings("depthwise3x3")["reference"](x, weight, bias, stride, gelu)
        for given in (weight, weight.contiguous()):
            result = ops.siblings("depthwise3x3")[sibling](x, given, bias, stride, gelu)
            assert result.dtype == dtype and result.is_contiguous() and result.shape == exact.shape
            # Root mean squares, because single values may differ by one rounding.
            error, others = ((one.double() - exact).square().mean().sqrt() for one in (result, usual))
            assert 0 < error <= 2 * others
    assert torch.equal(x, kept)


@each_sibling_of("depthwise3x3")
@each_half
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [16, 72])
def test_depthwise3x3_with_shift_has_small_errors(sibling, size, channels, stride, dtype):
    x, weight, bias = depthwise_arguments(size, channels, dtype)
    kept, shift = x.clone(), random(channels, seed=7).to(dtype)
    for gelu in (False, True):
        exact = plain(x.double() + shift.double(), weight[:, None], bias, stride, gelu, groups=channels)
        usual = ops.siblings("depthwise3x3")["reference"](x + shift, weight, bias, stride, gelu)
        result = ops.siblings("depthwise3x3")[sibling](x, weight, bias, stride, gelu, shift)
        error, others = ((one.double() - exact).square().mean().sqrt() for one in (result, usual))
        assert 0 < error <= 2 * others
    assert torch.equal(x, kept)


@each_sibling_of("depthwise3x3")
@each_half
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise3x3_reads_only_its_window(sibling, dtype, stride):
    x, weight, bias = depthwise_arguments((7, 9), 16, dtype)
    run = ops.siblings("depthwise3x3")[sibling]
    clean = run(x, weight, bias, stride, False)
    x[0, 4, 4, 10] = torch.nan
    dirty = run(x, weight, bias, stride, False)
    seen = torch.zeros_like(dirty, dtype=torch.bool)
    places = [i for i in range(9) if abs(i * stride - 4) <= 1]
    seen[0, places[0] : places[-1] + 1, places[0] : places[-1] + 1, 10] = True
    assert torch.equal(dirty.isnan(), seen) and torch.equal(dirty[~seen], clean[~seen])
    assert run(x[:0], weight, bias, stride, True).shape == (0, *clean.shape[1:])
    zero = torch.zeros_like(x)
    assert torch.equal(run(zero, weight, bias, stride, False), bias.expand(clean.shape))


@pytest.mark.gpu
@each_half
@pytest.mark.parametrize(
    ("side", "channels", "stride"), [(256, 256, 1), (128, 192, 1), (128, 96, 2), (64, 96, 1), (64, 320, 1)]
)
def test_depthwise3x3_on_gpu_at_sizes_of_the_models(side, channels, stride, dtype):
    x, weight, bias = (tensor.cuda() for tensor in depthwise_arguments((side, side), channels, dtype))
    for gelu, shift in ((True, None), (False, bias)):
        exact = plain(x if shift is None else x.double() + shift, weight[:, None], bias, stride, gelu, groups=channels)
        usual = ops.siblings("depthwise3x3")["reference"](x, weight, bias, stride, gelu, shift)
        with torch.no_grad():
            result = ops.depthwise3x3(x, weight, bias, stride, gelu, shift)
        error, others = ((one.double() - exact).square().mean().sqrt() for one in (result, usual))
        assert 0 < error <= 2 * others


def called(*given: Any) -> set[str]:
    """Return {"depthwise"} if this call of depthwise3x3 uses the kernel, else an empty set."""
    calls = Calls(emulated)
    _native_cuda.bind_module(calls, cuda.depthwise3x3)(*given)
    return calls.names & {"depthwise"}


@pytest.mark.skipif(EMULATED not in names_of("depthwise3x3"), reason="the compiled operations are off")
@each_half
def test_depthwise_kernel_arguments(dtype):
    x, weight, bias = depthwise_arguments((6, 5), 24, dtype)
    assert called(x, weight, bias) == {"depthwise"}
    assert called(*depthwise_arguments((6, 5), 20, dtype)) == set()
    for other in (torch.float32, torch.float64):
        assert called(x.to(other), weight.to(other), bias.to(other)) == set()
    run = ops.siblings("depthwise3x3")[EMULATED]
    expected = run(x, weight, bias, 2, True)
    # Tensors that aren't aligned to 16 bytes, or aren't contiguous, are copied first.
    shifted = [
        torch.empty(tensor.numel() + 1, dtype=dtype)[1:].view(tensor.shape).copy_(tensor) for tensor in (x, bias)
    ]
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    for one, two in ((shifted[0], shifted[1]), (strided, bias)):
        assert torch.equal(run(one, weight, two, 2, True), expected)
    with pytest.raises(ValueError, match="float16 and bfloat16 alone"):
        emulated.depthwise(0, 0, 0, 0, 0, 0, 1, 1, 1, 8, 1, False, 0)
    for wrong, message in (
        ((1, 0, 0, 0, 0, 8, 1, 1, 1, 8, 1), "multiple of 16"),
        ((1, 0, 0, 0, 0, 0, 1, 1, 1, 9, 1), "multiple of 8"),
        ((1, 0, 0, 0, 0, 0, 1, 0, 1, 8, 1), "positive"),
        ((1, 0, 0, 0, 0, 0, 1, 1, 1, 8, 3), "stride"),
        ((1, 0, 0, 0, 0, 0, 1, 1, 1 << 29, 64, 1), "too long"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.depthwise(*wrong, False, 0)


@each_sibling
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "hidden", "out"), [(1, 1, 1), (3, 7, 5), (16, 64, 16), (19, 33, 34)])
def test_mbconv_matches_float64(monkeypatch, sibling, size, channels, hidden, out, stride):
    use_sibling(monkeypatch, sibling)
    arguments = mbconv_arguments(size, channels, hidden, out)
    close(ops.mbconv(*arguments, stride), plain_mbconv(*arguments, stride, False))
    if stride == 1:
        arguments = mbconv_arguments(size, channels, hidden, channels)
        close(ops.mbconv(*arguments, residual=True), plain_mbconv(*arguments, 1, True))


@each_sibling
@pytest.mark.parametrize("size", [*SIZES, (4, 4), (16, 130)])
def test_conv_stem_matches_float64(monkeypatch, sibling, size):
    use_sibling(monkeypatch, sibling)
    images, first, b1, second, b2 = stem_arguments(size)
    expected = plain(plain(images.permute(0, 2, 3, 1), first, b1, 2, True), second, b2, 2, False)
    close(ops.conv_stem(images, first, b1, second, b2), expected)


@each_sibling
def test_wide_rows_and_many_channels(monkeypatch, sibling):
    """Rows and channels are so many that kernels process them in several strips and partial sums.

    The second image's first strip follows the last one of the first, which has no border on its left.
    """
    use_sibling(monkeypatch, sibling)
    arguments = mbconv_arguments((3, 150), 8, 256, 8)
    close(ops.mbconv(*arguments, residual=True), plain_mbconv(*arguments, 1, True))
    close(ops.mbconv(*arguments, 2), plain_mbconv(*arguments, 2, False))
    for out in (30, 900):
        arguments = mbconv_arguments((3, 20), 400, 410, out, batch=1)
        close(ops.mbconv(*arguments), plain_mbconv(*arguments, 1, False))
    x, weight, bias = random(2, 4, 40, 300), random(24, 300, 3, 3) / 50, random(24, seed=1)
    close(ops.conv3x3(x, weight, bias, 1, True), plain(x, weight, bias, 1, True))
    x, weight, bias = random(1, 2, 40, 50), random(1024, 50, 3, 3) / 50, random(1024, seed=1)
    close(ops.conv3x3(x, weight, bias, 1, True), plain(x, weight, bias, 1, True))
    x, weight, bias = random(2, 3, 90, 600), random(600, 3, 3), random(600, seed=1)
    close(ops.depthwise3x3(x, weight, bias, 2), plain(x, weight[:, None], bias, 2, False, groups=600))


@pytest.mark.parametrize("sibling", NATIVE)
def test_strided_mbconv_has_same_bits_over_threads(sibling):
    given = mbconv_arguments((61, 45), 32, 129, 32)
    results = []
    for n in (1, 2, 4, 7):
        torch.set_num_threads(n)
        results.append(ops.siblings("mbconv")[sibling](*given, 2))
    assert all(torch.equal(result, results[0]) for result in results)


@each_sibling
def test_strided_inputs_and_empty_batches(monkeypatch, sibling):
    use_sibling(monkeypatch, sibling)
    x = random(2, 6, 5, 9).permute(0, 2, 3, 1)  # (2, 5, 9, 6), channels first in memory
    weight, bias = random(4, 6, 3, 3).flip(0), random(8)[::2]
    close(ops.conv3x3(x, weight, bias), plain(x, weight, bias, 1, False))
    assert ops.conv3x3(x[:0], weight, bias, 2).shape == (0, 3, 5, 4)


@each_sibling
def test_nan_stays_in_its_window(monkeypatch, sibling):
    use_sibling(monkeypatch, sibling)
    arguments = mbconv_arguments((9, 9), 6, 20, 6, batch=1)
    clean = ops.mbconv(*arguments)
    arguments[0][0, 4, 4, 2] = torch.nan
    dirty = ops.mbconv(*arguments)
    far = torch.ones(9, 9, dtype=torch.bool)
    far[3:6, 3:6] = False
    assert torch.equal(dirty[0][far], clean[0][far])


@each_sibling
def test_float64_uses_pytorch(monkeypatch, sibling):
    use_sibling(monkeypatch, sibling)
    arguments = [tensor.double() for tensor in mbconv_arguments((5, 4), 6, 20, 6)]
    result = ops.mbconv(*arguments, residual=True)
    torch.testing.assert_close(result, plain_mbconv(*arguments, 1, True))


@each_sibling
@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("conv3x3", {0: random(4, 4, 3)}, r"\(B, H, W, C\)"),
        ("conv3x3", {0: random(1, 4, 4, 0)}, "at least one pixel and channel"),
        ("conv3x3", {0: random(1, 0, 4, 3)}, "at least one pixel and channel"),
        ("conv3x3", {0: torch.ones(1, 4, 4, 3, dtype=torch.int64)}, "floating-point"),
        ("conv3x3", {1: random(2, 4, 3, 3)}, r"weight must have shape \(n, 3, 3, 3\)"),
        ("conv3x3", {1: random(2, 3, 5, 5)}, "weight must have shape"),
        ("conv3x3", {1: random(0, 3, 3, 3), 2: random(0)}, "weight must have shape"),
        ("conv3x3", {2: random(3)}, r"bias must have shape \(2\)"),
        ("conv3x3", {2: random(2).double()}, "must be the same"),
        ("conv3x3", {3: 3}, "stride must be 1 or 2; got 3"),
        ("depthwise3x3", {1: random(4, 3, 3)}, r"weight must have shape \(3, 3, 3\)"),
        ("depthwise3x3", {2: random(4)}, "bias must have shape"),
        ("depthwise3x3", {3: 0}, "stride must be"),
        ("depthwise3x3", {5: random(4)}, "shift must have shape"),
        ("conv_stem", {0: random(1, 4, 8, 8)}, "first_weight must have shape"),
        ("conv_stem", {3: random(18, 4, 3, 3)}, "second_weight must have shape"),
        ("conv_stem", {4: random(1)}, "second_bias must have shape"),
        ("mbconv", {1: random(8, 5)}, "expand_weight must have shape"),
        ("mbconv", {2: random(9)}, "expand_bias must have shape"),
        ("mbconv", {3: random(9, 3, 3)}, "depthwise_weight must have shape"),
        ("mbconv", {4: random(9)}, "depthwise_bias must have shape"),
        ("mbconv", {5: random(3, 9)}, "project_weight must have shape"),
        ("mbconv", {6: random(4)}, "project_bias must have shape"),
        ("mbconv", {7: 2, 8: True}, "a residual needs stride 1"),
    ],
)
def test_malformed_arguments_are_refused(monkeypatch, sibling, op, change, message):
    use_sibling(monkeypatch, sibling)
    good: list[Any] = {
        "conv3x3": [random(1, 4, 4, 3), random(2, 3, 3, 3), random(2), 1, False],
        "depthwise3x3": [random(1, 4, 4, 3), random(3, 3, 3), random(3), 1, False, None],
        "conv_stem": stem_arguments((8, 8)),
        "mbconv": [*mbconv_arguments((4, 4), 3, 8, 3), 1, False],
    }[op]
    getattr(ops, op)(*good)
    for index, value in change.items():
        good[index] = value
    with pytest.raises(ValueError, match=message):
        getattr(ops, op)(*good)


def test_defaults_are_stride_1_without_gelu_and_residual():
    generator = torch.Generator().manual_seed(0)

    def make(*shape):
        return torch.randn(shape, generator=generator)

    x, bias = make(1, 5, 6, 4), make(4)
    hidden = make(8, 4), make(8), make(8, 3, 3), make(8), make(4, 8), make(4)
    for op, weights in ((ops.conv3x3, (make(4, 4, 3, 3), bias)), (ops.depthwise3x3, (make(4, 3, 3), bias))):
        assert torch.equal(op(x, *weights), op(x, *weights, 1, False))
    assert torch.equal(ops.mbconv(x, *hidden), ops.mbconv(x, *hidden, 1, False))
