"""When models use native operations and when they must not (adapters, hooks, autocast, tracing), and thread counts."""

from __future__ import annotations

import copy
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import yolo_files
from decoder_arguments import randomised
from fastsam_core import YOLO, Predictor, ops
from fastsam_core.models import prepared_image, registry
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.native import can_use_native, is_unmodified
from fastsam_core.models.sam_model import SamModel
from fastsam_core.models.tiny_vit import TinyViT
from fastsam_core.ops import _threads
from fastsam_core.ops._native import cpu_module
from fastsam_core.ops._threads import native_threads, parallel_for, thread_count
from fastsam_core.postprocess import measure_batch_size
from fastsam_core.preprocess import preprocess

needs_native = pytest.mark.skipif(cpu_module is None, reason="the compiled module is not in use")


class Adapter(nn.Module):
    """A layer wrapped as LoRA does it: something is added to the output, and the wrapper has no `weight` or `bias`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 1


@pytest.fixture(scope="module")
def model() -> SamModel:
    torch.manual_seed(0)
    return registry.build("sam_nano").eval()


@pytest.fixture
def images(model: SamModel) -> Tensor:
    return torch.randn(1, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(1))


def first_attention(model: SamModel) -> nn.Module:
    return next(part for part in model.image_encoder.modules() if hasattr(part, "qkv"))


def test_adapter_around_a_layer_is_called(model: SamModel, images: Tensor) -> None:
    attention = first_attention(model)
    layer = attention.qkv
    with torch.no_grad():
        plain = model.encode_image(images)
        attention.qkv = Adapter(layer)
        try:
            assert not is_unmodified(model.image_encoder)
            adapted = model.encode_image(images)
            with torch.enable_grad():
                expected = model.encode_image(images).detach()
        finally:
            attention.qkv = layer
    assert is_unmodified(model.image_encoder)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    torch.testing.assert_close(adapted, expected, atol=1e-4, rtol=1e-4)


def put(path: str, layer: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    """Return a function that replaces the submodule at `path` of a network by `layer(submodule)`."""

    def change(network: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, layer(network.get_submodule(path)))

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("vit", put("neck", lambda neck: nn.Identity())),
        ("vit", put("neck", lambda neck: neck[:2])),
        ("vit", put("blocks.1.norm2", lambda norm: nn.Identity())),
        ("vit", put("blocks.0.mlp", lambda mlp: nn.Sequential(mlp, nn.Dropout(0.5)))),
        ("tiny_vit", put("patch_embed.seq.1", lambda activation: nn.ReLU())),
        ("tiny_vit", put("layers.1.blocks.0.local_conv.bn", lambda norm: nn.Identity())),
        ("tiny_vit", put("layers.3", lambda stage: nn.Identity())),
        # Layers of the same types with other settings.
        ("vit", put("patch_embed.proj", lambda conv: nn.Conv2d(3, 16, 16, stride=16, padding=8))),
        ("vit", put("blocks.0.attn.qkv", lambda linear: nn.Linear(16, 48, bias=False))),
        ("vit", put("blocks.0.norm1", lambda norm: nn.LayerNorm(16, bias=False))),
        ("vit", put("blocks.1.norm2", lambda norm: nn.LayerNorm(16, elementwise_affine=False))),
        ("vit", put("neck.0", lambda conv: nn.Conv2d(16, 8, 1))),
        ("vit", put("neck.2", lambda conv: nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False))),
        ("tiny_vit", put("patch_embed.seq.0.c", lambda conv: nn.Conv2d(3, 4, 3, stride=2, padding=1))),
        ("tiny_vit", put("patch_embed.seq.1", lambda activation: nn.GELU("tanh"))),
        ("tiny_vit", put("layers.1.blocks.0.local_conv.bn", lambda norm: nn.BatchNorm2d(16, affine=False))),
        ("tiny_vit", put("neck.0", lambda conv: nn.Conv2d(16, 8, 1))),
    ],
)
def test_layers_replaced_by_other_pytorch_layers_are_called(kind: str, change: Callable[[nn.Module], None]) -> None:
    torch.manual_seed(2)
    if kind == "vit":
        encoder: nn.Module = sam_vit(16, 2, 2, (1,), img_size=128, window_size=3, out_chans=8)
    else:
        encoder = TinyViT((8, 16, 16, 16), (1, 1, 1, 1), (1, 2, 2, 2), (7, 7, 3, 5), out_channels=8)
    encoder = randomised(encoder).eval()
    assert is_unmodified(pickle.loads(pickle.dumps(encoder)))
    change(encoder)
    assert not is_unmodified(encoder)
    encoder.eval()
    images = torch.randn(1, 3, 128, 128)
    expected = encoder(images)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "encoder",
    [
        sam_vit(16, 2, 2, (1,), img_size=128, window_size=3, out_chans=8),
        TinyViT((8, 16, 16, 16), (1, 1, 1, 1), (1, 2, 2, 2), (7, 7, 3, 5), out_channels=8),
    ],
    ids=["vit", "tiny_vit"],
)
def test_window_padding_goes_through_an_adapter(encoder: nn.Module) -> None:
    """Adding one to the output of qkv must equal adding one to its bias, for padding tokens as well."""
    torch.manual_seed(2)
    adapted = randomised(encoder).eval()
    plain = copy.deepcopy(adapted)
    for part, twin in zip(list(adapted.modules()), list(plain.modules()), strict=True):
        if hasattr(part, "qkv"):
            part.qkv = Adapter(part.qkv)
            with torch.no_grad():
                twin.qkv.bias += 1
    images = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(adapted(images), plain(images), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(adapted(images), plain(images), rtol=1e-4, atol=1e-5)


def test_hooks_are_called(model: SamModel, images: Tensor) -> None:
    seen: list[torch.Size] = []
    handle = first_attention(model).register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    try:
        with torch.no_grad():
            model.encode_image(images)
    finally:
        handle.remove()
    assert len(seen) == 1


def test_native_operations_are_not_used_under_autocast(model: SamModel, images: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not can_use_native(images)
        embedding = model.encode_image(images)
        logits, iou = model.decode_prompts(embedding.float(), torch.full((1, 1, 2), 99.0), torch.ones(1, 1))
    assert logits.isfinite().all() and iou.isfinite().all()


def test_use_under_autocast_does_not_change_a_prepared_image(
    model: SamModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_image, "can_use_native", lambda *tensors: False)  # as on a GPU in float32
    prompt = torch.full((1, 1, 2), 99.0), torch.ones(1, 1)
    with torch.no_grad():
        embedding = model.encode_image(images)
        expected = model.decode_prompts(embedding, *prompt)
        prepared = model.prepare(embedding)
        with torch.autocast("cpu", torch.bfloat16):
            under = model.decode_prompts(prepared, *prompt)
        found = model.decode_prompts(prepared, *prompt)
    torch.testing.assert_close(under, expected, rtol=0.1, atol=0.1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


class AsOnAGpu(TorchFunctionMode):
    """Make layer_norm and softmax return float32, as autocast does on a GPU but not on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.float() if getattr(func, "__name__", "") in ("layer_norm", "softmax") else result


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gpu_autocast_decodes_to_float32_close_to_the_plain_result(model: SamModel, dtype: torch.dtype) -> None:
    model = model.at_image_size(64)
    embedding, points = torch.randn(1, model.prompt_encoder.embed_dim, 4, 4), 64 * torch.rand(5, 1, 2)
    with torch.no_grad():
        image, labels = model.prepare(embedding), torch.ones(5, 1)
        expected, wanted = model.decode_prompts(image, points, labels, multimask_output=True)
        with torch.autocast("cpu", dtype), AsOnAGpu():
            found, iou = model.decode_prompts(image, points, labels, multimask_output=True)
            _, logits = model.decode_points(image, points, labels)
            several = logits([1, 4], [0, 2])
    for ours, theirs in ((found, expected), (several, expected[[1, 4], [0, 2]]), (iou, wanted)):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)


