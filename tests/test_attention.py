"""Tests every implementation of attention against a plain one in float64: sizes, extreme values, dtypes and threads."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fastsam_core import ops
from siblings import each_sibling_of, fewer

each_sibling = each_sibling_of("attention")


def textbook(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return the attention of q, k and v, (..., N, d) float64 each, with a dense bias (..., N, N)."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
    return scores.softmax(-1) @ v


def windows_of(qkv: Tensor, window: int, padding: Tensor | None) -> list[tuple[slice, slice, Tensor]]:
    """List each window's rows and columns on the grid, and its tokens (B, window, window, C) including padding."""
    height, width = qkv.shape[1:3]
    found = []
    for top, left in itertools.product(range(0, height, window), range(0, width, window)):
        rows, columns = slice(top, min(top + window, height)), slice(left, min(left + window, width))
        tokens = qkv.new_zeros(qkv.shape[0], window, window, qkv.shape[3]) + (0 if padding is None else padding)
        tokens[:, : rows.stop - top, : columns.stop - left] = qkv[:, rows, columns]
        found.append((rows, columns, tokens))
    return found


def plain_attention(qkv, rel_pos_h, rel_pos_w, num_heads, window=0, padding=None):
    qkv, rel_pos_h, rel_pos_w = qkv.double(), rel_pos_h.double(), rel_pos_w.double()
    out = qkv.new_zeros(*qkv.shape[:3], qkv.shape[3] // 3)
    whole = [(slice(None), slice(None), qkv)]
    for rows, columns, tokens in windows_of(qkv, window, padding) if window else whole:
        height, width = tokens.shape[1:3]
        q, k, v = tokens.flatten(1, 2).unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
        y, x = torch.arange(height * width) // width, torch.arange(height * width) % width
        table = rel_pos_h[y[:, None] - y + height - 1] + rel_pos_w[x[:, None] - x + width - 1]  # (N, N, d)
        result = textbook(q, k, v, torch.einsum("bhqd,qkd->bhqk", q, table))
        result = result.transpose(1, 2).flatten(2).unflatten(1, (height, width))
        out[:, rows, columns] = result[:, : out[:, rows].shape[1], : out[:, :, columns].shape[2]]
    return out


def plain_windowed_attention(qkv, bias, window, padding=None):
    qkv = qkv.double()
    out = qkv.new_zeros(*qkv.shape[:3], qkv.shape[3] // 3)
    for rows, columns, tokens in windows_of(qkv, window, padding):
        q, k, v = tokens.flatten(1, 2).unflatten(-1, (bias.shape[0], 3, -1)).permute(3, 0, 2, 1, 4)
        result = textbook(q, k, v, bias.double()).transpose(1, 2).flatten(2).unflatten(1, (window, window))
        out[:, rows, columns] = result[:, : rows.stop - rows.start, : columns.stop - columns.start]
    return out


def example(height, width, window=0, *, dim=16, heads=2, batch=1, scale=1.0, seed=0):
    """Return arguments of `attention`, with a padding vector if the windows need one."""
    generator = torch.Generator().manual_seed(seed)
    channels = 3 * heads * dim
    qkv = torch.randn(batch, height, width, channels, generator=generator) * scale
    tables = [torch.randn(2 * (window or side) - 1, dim, generator=generator) * dim**-0.5 for side in (height, width)]
    padded = window and (height % window or width % window)
    padding = torch.randn(channels, generator=generator) * scale if padded else None
    return qkv, *tables, heads, window, padding


def windowed_example(height, width, window, *, dim=16, heads=2, batch=1, scale=1.0, seed=0):
    """Return arguments of `windowed_attention`."""
    qkv, _, _, _, _, padding = example(height, width, window, dim=dim, heads=heads, batch=batch, scale=scale, seed=seed)
    bias = torch.randn(heads, window**2, window**2, generator=torch.Generator().manual_seed(seed + 1))
    return qkv, bias, window, padding


GRIDS = [
    (1, 1, 0),
    (5, 3, 0),
    (3, 17, 0),
    (14, 14, 0),
    (19, 20, 0),
    (1, 1, 3),
    (5, 3, 3),
    (6, 9, 3),
    (7, 7, 7),
    (16, 9, 7),
    (14, 14, 14),
    (20, 15, 14),
    (2, 3, 14),
]


@each_sibling
@pytest.mark.parametrize(("height", "width", "window"), GRIDS)
@pytest.mark.parametrize("dim", [1, 3, 32, 64])
def test_grids_and_windows_match_float64(sibling, height, width, window, dim):
    arguments = example(height, width, window, dim=dim, batch=2)
    given = ops.siblings("attention")[sibling](*arguments)
    assert given.dtype == torch.float32 and given.is_contiguous()
    torch.testing.assert_close(given.double(), plain_attention(*arguments), rtol=1e-5, atol=2e-5)


@each_sibling
@pytest.mark.parametrize("dim", [1, 3, 16, 32, 64, 80, 96])
@pytest.mark.parametrize("window", [0, 5])
def test_head_dimensions_match_float64(sibling, dim, window):
    arguments = example(8, 10, window, dim=dim, heads=3, seed=dim)
    given = ops.siblings("attention")[sibling](*arguments)
    torch.testing.assert_close(given.double(), plain_attention(*arguments), rtol=1e-5, atol=2e-5)


@each_sibling
@pytest.mark.parametrize(("height", "width", "window"), [grid for grid in GRIDS if grid[2]])
@pytest.mark.parametrize("dim", [3, 32])
def test_windowed_attention_matches_float64(sibling, height, width, window, dim):
    arguments = windowed_example(height, width, window, dim=dim, heads=3, batch=2)
    given = ops.siblings("windowed_attention")[sibling](*arguments)
    torch.testing.assert_close(given.double(), plain_windowed_attention(*arguments), rtol=1e-5, atol=2e-5)


@each_sibling
def test_grid_of_64_columns_matches_reference(sibling):
    # 64 columns on the emulator too, so that a tile of keys is one row of the grid, as in the models.
    arguments = example(fewer(sibling, 64, 5), 64, dim=fewer(sibling, 8, 64), heads=1)
    given = ops.siblings("attention")[sibling](*arguments)
    torch.testing.assert_close(given, ops.siblings("attention")["reference"](*arguments), rtol=1e-5, atol=2e-5)


@each_sibling
@pytest.mark.parametrize("window", [0, 4])
def test_huge_scores_do_not_overflow(sibling, window):
    # exp of any large score overflows. In float32 scores have an absolute error of about 1e-3, so the weights have too.
    qkv, rel_pos_h, rel_pos_w, heads, _, padding = example(9, 8, window, dim=64)
    q, k, v = qkv.chunk(3, dim=-1)
    q, k = (q * 2).round() * 32, (k * 2).round() * 32
    scores = q.flatten(1, 2)[..., :64] @ k.flatten(1, 2)[..., :64].transpose(1, 2) / 8
    assert scores.max() > 1e4 and scores.min() < -1e4
    qkv = torch.cat([q, k, v], dim=-1)
    arguments = (qkv, torch.zeros_like(rel_pos_h), torch.zeros_like(rel_pos_w), heads, window, padding)
    given = ops.siblings("attention")[sibling](*arguments)
    torch.testing.assert_close(given.double(), plain_attention(*arguments), rtol=1e-2, atol=1e-2)


@each_sibling
@pytest.mark.parametrize("value", [1e4, -1e4])
def test_bias_added_to_all_scores_changes_nothing(sibling, value):
    qkv, bias, window, padding = windowed_example(9, 8, 4, dim=32)
    run = ops.siblings("windowed_attention")[sibling]
    torch.testing.assert_close(
        run(qkv, bias + value, window, padding), run(qkv, bias, window, padding), atol=5e-3, rtol=0
    )


@each_sibling
def test_growing_and_shrinking_scores_match_float64(sibling):
    # Scores grow from tile to tile of keys, and in the second round they shrink.
    side, dim = fewer(sibling, (30, 4), (12, 64))
    qkv, rel_pos_h, rel_pos_w, heads, window, padding = example(side, side, dim=dim, heads=1)
    largest = 120 / dim**0.5
    for first, last in ((0, largest), (largest, 0)):
        qkv[..., :dim] = 1.0
        qkv[..., dim : 2 * dim] = torch.linspace(first, last, side**2).view(1, side, side, 1)
        arguments = (qkv, rel_pos_h, rel_pos_w, heads, window, padding)
        given = ops.siblings("attention")[sibling](*arguments)
        torch.testing.assert_close(given.double(), plain_attention(*arguments), rtol=1e-4, atol=1e-4)


# The NaN that GPUs produce has all bits set except the sign.
GPU_NAN = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)


@each_sibling
@pytest.mark.parametrize("value", [torch.nan, GPU_NAN, torch.inf, -torch.inf])
def test_nan_and_infinity_stay_in_their_window_and_head(sibling, value):
    qkv, rel_pos_h, rel_pos_w, heads, window, padding = example(8, 8, 4, dim=64)
    clean = ops.siblings("attention")[sibling](qkv, rel_pos_h, rel_pos_w, heads, window, padding)
    qkv[0, 1, 2, 5] = value  # a query of the first head in the first window
    qkv[0, 1, 3, 5 + 2 * 64] = value  # a key
    given = ops.siblings("attention")[sibling](qkv, rel_pos_h, rel_pos_w, heads, window, padding)
    assert given[0, 1, 2, :64].isnan().all()
    given[:, :4, :4, :64] = clean[:, :4, :4, :64]
    torch.testing.assert_close(given, clean)


@each_sibling
@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_empty_grids_give_empty_results(sibling, shape):
    batch, height, width = shape
    qkv = torch.zeros(batch, height, width, 12)
    assert ops.siblings("windowed_attention")[sibling](qkv, torch.zeros(2, 4, 4), 2).shape == (*shape, 4)
    tables = torch.zeros(3, 2), torch.zeros(3, 2)
    assert ops.siblings("attention")[sibling](qkv, *tables, 2, 2).shape == (*shape, 4)


@each_sibling
@pytest.mark.parametrize("window", [0, 4])
def test_strided_and_unaligned_views(sibling, window):
    qkv, rel_pos_h, rel_pos_w, heads, window, padding = example(6, 10, window, dim=64)
    strided = qkv.transpose(1, 2).contiguous().transpose(1, 2)
    run = ops.siblings("attention")[sibling]
    arguments = (rel_pos_h.T.contiguous().T, rel_pos_w, heads, window, padding)
    expected = run(qkv, rel_pos_h, rel_pos_w, heads, window, padding)
    torch.testing.assert_close(run(strided, *arguments), expected)
    shifted = torch.zeros(qkv.numel() + 1)[1:].view(qkv.shape).copy_(qkv)  # not aligned to vector registers
    torch.testing.assert_close(run(shifted, *arguments), expected)


@each_sibling
def test_bias_of_minus_infinity_gives_no_weight(sibling):
    qkv, bias, window, padding = windowed_example(9, 8, 5, dim=32)
    generator = torch.Generator().manual_seed(3)
    bias[torch.rand(bias.shape, generator=generator) < 0.5] = -torch.inf
    bias[..., 0] = 0.0  # one key is left to each query
    bias[:, 3, 1:] = -torch.inf
    given = ops.siblings("windowed_attention")[sibling](qkv, bias, window, padding)
    expected = plain_windowed_attention(qkv, bias, window, padding)
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=2e-5)


