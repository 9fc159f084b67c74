"""Tests of when encoders use the CUDA kernels, and of the accuracy of encoders that do. No GPU is needed.

Fake tensors that claim to be on a GPU show what is called; the emulator computes results on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastsam_core import ops
from fastsam_core.models import image_encoder, native, tiny_vit, vit_block
from fastsam_core.models.image_encoder import ImageEncoderViT, sam_vit
from fastsam_core.models.native import can_use_cuda_kernels
from fastsam_core.models.tiny_vit import TinyViT
from fastsam_core.ops._native import cpu_module
from siblings import EMULATED

ENCODERS: dict[str, tuple[str, Callable[[], nn.Module], int]] = {
    "vit": ("attention", lambda: sam_vit(128, 3, 2, (1,), img_size=192, window_size=5, out_chans=8), 192),
    "tiny_vit": (
        "windowed_attention",
        lambda: TinyViT((32, 64, 64, 64), (1, 2, 1, 1), (1, 2, 2, 2), (7, 7, 5, 4), out_channels=8),
        96,
    ),
}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make models believe that the CUDA kernels are in use."""
    monkeypatch.setattr(native, "cuda_module", ModuleType("_cuda"))


def on_gpu(dtype: torch.dtype) -> Tensor:
    """Return a fake tensor that claims to be on a GPU."""
    with FakeTensorMode():
        return torch.empty(2, device="cuda", dtype=dtype)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gpu_tensors_go_to_the_kernels(dtype):
    with torch.no_grad():
        assert can_use_cuda_kernels(on_gpu(dtype), on_gpu(torch.float32))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert can_use_cuda_kernels(on_gpu(dtype))


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_kernels_are_not_used_for_gradients_export_or_other_dtypes(monkeypatch):
    tensor = on_gpu(torch.float16)
    assert can_use_cuda_kernels(tensor)
    assert not can_use_cuda_kernels(tensor, on_gpu(torch.float64))
    assert not can_use_cuda_kernels(tensor, torch.empty(2))
    with torch.enable_grad():
        assert not can_use_cuda_kernels(tensor)
    for part, reason in ((native, "_is_exporting"), (torch.jit, "is_tracing")):
        with monkeypatch.context() as patch:
            patch.setattr(part, reason, lambda: True)
            assert not can_use_cuda_kernels(tensor)
    with monkeypatch.context() as patch:
        patch.setattr(native, "cuda_module", None)
        assert not can_use_cuda_kernels(tensor)
    assert can_use_cuda_kernels(tensor)


class AddOneUnlessExporting(nn.Module):
    """Returns x + 1, or x while being exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone() if native._is_exporting() else x + 1


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this PyTorch doesn't say what it traces for")
def test_compiling_is_not_mistaken_for_exporting():
    """Before PyTorch 2.13, `torch.compiler.is_exporting` is also true while compiling."""
    x, module = torch.zeros(1), AddOneUnlessExporting()
    torch._dynamo.reset()
    assert module(x) == torch.compile(module, backend="eager", fullgraph=True)(x) == 1
    assert torch.export.export(module, (x,), strict=False).module()(x) == 0


@pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off")
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_encoder_on_kernels_is_as_accurate_as_pytorch(monkeypatch, encoder, dtype):
    op, build, size = ENCODERS[encoder]
    torch.manual_seed(0)
    model = build().eval()
    for name, parameter in model.named_parameters():
        if "rel_pos" in name or "attention_biases" in name:
            nn.init.normal_(parameter)
    images = torch.randn(1, 3, size, size)
    exact = model.double()(images.double())
    model.to(dtype)
    usual = model(images.to(dtype))
    # Let CPU tensors take the path of GPU tensors, with the emulator in place of the kernels.
    emulated, called = ops.siblings(op)[EMULATED], []

    def call(*arguments: Any) -> Tensor:
        called.append(op)
        result: Tensor = emulated(*arguments)
        return result

    monkeypatch.setattr(ops, op, call)
    for other in ("depthwise3x3", "add_norm_into"):
        monkeypatch.setattr(ops, other, ops.siblings(other)[EMULATED])
    for file in (image_encoder, tiny_vit, vit_block):
        monkeypatch.setattr(file, "can_use_cuda_kernels", lambda *tensors: True)
    result = model(images.to(dtype))
    assert called == [op] * (3 if encoder == "vit" else 4)
    errors = [float((each.double() - exact).abs().max()) for each in (result, usual)]
    assert errors[0] <= 2 * errors[1], errors


@pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_add_norm_kernel_is_as_accurate_as_pytorch(monkeypatch, dtype):
    torch.manual_seed(0)
    model = sam_vit(256, 3, 4, (1,), img_size=80, window_size=3, out_chans=8).eval()
    images = torch.randn(2, 3, 80, 80)
    exact = model.double()(images.double())
    model.to(dtype)
    monkeypatch.setattr(native, "cpu_module", None)  # no dtype takes the native path for CPUs
    monkeypatch.setattr(ImageEncoderViT, "_can_use_bfloat16", lambda self, images: False)
    usual = model(images.to(dtype))
    emulated, called = ops.siblings("add_norm_into")[EMULATED], []

    def add_norm_into(*arguments: Any) -> None:
        called.append(arguments[0].shape)
        emulated(*arguments)

    monkeypatch.setattr(ops, "add_norm_into", add_norm_into)
    monkeypatch.setattr(ops, "attention", ops.siblings("attention")["reference"])
    monkeypatch.setattr(image_encoder, "can_use_cuda_kernels", lambda *tensors: True)
    result = model(images.to(dtype))
    assert called == [(2 * 5 * 5, 256)] * 5
    errors = [float((each.double() - exact).abs().max()) for each in (result, usual)]
    assert errors[0] <= 2 * errors[1], errors
