"""Tests of the attention kernels on a GPU at the models' sizes: errors, CUDA graphs, streams, compiling, encoders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.models import registry
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.vit_block import Attention
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._attention import cuda
from siblings import Calls, carry
from test_attention import example, windowed_example
from test_attention_half import cast

pytestmark = pytest.mark.gpu

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
POSITIONS = [(64, 64, 0, 64), (64, 64, 0, 80), (64, 64, 14, 64), (64, 64, 14, 80), (50, 75, 0, 64), (33, 130, 0, 80)]
DENSE = [(128, 128, 7), (64, 64, 14), (64, 64, 7), (24, 24, 12), (48, 48, 8)]


def worst(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).abs().max())


def error_of(result: Tensor, exact: Tensor) -> float:
    """Return the root mean square error."""
    return float((result.double() - exact).square().mean().sqrt())


def check_error(op: str, arguments: tuple, dtype: torch.dtype) -> None:
    """Assert errors of at most twice PyTorch's on this GPU in the same dtype, without TF32, and no NaN."""
    given = carry(cast(arguments, dtype), "cuda")
    reference = ops.siblings(op)["reference"]
    exact = reference(*cast(given, torch.float64))
    result = ops.siblings(op)["cuda"](*given)
    assert not result.isnan().any()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert worst(result, exact) <= 2 * worst(reference(*given), exact)


@each_dtype
@pytest.mark.parametrize(("height", "width", "window", "dim"), POSITIONS)
def test_errors_with_relative_positions(dtype, height, width, window, dim, monkeypatch):
    monkeypatch.setattr(cuda, "has_wgmma", lambda *given: False)  # these kernels are tested below
    check_error("attention", example(height, width, window, dim=dim, heads=4, batch=2), dtype)


@each_dtype
@pytest.mark.parametrize(("height", "width", "window"), DENSE)
def test_errors_with_dense_bias(dtype, height, width, window):
    check_error("windowed_attention", windowed_example(height, width, window, dim=32, heads=5, batch=2), dtype)


def need_wgmma() -> None:
    if not cuda.has_wgmma(_native_cuda.cuda_module, torch.device("cuda")):
        pytest.skip("wgmma is Hopper's alone, and compiled for sm_90a alone")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 80])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 64), (3, 64), (50, 50), (66, 35), (96, 33)])
def test_errors_with_relative_positions_by_wgmma(dtype, dim, height, width):
    need_wgmma()
    arguments = example(height, width, dim=dim, heads=4, batch=2)
    given = carry(cast(arguments, dtype), "cuda")
    assert cuda.should_use_wgmma(_native_cuda.cuda_module, given[0], dim, 0)
    check_error("attention", arguments, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("dim", "heads"), [(64, 12), (80, 16)])
def test_equal_bits_by_wgmma_over_repeats_and_streams(dtype, dim, heads):
    need_wgmma()
    test_equal_bits_over_repeats_and_streams(dtype, "attention", example(64, 64, dim=dim, heads=heads, batch=2))


CALLS = [
    ("attention", example(64, 64, dim=64, heads=12)),
    ("attention", example(64, 64, 14, dim=80, heads=16)),
    ("windowed_attention", windowed_example(64, 64, 7, dim=32, heads=4)),
]
each_call = pytest.mark.parametrize(("op", "arguments"), CALLS)


@each_dtype
@each_call
def test_equal_bits_over_repeats_and_streams(dtype, op, arguments):
    given = carry(cast(arguments, dtype), "cuda")
    run = ops.siblings(op)["cuda"]
    expected = run(*given)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for repeat in range(20):
        with torch.cuda.stream(streams[repeat % 4]):
            results.append(run(*given))
    torch.cuda.synchronize()
    assert all(torch.equal(result, expected) for result in results)


@each_dtype
@each_call
def test_replayed_cuda_graph_uses_new_input(dtype, op, arguments):
    first = carry(cast(arguments, dtype), "cuda")
    second = tuple(value.flip(0) * 0.5 if isinstance(value, Tensor) else value for value in first)
    run = getattr(ops, op)
    expected = run(*second)
    held = tuple(value.clone() if isinstance(value, Tensor) else value for value in first)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(*held)
    for to, value in zip(held, second, strict=True):
        if isinstance(to, Tensor):
            to.copy_(value)
    graph.replay()
    assert torch.equal(result, expected)


class Around(nn.Module):
    """The operation between elementwise operations that PyTorch's compiler may fuse."""

    def forward(self, qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, heads: int, window: int, padding: Tensor):
        return F.gelu(ops.attention(qkv * 0.5, rel_pos_h, rel_pos_w, heads, window, padding)) + 1


@each_dtype
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_module_gives_the_same_result(dtype, backend):
    given = carry(cast(example(20, 33, 14, dim=64, heads=2), dtype), "cuda")
    module = Around()
    with torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(compiled(*given), module(*given), rtol=4 * eps, atol=4 * eps)


@each_dtype
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("window", [0, 14])
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # the compiler suggests TF32 for float32
def test_compiled_encoder_layer_calls_the_kernels(dtype, backend, window):
    layer = Attention(128, 2, use_rel_pos=True, input_size=(window or 20, window or 20)).to("cuda", dtype).eval()
    x = torch.randn(1, 20, 20, 128, device="cuda", dtype=dtype)
    calls = Calls(_native_cuda.cuda_module)
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend=backend)
        compiled(x, window)
        with _native_cuda.use_module(calls):
            result = compiled(x, window)
        assert "attention" in calls.names
        usual = layer(x, window)
        exact = layer.double()(x.double(), window)
    # Operations around the kernels may be fused, and so rounded differently.
    assert error_of(result, exact) <= 2 * error_of(usual, exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("encoder", ["vit", "tiny_vit"])
def test_encoders_are_as_accurate_as_pytorch(dtype, encoder):
    torch.manual_seed(0)
    model: nn.Module = (
        sam_vit(256, 3, 4, (1,), img_size=512) if encoder == "vit" else registry.build("sam_nano").image_encoder
    )
    model = model.cuda().eval()
    size = 512 if encoder == "vit" else 384
    images = torch.randn(2, 3, size, size, device="cuda")
    with torch.no_grad():
        exact = model.double()(images.double())
        model.to(dtype)
        calls = Calls(_native_cuda.cuda_module)
        with _native_cuda.use_module(calls):
            result = model(images.to(dtype))
        assert calls.names >= ({"attention", "add_norm"} if encoder == "vit" else {"windowed_attention", "depthwise"})
    with torch.enable_grad():  # PyTorch runs calls with gradients
        usual = model(images.to(dtype)).detach()
    assert not result.isnan().any()
    assert worst(result, exact) <= 2 * worst(usual, exact)