@each_sibling
def test_other_tensors_are_converted_to_the_dtype_of_qkv(sibling):
    qkv, rel_pos_h, rel_pos_w, heads, window, padding = example(6, 10, 4, dim=64)
    run = ops.siblings("attention")[sibling]
    narrow = [tensor.bfloat16() for tensor in (rel_pos_h, rel_pos_w, padding)]
    wide = [tensor.float() for tensor in narrow]
    given = run(qkv, narrow[0], narrow[1].double(), heads, window, narrow[2])
    torch.testing.assert_close(given, run(qkv, wide[0], wide[1], heads, window, wide[2]))
    bias = torch.randn(heads, 16, 16).bfloat16()
    run = ops.siblings("windowed_attention")[sibling]
    torch.testing.assert_close(run(qkv, bias, window, narrow[2]), run(qkv, bias.float(), window, wide[2]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_use_the_reference(dtype):
    arguments = [a.to(dtype) if isinstance(a, Tensor) else a for a in example(6, 10, 4, dim=8)]
    given = ops.attention(*arguments)
    assert given.dtype == dtype
    assert torch.equal(given, ops.siblings("attention")["reference"](*arguments))


@each_sibling
def test_same_bits_over_threads_and_repeats(sibling):
    if not sibling.startswith("cpu"):
        pytest.skip("only the C++ code guarantees equal bits over PyTorch's numbers of threads")
    calls = [
        ("attention", example(20, 23, dim=16, heads=3, batch=2)),
        ("attention", example(20, 33, 7, dim=16, heads=3, batch=2)),
        ("windowed_attention", windowed_example(20, 33, 7, dim=16, heads=3, batch=2)),
    ]
    for op, arguments in calls:
        run = ops.siblings(op)[sibling]
        torch.set_num_threads(1)
        expected = run(*arguments)
        for threads in (2, 4, 1) * 7:
            torch.set_num_threads(threads)
            assert torch.equal(run(*arguments), expected)


QKV, TABLE, BIAS = torch.zeros(1, 4, 6, 24), torch.zeros(7, 4), torch.zeros(2, 4, 4)


@each_sibling
@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("attention", (QKV[0], TABLE, TABLE, 2), "qkv must be"),
        ("attention", (QKV.long(), TABLE, TABLE, 2), "floating point"),
        ("attention", (QKV, TABLE, TABLE, 5), "5 heads"),
        ("attention", (QKV, TABLE, TABLE, 0), "0 heads"),
        ("attention", (QKV, TABLE, TABLE, 2), r"rel_pos_w must have shape \(11, 4\)"),
        ("attention", (QKV, TABLE[:5], TABLE, 2, 4), "rel_pos_h must have shape"),
        ("attention", (QKV[:, :0], TABLE, TABLE, 2), r"rel_pos_h must have shape \(0, 4\)"),
        ("attention", (QKV, TABLE[:, :3], TABLE, 2, 4), "rel_pos_h must have shape"),
        ("attention", (QKV, TABLE.int(), TABLE, 2, 4), "rel_pos_h must be floating"),
        ("attention", (QKV, TABLE, TABLE, 2, -1), "window must be"),
        ("attention", (QKV, TABLE, TABLE, 2, 4), "needs a padding vector"),
        ("attention", (QKV, TABLE, TABLE, 2, 4, torch.zeros(23)), "padding must have shape"),
        ("windowed_attention", (QKV, BIAS, 0), "window must be"),
        ("windowed_attention", (QKV, BIAS, 3), r"bias must have shape \(heads, 9, 9\)"),
        ("windowed_attention", (QKV, BIAS[0], 2), "bias must have shape"),
        ("windowed_attention", (QKV, torch.zeros(5, 4, 4), 2), "5 heads"),
        ("windowed_attention", (QKV[:, :3], BIAS, 2), "needs a padding vector"),
        ("windowed_attention", (QKV[:, :3], BIAS, 2, torch.zeros(24, 1)), "padding must have shape"),
    ],
)
def test_wrong_arguments_raise_value_error(sibling, op, arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.siblings(op)[sibling](*arguments)


def test_devices_must_agree():
    with pytest.raises(ValueError, match="move one of them"):
        ops.windowed_attention(QKV.to("meta"), BIAS, 2)
