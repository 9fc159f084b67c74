"""Tests of `linear` and `mlp` on every sibling against float64: sizes, memory layouts, dtypes, invalid arguments."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.ops._native import cpu_module
from siblings import NAMES, each_sibling

NATIVE = [name for name in NAMES if name != "reference"]
needs_native = pytest.mark.skipif(cpu_module is None, reason="no native operations")


def make(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale


def arguments(m: int, n: int, k: int, activation: str = "none", norm: bool = False, residual: bool = False) -> tuple:
    return (
        make(m, k),
        make(n, k, seed=1, scale=k**-0.5),
        make(n, seed=2),
        activation,
        make(k, seed=3) if norm else None,
        make(k, seed=4) if norm else None,
        1e-6,
        make(m, n, seed=5) if residual else None,
    )


def exact(x, weight, bias, activation, norm_weight, norm_bias, eps, residual):
    """Compute `linear` in float64, step by step."""
    x, weight = x.double(), weight.double()
    if norm_weight is not None:
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * norm_weight.double() + norm_bias.double()
    y = x @ weight.T + (0 if bias is None else bias.double())
    y = {"none": y, "gelu": F.gelu(y), "relu": y.clamp(min=0)}[activation]
    return y if residual is None else y + residual.double()


def close(given, wanted):
    torch.testing.assert_close(given.double(), wanted, rtol=1e-5, atol=1e-5)


# Rows: none, too few to pack, enough to pack, blocks with and without a remainder. K: one, less than a register, with
# remainders, one part and several. N: one, less and more than a panel.
SIZES = [
    *((m, 20, 13) for m in (0, 1, 5, 7, 32, 33, 37, 108, 109, 230)),
    *((m, n, 40) for m in (6, 50) for n in (1, 3, 15, 16, 17, 31, 33, 130)),
    *((m, 35, k) for m in (5, 61) for k in (1, 2, 7, 8, 9, 383, 384, 385, 769, 1537)),
    (40, 300, 1600),
]


@each_sibling
@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_any_size_equals_float64(sibling, m, n, k):
    linear = ops.siblings("linear")[sibling]
    given = arguments(m, n, k)
    y = linear(*given)
    assert y.shape == (m, n) and y.dtype == torch.float32 and y.is_contiguous()
    close(y, exact(*given))


@each_sibling
@pytest.mark.parametrize("m", [4, 45])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
def test_activation_norm_residual_and_bias_equal_float64(sibling, m, activation, norm, residual):
    given = arguments(m, 37, 50, activation, norm, residual)
    close(ops.siblings("linear")[sibling](*given), exact(*given))
    without_bias = (*given[:2], None, *given[3:])
    close(ops.siblings("linear")[sibling](*without_bias), exact(*without_bias))


@each_sibling
@pytest.mark.parametrize("m", [3, 41])
def test_strided_inputs_and_outputs(sibling, m):
    linear, linear_into = ops.siblings("linear")[sibling], ops.siblings("linear_into")[sibling]
    x, weight, bias, *rest = arguments(m, 24, 30, "gelu", True, True)
    wanted = exact(x, weight, bias, *rest)
    wide = torch.full((m, 77), torch.nan)
    wide[:, 5:35] = x
    close(linear(wide[:, 5:35], weight, bias, *rest), wanted)  # strided rows
    close(linear(x.T.contiguous().T, weight.T.contiguous().T, bias, *rest), wanted)  # column-major
    close(linear(x[None, :, None], weight, bias, *rest[:-1], rest[-1][None, :, None])[0, :, 0], wanted)
    close(linear(x[:1].expand(m, 30), weight, bias, *rest), exact(x[:1].expand(m, 30), weight, bias, *rest))
    out = torch.full((m, 60), torch.nan)
    linear_into(out[:, 7:31], x, weight, bias, *rest)
    close(out[:, 7:31], wanted)
    assert out[:, :7].isnan().all() and out[:, 31:].isnan().all()
    in_place = rest[-1].clone()
    linear_into(in_place, x, weight, bias, *rest[:-1], in_place)
    close(in_place, wanted)


def mlp_arguments(m: int, k: int, hidden: int) -> tuple:
    return (
        make(m, k),
        make(k, seed=1),
        make(k, seed=2),
        1e-6,
        make(hidden, k, seed=3, scale=k**-0.5),
        make(hidden, seed=4),
        make(k, hidden, seed=5, scale=hidden**-0.5),
        make(k, seed=6),
    )


@each_sibling
@pytest.mark.parametrize(("m", "k", "hidden"), [(0, 8, 9), (1, 1, 1), (7, 20, 33), (50, 17, 70), (230, 48, 1600)])
def test_mlp_equals_float64(sibling, m, k, hidden):
    x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2 = given = mlp_arguments(m, k, hidden)
    middle = exact(x, weight1, bias1, "gelu", norm_weight, norm_bias, eps, None)
    wanted = x.double() + middle @ weight2.double().T + bias2.double()
    close(ops.siblings("mlp")[sibling](*given), wanted)
    out = torch.full((m, k + 3), torch.nan)
    ops.siblings("mlp_into")[sibling](out[:, 2 : k + 2], *given)
    close(out[:, 2 : k + 2], wanted)
    assert out[:, :2].isnan().all() and out[:, k + 2 :].isnan().all()
    in_place = x.clone()
    ops.siblings("mlp_into")[sibling](in_place, in_place, *given[1:])
    close(in_place, wanted)


@needs_native
@pytest.mark.parametrize("sibling", NATIVE)
@pytest.mark.parametrize("m", [20, 500])
def test_equal_bits_over_repeats_and_threads(sibling, m):
    given, mlp_given = arguments(m, 200, 500, "gelu", True, True), mlp_arguments(m, 130, 400)
    results = []
    for threads in [1, 2, 4, 7] + [2] * 16:
        torch.set_num_threads(threads)
        results.append((ops.siblings("linear")[sibling](*given), ops.siblings("mlp")[sibling](*mlp_given)))
    assert all(torch.equal(a, results[0][0]) and torch.equal(b, results[0][1]) for a, b in results)


@each_sibling
def test_other_dtypes_fall_back_to_pytorch(sibling):
    for dtype in (torch.float64, torch.bfloat16):
        given = [value.to(dtype) if isinstance(value, torch.Tensor) else value for value in arguments(9, 5, 6)]
        y = ops.siblings("linear")[sibling](*given)
        assert y.dtype == dtype
        assert torch.equal(y, F.linear(*given[:3]))
        out = torch.empty_like(y)
        ops.siblings("linear_into")[sibling](out, *given)
        assert torch.equal(y, out)
        given = [value.to(dtype) if isinstance(value, torch.Tensor) else value for value in mlp_arguments(9, 5, 6)]
        y = ops.siblings("mlp")[sibling](*given)
        out = given[0].clone()
        ops.siblings("mlp_into")[sibling](out, out, *given[1:])
        assert y.dtype == dtype and torch.equal(y, out)


@each_sibling
def test_nan_and_infinity_stay_in_their_row(sibling):
    for m in (8, 60):
        given = arguments(m, 40, 30, "gelu", True)
        clean = ops.siblings("linear")[sibling](*given)
        given[0][3, 7] = torch.nan
        given[0][5, 0] = torch.inf
        y = ops.siblings("linear")[sibling](*given)
        others = [row for row in range(m) if row not in (3, 5)]
        assert torch.equal(y[others], clean[others])


@each_sibling
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: make(4, 9)}, r"weight must have shape \(N, K\)"),
        ({0: torch.ones(4, 6, dtype=torch.int64)}, "floating dtype"),
        ({0: make(4, 0), 1: make(5, 0)}, "weight must have shape"),
        ({1: make(5, 6, 1)}, "weight must have shape"),
        ({1: make(5, 6).double()}, "weight must be torch.float32"),
        ({2: make(6)}, "bias must have shape"),
        ({2: make(5).half()}, "bias must be torch.float32 on cpu"),
        ({3: "tanh"}, "activation must be one of none, gelu, relu"),
        ({4: make(6)}, "belong together"),
        ({4: make(6), 5: make(5)}, "norm_bias must have shape"),
        ({7: make(5, 4)}, "residual must have shape"),
    ],
)
def test_invalid_arguments_are_refused(sibling, change, message):
    given = [change.get(i, value) for i, value in enumerate(arguments(4, 5, 6))]
    with pytest.raises(ValueError, match=message):
        ops.siblings("linear")[sibling](*given)


@each_sibling
def test_invalid_or_overlapping_outputs_are_refused(sibling):
    linear_into, mlp_into = ops.siblings("linear_into")[sibling], ops.siblings("mlp_into")[sibling]
    given = arguments(4, 6, 6)
    for out in (make(4, 5), make(6, 4).T, make(1, 6).expand(4, 6)):
        with pytest.raises(ValueError, match=r"^(out|the rows of out) must"):
            linear_into(out, *given)
    for out in (given[0], given[1][:4], given[0].view(-1)[:24].view(4, 6)):
        with pytest.raises(ValueError, match="overlaps"):
            linear_into(out, *given)
    both = make(5, 6)
    with pytest.raises(ValueError, match="overlaps"):
        linear_into(both[1:], *given[:-1], both[:-1])
    given = mlp_arguments(4, 6, 6)
    with pytest.raises(ValueError, match="overlaps"):
        mlp_into(given[4][:4], *given)
    with pytest.raises(ValueError, match="weight2 must have shape"):
        mlp_into(make(4, 6), *given[:6], make(6, 7), given[7])
    with pytest.raises(ValueError, match="bias2 must have shape"):
        ops.siblings("mlp")[sibling](*given[:7], make(7))


@needs_native
def test_native_module_checks_sizes_itself():
    x, w, b = make(4, 6).numpy(), make(5, 6).numpy(), make(5).numpy()
    out = make(4, 5).numpy()
    good = [x, w, b, 0, None, None, 1e-6, None, out, 1]
    cpu_module.linear(*good)
    read_only = out.copy()
    read_only.flags.writeable = False
    for place, wrong in [
        (0, x[:, :5]),
        (0, x[:, ::-1]),
        (0, x[0]),
        (1, w.T),
        (2, b[:4]),
        (3, 3),
        (3, -1),
        (4, x[0]),
        (7, out[:3]),
        (8, out[:3]),
        (8, out.T.copy().T),
        (8, read_only),
    ]:
        with pytest.raises(ValueError):
            cpu_module.linear(*[wrong if i == place else value for i, value in enumerate(good)])
    with pytest.raises(TypeError):
        cpu_module.linear(x.astype("float64"), *good[1:])
    h1, h2 = make(9, 6).numpy(), make(6, 9).numpy()
    good = [x, x[0], x[1], 1e-6, h1, make(9).numpy(), h2, make(6).numpy(), make(4, 6).numpy(), 2]
    cpu_module.mlp(*good)
    for place, wrong in [(0, out), (1, b), (4, h2), (5, b), (6, h1), (7, b), (8, out)]:
        with pytest.raises(ValueError):
            cpu_module.mlp(*[wrong if i == place else value for i, value in enumerate(good)])


def test_results_written_to_a_tensor_equal_those_returned_and_epsilon_is_1e_6_by_default():
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(shape, generator=generator)

    x, weight, norm = numbers(3, 5) * 1e-3, numbers(4, 5), (numbers(5), numbers(5))
    expected, out = ops.linear(x, weight, None, "none", *norm, 1e-6), torch.empty(3, 4)
    assert torch.equal(ops.linear(x, weight, norm_weight=norm[0], norm_bias=norm[1]), expected)
    ops.linear_into(out, x, weight, norm_weight=norm[0], norm_bias=norm[1])
    assert torch.equal(out, expected)
    hidden, out = (numbers(7, 5), numbers(7), numbers(5, 7), numbers(5)), torch.empty(3, 5)
    ops.mlp_into(out, x, *norm, 1e-6, *hidden)
    assert torch.equal(out, ops.mlp(x, *norm, 1e-6, *hidden))
