"""TinyViT's native form against its PyTorch form, which every device and all training use."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fastsam_core.models import tiny_vit
from fastsam_core.models.tiny_vit import TinyViT
from fastsam_core.ops._native import cpu_module, cpu_reason

needs_native = pytest.mark.skipif(cpu_module is None, reason=f"no native operations: {cpu_reason}")


def network() -> TinyViT:
    """Odd widths and windows, and statistics that batch normalisation can't have by default."""
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
def test_native_form_gives_what_pytorch_gives(size):
    model, images = network(), torch.randn(2, 3, *size)
    kept = images.clone()
    expected = model(images)  # gradients are on
    with torch.inference_mode():
        given = model(images)
    assert given.is_contiguous() and expected.requires_grad and not given.requires_grad
    torch.testing.assert_close(given, expected.detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(images, kept)


@needs_native
@pytest.mark.parametrize("counted", [True, False])
def test_changed_weights_count_at_once(counted):
    model, images = network(), torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        before = model(images)
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                (tensor if counted else tensor.data).mul_(1.01)  # PyTorch counts changes, but not through `.data`
        after = model(images)
        restored = pickle.loads(pickle.dumps(copy.deepcopy(model)))(images)
    assert not torch.allclose(before, after) and torch.equal(after, restored)
    torch.testing.assert_close(after, model(images).detach(), rtol=1e-4, atol=1e-4)


def test_training_mode_without_gradients_updates_statistics():
    model, images = network().train(), torch.randn(2, 3, 48, 48)
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


@torch.no_grad()
def test_nothing_is_kept_of_what_a_graph_captures(monkeypatch):
    layer = network().layers[1].blocks[0].attn
    with monkeypatch.context() as patch:
        patch.setattr(tiny_vit, "capturing", lambda: True)
        captured = layer._bias()
        assert layer._bias() is not captured  # which holds nothing before the graph has been replayed
    kept = layer._bias()
    assert torch.equal(kept, captured) and layer._bias() is kept


def test_weights_made_in_inference_mode_are_gathered_once_and_their_changes_noticed():
    with torch.inference_mode():
        layer = network().layers[1].blocks[0].attn
        kept = layer._bias()
        assert layer.attention_biases.is_inference() and layer._bias() is kept
        before = kept.clone()
        layer.attention_biases.add_(1)
        torch.testing.assert_close(layer._bias(), before + 1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*is deprecated:DeprecationWarning")
def test_a_traced_network_passes_pytorchs_own_checks():
    model, (images, others) = network(), torch.randn(2, 1, 3, 64, 64)
    traced = torch.jit.trace(model, images)  # which traces again, without gradients, and compares the graphs
    torch.testing.assert_close(traced(others), model(others))