def test_traced_graph_contains_no_native_operations(model: SamModel, images: Tensor) -> None:
    with torch.no_grad():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns about shape checks
            traced = torch.jit.trace(model.image_encoder, images, check_trace=False)
        assert "fastsam_core::" not in str(traced.inlined_graph)
        torch.testing.assert_close(traced(images), model.encode_image(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("threads", "calls", "each"), [(8, 2, 4), (8, 3, 3), (2, 5, 1), (8, 1, 8), (1, 3, 1)])
def test_parallel_for_divides_threads_among_calls(threads: int, calls: int, each: int) -> None:
    torch.set_num_threads(threads)
    seen = list[tuple[int, int]]()
    parallel_for(lambda i: seen.append((i, thread_count())), calls)
    assert sorted(seen) == [(i, each) for i in range(calls)]


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_calls_are_made_by_fewer_threads_if_no_more_can_start(
    limit: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started = list[threading.Thread]()

    class Limited(threading.Thread):
        def start(self) -> None:
            if len(started) == limit:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    monkeypatch.setattr(_threads, "Thread", Limited)
    torch.set_num_threads(4)
    seen = list[int]()
    with native_threads():
        parallel_for(seen.append, 9)
    assert sorted(seen) == list(range(9)) and len(started) == limit
    assert "can't start new thread: native operations run on fewer threads" in caplog.text
    assert not any(thread.is_alive() for thread in started)
    assert torch.get_num_threads() == 4


@needs_native
def test_batch_sizes_grow_with_the_thread_count(model: SamModel) -> None:
    at_once = []
    for threads in (1, 2, 3, 8, 64):
        torch.set_num_threads(threads)
        at_once.append((model.points_per_batch(), model.points_per_batch(torch.bfloat16), measure_batch_size()))
    assert at_once == [(64, 64, 16), (64, 64, 16), (96, 96, 24), (128, 128, 64), (128, 128, 64)]
    torch.set_num_threads(8)
    with torch.device("meta"):
        assert registry.build("mobile_sam").points_per_batch() == 64


@needs_native
def test_native_threads_sets_pytorch_to_one_thread_and_restores_it() -> None:
    torch.set_num_threads(3)
    counts = []
    with pytest.raises(KeyError), native_threads():
        assert (torch.get_num_threads(), thread_count()) == (1, 3)
        with native_threads():
            assert (torch.get_num_threads(), thread_count()) == (1, 3)
        assert (torch.get_num_threads(), thread_count()) == (1, 3)
        # A thread that first uses PyTorch inside the context inherits the count of the process, not the context's 1.
        other = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        other.start()
        other.join()
        raise KeyError
    assert (torch.get_num_threads(), thread_count()) == (3, 3)
    assert counts == [3]


@needs_native
@pytest.mark.parametrize("kind", ["array", "tensor", "yolo"])
def test_thread_that_starts_while_another_enters_gets_all_threads(
    kind: str, model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros((480, 640, 3), np.uint8)
    use: Callable[[], Any]
    if kind == "yolo":
        yolo_files.write(tmp_path / "yolo.pt", yolo_files.make("detect"))
        use = partial(YOLO(tmp_path / "yolo.pt"), array, verbose=False)
    else:
        predictor = Predictor(overrides={"model": model, "save": False})
        use = partial(predictor.set_image, array if kind == "array" else torch.zeros(3, 640, 640))
    torch.set_num_threads(3)
    set_num_threads, entering = torch.set_num_threads, threading.Event()

    def set_slowly(count: int) -> None:
        set_num_threads(count)
        if count == 1 and not entering.is_set():
            entering.set()
            time.sleep(0.3)  # time for the other thread to use PyTorch before the process's count is restored

    def enter() -> None:
        with native_threads():
            pass

    counts = []

    def predict() -> None:
        entering.wait(timeout=60)
        use()
        counts.append(torch.get_num_threads())

    monkeypatch.setattr(torch, "set_num_threads", set_slowly)
    threads = [threading.Thread(target=function) for function in (enter, predict)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [3]


@needs_native
def test_ctrl_c_restores_the_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            super().join(timeout)
            raise KeyboardInterrupt

    torch.set_num_threads(3)
    with monkeypatch.context() as patch:
        patch.setattr(_threads, "Thread", Interrupted)
        with pytest.raises(KeyboardInterrupt), native_threads():
            pass
    assert (torch.get_num_threads(), thread_count()) == (3, 3)


def test_pickled_prepared_image_omits_the_derived_cache(model: SamModel, images: Tensor) -> None:
    with torch.no_grad():
        prepared = model.prepare(model.encode_image(images))
        points, labels = torch.full((1, 1, 2), 99.0), torch.ones(1, 1)
        expected = model.decode_prompts(prepared, points, labels)[0]
        copy = pickle.loads(pickle.dumps(prepared))
        assert copy._image_decoder is None
        torch.testing.assert_close(model.decode_prompts(copy, points, labels)[0], expected)


def test_why_reports_layers_as_native_only_in_float32() -> None:
    half = torch.ones(2, 2, dtype=torch.float16)
    assert ops.why("linear", half)["reference"] == "" and ops.why("linear", half)["cpu"]
    assert ops.why("nms", half)["cpu"] == ops.why("nms")["cpu"]


def test_preprocess_copies_reversed_images_for_another_device() -> None:
    image = np.zeros((64, 40, 3), np.uint8)[..., ::-1]
    pixels, size = preprocess(image, 64, "meta")
    assert pixels.shape == (1, 3, 64, 64) and pixels.device.type == "meta" and size == (64, 40)
