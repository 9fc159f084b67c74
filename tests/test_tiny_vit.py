"""TinyViT: the native CPU form and the GPU form match the plain PyTorch form, and are used only where supported."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fastsam_core.models import module_cache, tiny_vit
from fastsam_core.models.common import LayerNorm2d
from fastsam_core.models.tiny_vit import TinyViT
from fastsam_core.ops._native import cpu_module, cpu_reason
from golden_recipe import fill_state_dict

needs_native = pytest.mark.skipif(cpu_module is None, reason=f"no native operations: {cpu_reason}")


def network() -> TinyViT:
    """Return a TinyViT with odd widths and window sizes, and batch normalisation unlike its default."""
    torch.manual_seed(3)
    model = TinyViT((12, 20, 36, 44), (1, 1, 2, 1), (1, 2, 3, 2), (3, 3, 5, 4), out_channels=24)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, tiny_vit.Attention):
            nn.init.normal_(module.attention_biases)
    return model.eval()


@needs_native
@pytest.mark.parametrize("size", [(64, 64), (97, 50), (16, 160), (5, 3)])
def test_native_form_matches_pytorch(size):
    model, images = network(), torch.randn(2, 3, *size)
    cached = images.clone()
    expected = model(images)  # gradients are on
    with torch.inference_mode():
        given = model(images)
    assert given.is_contiguous() and expected.requires_grad and not given.requires_grad
    torch.testing.assert_close(given, expected.detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(images, cached)


@needs_native
@pytest.mark.parametrize("counted", [True, False])
def test_changed_weights_take_effect_at_once(counted):
    model, images = network(), torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        before = model(images)
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                (tensor if counted else tensor.data).mul_(1.01)  # `.data` bypasses the version counter
        after = model(images)
        restored = pickle.loads(pickle.dumps(copy.deepcopy(model)))(images)
    assert not torch.allclose(before, after) and torch.equal(after, restored)
    torch.testing.assert_close(after, model(images).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", ["", "layers.0.blocks.0.conv1.bn"])  # the second: to adapt it to other images
def test_training_mode_without_gradients_updates_statistics(part):
    model, images = network(), torch.randn(2, 3, 48, 48)
    model.get_submodule(part).train()
    before = model.layers[0].blocks[0].conv1.bn.running_mean.clone()
    with torch.no_grad():
        model(images)
    assert not torch.equal(before, model.layers[0].blocks[0].conv1.bn.running_mean)


def test_other_dtypes_run_in_pytorch():
    model, images = network().double(), torch.randn(1, 3, 48, 48, dtype=torch.float64)
    with torch.inference_mode():
        given = model(images)
    assert given.dtype == torch.float64
    torch.testing.assert_close(given, model(images).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(64, 64), (97, 50), (16, 160), (5, 3)])
@torch.no_grad()
def test_gpu_form_matches_pytorch(monkeypatch, size, dtype):
    monkeypatch.setattr(tiny_vit, "can_use_native", lambda *tensors: False)
    model, images = network().to(dtype), torch.randn(2, 3, *size, dtype=dtype)
    before = images.clone()
    close = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(model._infer_on_gpu(images), model(images), rtol=close, atol=close)
    assert torch.equal(images, before)


@torch.no_grad()
def test_gpu_form_recomputes_its_cache_when_weights_change(monkeypatch):
    monkeypatch.setattr(module_cache, "CACHED_DEVICES", ["cpu"])
    model, images, made = network().double(), torch.randn(1, 3, 48, 48, dtype=torch.float64), []
    usual = model._build_plan
    model._build_plan = lambda: made.append(0) or usual()
    first = model._infer_on_gpu(images)
    assert torch.equal(model._infer_on_gpu(images), first) and len(made) == 1
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    for i, tensor in enumerate(tensors):
        tensor.mul_(1.25)
        torch.testing.assert_close(model._infer_on_gpu(images), model(images), rtol=1e-10, atol=1e-10)
        assert len(made) == i + 2
    assert not torch.allclose(model(images), first)


OBSTACLES = ["gradients", "training", "hook", "another layer", "autocast", "float32", "mixed", "uncounted", ""]


@pytest.mark.parametrize("why", OBSTACLES)
def test_gpu_form_is_used_only_where_supported(monkeypatch, why):
    monkeypatch.setattr(tiny_vit, "can_use_cuda_kernels", lambda *tensors: True)
    monkeypatch.setattr(tiny_vit, "can_use_native", lambda *tensors: False)
    with torch.inference_mode(why == "uncounted"):
        model, images = network().bfloat16(), torch.randn(2, 3, 48, 48).bfloat16()
    if why == "hook":
        model.neck[1].register_forward_hook(lambda *given: None)
    if why == "another layer":
        model.layers[1].blocks[0].local_conv.bn = nn.Identity()
    if why == "float32":
        model, images = model.float(), images.float()
    if why == "mixed":
        model.float()
    model.train(why == "training")
    called: list[str] = []
    monkeypatch.setattr(model, "_infer_on_gpu", lambda images: called.append(why))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda" and why == "autocast")
    with torch.inference_mode() if why == "uncounted" else torch.set_grad_enabled(why == "gradients"):
        if why == "mixed":
            with pytest.raises(RuntimeError, match="type"):
                model(images)
        else:
            model(images)
    assert called == ([] if why else [""])


@torch.no_grad()
def test_bias_made_during_graph_capture_is_not_cached(monkeypatch):
    layer = network().layers[1].blocks[0].attn
    with monkeypatch.context() as patch:
        patch.setattr(tiny_vit, "is_capturing", lambda: True)
        captured = layer._window_bias()
        assert layer._window_bias() is not captured  # a captured tensor has no values until the graph is replayed
    cached = layer._window_bias()
    assert torch.equal(cached, captured) and layer._window_bias() is cached


def test_bias_of_inference_mode_weights_is_cached_until_they_change():
    with torch.inference_mode():
        layer = network().layers[1].blocks[0].attn
        cached = layer._window_bias()
        assert layer.attention_biases.is_inference() and layer._window_bias() is cached
        before = cached.clone()
        layer.attention_biases.add_(1)
        torch.testing.assert_close(layer._window_bias(), before + 1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*is deprecated:DeprecationWarning")
def test_traced_network_passes_pytorchs_checks():
    model, (images, others) = network(), torch.randn(2, 1, 3, 64, 64)
    traced = torch.jit.trace(model, images)  # trace runs again without gradients and compares the graphs
    torch.testing.assert_close(traced(others), model(others))


@pytest.mark.parametrize(
    "layer",
    [
        *(tiny_vit.ConvNorm, tiny_vit.PatchEmbed, tiny_vit.Stage, tiny_vit.MBConv, tiny_vit.PatchMerging),
        *(tiny_vit.TinyViTBlock, tiny_vit.Mlp, tiny_vit.Attention, LayerNorm2d, nn.BatchNorm2d, nn.Linear),
    ],
)
def test_forward_replaced_in_a_class_is_called(layer, monkeypatch):
    model, images, original = network(), torch.randn(1, 3, 48, 48), layer.forward
    model.load_state_dict(fill_state_dict(model.state_dict()))  # with which each layer has an influence
    with torch.no_grad():
        usual = model(images)
        monkeypatch.setattr(layer, "forward", lambda *args: original(*args).abs())
        found = model(images)
    assert (found - usual).abs().max() > 1e-3
    torch.testing.assert_close(found, model(images).detach(), rtol=1e-4, atol=1e-4)  # gradients are on
