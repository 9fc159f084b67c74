"""Tests that an encoder's cached copy in another dtype runs before the original is checked for changes.

If the original has changed, the result must be that of a new copy. CPU tensors are treated as GPU tensors, except in
the last test, which needs a GPU.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fake_cuda_graphs import random_images, vit
from fastsam_core.models import module_cache, registry, speculative
from fastsam_core.models.image_encoder import ImageEncoderViT
from fastsam_core.models.module_cache import is_immutable
from fastsam_core.models.precision import cast_copy
from fastsam_core.models.sam_model import SamModel
from fastsam_core.models.speculative import run_in_dtype
from test_replay import data, in_place, loaded, replaced

HALF = torch.bfloat16


class Watch:
    """Records the order in which encoders run ("run") and originals are checked for changes ("look")."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.ran: list[weakref.ref[nn.Module]] = []
        fingerprint = module_cache._fingerprint

        def look(module: nn.Module) -> Any:
            if not is_immutable(module):
                self.steps.append("look")
            return fingerprint(module)

        monkeypatch.setattr(module_cache, "_fingerprint", look)
        monkeypatch.setattr(speculative, "_on_gpu", lambda given: True)

    def run(self, images: Tensor, encoder: nn.Module) -> Tensor:
        self.steps.append("run")
        self.ran.append(weakref.ref(encoder))
        result: Tensor = encoder(images.to(next(encoder.parameters()).dtype))
        return result

    def encode(self, encoder: nn.Module, dtype: torch.dtype = HALF, images: Tensor | None = None) -> Tensor:
        """Run the encoder in `dtype`, and check the result against that of a fresh copy."""
        images = random_images() if images is None else images
        del self.steps[:], self.ran[:]
        with torch.no_grad():
            result = run_in_dtype(encoder, dtype, images, partial(self.run, images))
            assert torch.equal(result, cast_copy(encoder, dtype)(images.to(dtype)))
        assert result.dtype == dtype
        return result


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_second_call_runs_copy_before_check(watch: Watch) -> None:
    encoder = vit()
    for dtype in (HALF, torch.float16):
        watch.encode(encoder, dtype)
        assert watch.steps == ["look", "run"]
        for _ in range(2):
            watch.encode(encoder, dtype)
            assert watch.steps == ["run", "look"]


def norm_of(encoder: ImageEncoderViT) -> nn.LayerNorm:
    norm = encoder.blocks[1].norm2
    assert isinstance(norm, nn.LayerNorm)
    return norm


def hook(encoder: ImageEncoderViT) -> None:
    norm_of(encoder).register_forward_hook(lambda *given: given[-1] * 2)


def pre_hook(encoder: ImageEncoderViT) -> None:
    norm_of(encoder).register_forward_pre_hook(lambda layer, given: (given[0] + 1,))


def forward(encoder: ImageEncoderViT) -> None:
    norm_of(encoder).forward = lambda x: 2 * x  # type: ignore[method-assign]


def cast(encoder: ImageEncoderViT) -> None:
    encoder.half().float()


def parameter(encoder: ImageEncoderViT) -> None:
    norm_of(encoder).bias = nn.Parameter(norm_of(encoder).bias + 1)


def training(encoder: ImageEncoderViT) -> None:
    norm_of(encoder).train()


def fewer(encoder: ImageEncoderViT) -> None:
    del encoder.blocks[0]


@pytest.mark.parametrize(
    "change", [in_place, loaded, replaced, data, hook, pre_hook, forward, cast, parameter, training, fewer]
)
def test_changed_encoder_is_copied_and_run_again(watch: Watch, change: Callable[[Any], None]) -> None:
    encoder = vit()
    before = watch.encode(encoder)
    watch.encode(encoder)
    (old,) = watch.ran
    change(encoder)
    after = watch.encode(encoder)
    assert watch.steps[:2] == ["run", "look"] and watch.steps.count("run") == 2 and watch.ran[0] is old
    assert old() is None
    assert change in (cast, training) or not torch.equal(after, before)
    watch.encode(encoder)
    assert watch.steps == (["look", "run"] if change in (hook, pre_hook, forward, training, fewer) else ["run", "look"])


def test_change_during_run_is_detected(watch: Watch) -> None:
    encoder, images = vit(), random_images()
    watch.encode(encoder)
    before = watch.encode(encoder)

    def run(copy: nn.Module) -> Tensor:
        result = watch.run(images, copy)
        if watch.steps.count("run") == 1:
            in_place(encoder)
        return result

    watch.steps.clear()
    with torch.no_grad():
        result = run_in_dtype(encoder, HALF, images, run)
        assert torch.equal(result, cast_copy(encoder, HALF)(images.to(HALF))) and not torch.equal(result, before)


def test_old_copy_is_freed_before_new_one_is_made(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, alive = vit(), list[bool]()
    for _ in range(2):
        watch.encode(encoder)
    (old,) = watch.ran
    make = speculative.in_dtype

    def in_dtype(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
        alive.append(old() is not None)
        return make(module, dtype)

    monkeypatch.setattr(speculative, "in_dtype", in_dtype)
    in_place(encoder)
    watch.encode(encoder)
    assert alive == [False]


def test_encoder_already_in_dtype_is_not_copied(watch: Watch) -> None:
    encoder = vit()
    for _ in range(2):
        watch.encode(encoder)
    encoder.to(HALF)
    watch.encode(encoder)
    assert watch.steps == ["run"] and watch.ran[0]() is encoder
    encoder.float()
    watch.encode(encoder)
    watch.encode(encoder)
    assert watch.steps == ["run", "look"]


@pytest.mark.parametrize("why", ["hook", "forward", "training", "layers of others", "memory in common", "its own"])
def test_check_comes_first_if_running_has_side_effects(watch: Watch, why: str) -> None:
    encoder: Any = vit()
    if why == "hook":
        hook(encoder)
    elif why == "forward":
        forward(encoder)
    elif why == "training":
        training(encoder)
    elif why == "layers of others":
        encoder.neck[1] = nn.Identity()
    elif why == "memory in common":
        encoder = registry.build("sam_nano").eval().image_encoder  # batch normalisation stays in float32
    else:
        encoder = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    for _ in range(3):
        watch.encode(encoder)
    assert watch.steps == ["look", "run"]


@pytest.mark.parametrize(
    "when", ["gradients", "CPU", "mode", "subclass", "profiler", "tracing", "global hook", "capturing"]
)
def test_check_comes_first_if_extra_run_is_observable(watch: Watch, when: str) -> None:
    encoder, images, context = vit(), random_images(), nullcontext
    for _ in range(2):
        watch.encode(encoder)
    watch.steps.clear()
    with pytest.MonkeyPatch.context() as patch:
        if when == "CPU":
            patch.setattr(speculative, "_on_gpu", lambda given: given.is_cuda)
        elif when == "mode":
            context = partial(torch.device, "cpu")  # a mode for functions
        elif when == "subclass":
            images = images.as_subclass(type("Marked", (Tensor,), {}))
        elif when == "profiler":
            context = torch.autograd.profiler.profile
        elif when == "tracing":
            patch.setattr(torch.jit, "is_tracing", lambda: True)
        elif when == "global hook":
            patch.setitem(nn.modules.module._global_forward_pre_hooks, 0, lambda *_: None)
        elif when == "capturing":
            patch.setattr(speculative, "is_capturing", lambda: True)
        with torch.set_grad_enabled(when == "gradients"), context():
            run_in_dtype(encoder, HALF, images, partial(watch.run, images))
    assert watch.steps == ["look", "run"]


def test_only_errors_of_current_weights_are_raised(watch: Watch) -> None:
    encoder, images = vit(), torch.randn(1, 4, *random_images().shape[2:])
    for _ in range(2):
        watch.encode(encoder)
    with torch.no_grad(), pytest.raises((RuntimeError, ValueError)):
        run_in_dtype(encoder, HALF, images, partial(watch.run, images))
    with torch.no_grad():
        encoder.patch_embed.proj = nn.Conv2d(4, 32, 16, stride=16).eval()
    watch.encode(encoder, images=images)  # the cached copy has the old layer and fails; the error must not show
    assert watch.steps[0] == "run" and watch.steps.count("run") == 2


def test_copies_are_freed_with_their_original(watch: Watch) -> None:
    encoder = vit()
    for _ in range(2):
        watch.encode(encoder)
    (copy,), gone = watch.ran, weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None and copy() is None


def model_of(encoder: nn.Module, device: str) -> SamModel:
    model = registry.build("sam_nano").eval().to(device)
    assert isinstance(model, SamModel)
    model.image_encoder = encoder.to(device)
    model.set_image_size(random_images().shape[-1])
    return model


def test_sam_model_encodes_as_a_fresh_copy(watch: Watch) -> None:
    model = model_of(vit(), "cpu")
    with torch.inference_mode():
        for call in range(4):
            if call == 2:
                in_place(model.image_encoder)
            watch.steps.clear()
            result = model.encode_image(random_images(call), HALF)
            assert watch.steps[0] == "look" or call > 0
            assert torch.equal(result, cast_copy(model.image_encoder, HALF)(random_images(call).to(HALF)))


@pytest.mark.gpu
@pytest.mark.parametrize("change", [in_place, loaded, replaced, data, cast, parameter])
def test_results_on_gpu_match_fresh_copy(change: Callable[[Any], None]) -> None:
    model = model_of(vit(), "cuda")
    for call in range(9):
        if call % 3 == 2:
            change(model.image_encoder)
            model.to("cuda")
        images = random_images(call).cuda()
        with torch.inference_mode() if call % 2 else torch.no_grad():
            result = model.encode_image(images, HALF)
            assert torch.equal(result, cast_copy(model.image_encoder, HALF)(images.to(HALF))), call
