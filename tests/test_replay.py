"""Image encoders replayed from CUDA graphs: when graphs are recorded and replayed, and that results don't change.

Needs no GPU: fake_cuda_graphs.py replaces the graphs. test_gpu_replay.py has the tests on a GPU.
"""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fake_cuda_graphs import SIZE, FakeGpu, encode_all, encode_eagerly, install_fake_gpu, random_images, vit
from fastsam_core import doctor
from fastsam_core.models import replay
from fastsam_core.models.image_encoder import ImageEncoderViT
from fastsam_core.models.module_cache import cached
from fastsam_core.models.precision import in_dtype
from fastsam_core.models.replay import MAX_GRAPHS, GraphCache, encode
from fastsam_core.models.tiny_vit import TinyViT
from small_model import small_model
from test_native_cuda import gpu_tensor


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return install_fake_gpu(monkeypatch)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_third_call_records_and_later_calls_replay(gpu: FakeGpu, dtype: Any, mode: Any) -> None:
    model = small_model()
    del model.encode_image
    model.set_image_size(SIZE)
    assert isinstance(model.image_encoder, TinyViT)
    plain = in_dtype(copy.deepcopy(model.image_encoder), dtype)
    for call in range(6):
        images = random_images(call)
        with mode():
            expected = plain(images.to(dtype))
            result = model.encode_image(images, dtype)
        assert torch.equal(result, expected) and result.dtype == (dtype or torch.float32), call
        assert result.stride() == expected.stride() and result.is_inference() == expected.is_inference()
        assert gpu.replays == ([] if call < 2 else [call - 2])


def test_graph_is_shared_between_no_grad_and_inference_mode(gpu: FakeGpu) -> None:
    with torch.inference_mode():
        encoder = vit()  # its inference tensors can't be changed outside, and have no version counter
    for seed in range(8):
        images = random_images(seed)
        with torch.inference_mode() if seed % 2 == 0 else torch.no_grad():
            assert torch.equal(encode(encoder, images), encode_eagerly(encoder, images))
    assert gpu.replays == [5]
    with torch.inference_mode():
        encoder.neck[0].weight.mul_(2)
    encode_all(encoder, range(8, 10))
    assert gpu.replays == [7]  # the graph reads the changed weights at their address


def test_each_shape_stream_and_setting_has_its_own_graph(gpu: FakeGpu) -> None:
    encoder = vit()
    encode_all(encoder, range(4))
    encode_all(encoder, range(4), batch=2)
    gpu.stream = "stream 1"
    encode_all(encoder, range(4))
    assert gpu.replays == [1, 1, 1]
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = not deterministic
    try:
        encode_all(encoder, range(4))
    finally:
        torch.backends.cudnn.deterministic = deterministic
    gpu.stream = "stream 0"
    encode_all(encoder, range(1))
    encode_all(encoder, range(1), batch=2)
    assert gpu.replays == [2, 2, 1, 1]
    encode_all(in_dtype(encoder, torch.bfloat16), range(4))
    assert gpu.replays == [2, 2, 1, 1, 1]


def test_results_belong_to_the_caller(gpu: FakeGpu) -> None:
    encoder = vit()
    encode_all(encoder)
    with torch.no_grad():
        images = random_images(1)
        first = encode(encoder, images)
        kept_images, kept_first = images.clone(), first.clone()
        second = encode(encoder, random_images(2))
        assert torch.equal(images, kept_images) and torch.equal(first, kept_first) and not torch.equal(first, second)
        first.zero_()
        assert torch.equal(encode(encoder, images), kept_first)


def in_place(encoder: ImageEncoderViT) -> None:
    with torch.no_grad():
        encoder.blocks[1].attn.rel_pos_h.mul_(3)


def loaded(encoder: ImageEncoderViT) -> None:
    encoder.load_state_dict({name: value * 1.25 for name, value in encoder.state_dict().items()})


def replaced(encoder: ImageEncoderViT) -> None:
    encoder.blocks[0].mlp.lin1 = nn.Linear(32, 128).eval()


def data(encoder: ImageEncoderViT) -> None:
    encoder.pos_embed.data = encoder.pos_embed.data + 1


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("change", [in_place, loaded, replaced, data])
def test_changed_weights_are_recorded_again(gpu: FakeGpu, change: Callable[[Any], None], dtype: Any) -> None:
    encoder = vit()
    encode_all(in_dtype(encoder, dtype), range(4))
    before = encode_eagerly(in_dtype(encoder, dtype), random_images())
    change(encoder)
    assert not torch.equal(encode_eagerly(in_dtype(encoder, dtype), random_images()), before)
    encode_all(in_dtype(encoder, dtype), range(4))
    assert gpu.replays == [1, 1]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward", "training", "part in training"])
def test_hooked_patched_or_training_encoders_are_called(gpu: FakeGpu, how: str, dtype: Any) -> None:
    encoder, called = vit(), []
    encode_all(in_dtype(encoder, dtype), range(4))
    part = encoder.blocks[1].norm1
    if how == "hook":
        part.register_forward_hook(lambda *_: called.append(0))
    elif how == "pre-hook":
        part.register_forward_pre_hook(lambda *_: called.append(0))
    elif how == "forward":
        forward = part.forward
        part.forward = lambda x: called.append(0) or forward(x)
    else:
        (part if how == "part in training" else encoder).train()
    with torch.no_grad():
        for seed in range(5):
            encode(in_dtype(encoder, dtype), random_images(seed))
    assert len(called) == (0 if "training" in how else 5)
    assert gpu.replays == [1]


def test_encoder_with_a_foreign_layer_is_not_recorded(gpu: FakeGpu) -> None:
    encoder = vit()
    encoder.blocks[0].norm1 = type("Adapter", (nn.LayerNorm,), {})(32)
    encode_all(encoder, range(5))
    assert not gpu.graphs


@pytest.mark.parametrize(
    "when",
    ["gradients", "autocast", "mode", "global hook", "tracing", "profiler", "capturing", "channels last", "many"],
)
def test_observed_and_unsuitable_calls_are_not_replayed(gpu: FakeGpu, when: str) -> None:
    encoder = vit()
    encode_all(encoder, range(4))
    called: list[int] = []
    positions = ImageEncoderViT._position_embedding  # which every call of the encoder itself asks for
    images, context = random_images(), nullcontext
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageEncoderViT, "_position_embedding", lambda *args: called.append(0) or positions(*args))
        if when == "autocast":
            patch.setattr(torch, "is_autocast_enabled", lambda kind="cuda": kind == "cuda")
        elif when == "mode":
            context = partial(torch.device, "cpu")  # a mode for functions
        elif when == "global hook":
            patch.setitem(nn.modules.module._global_forward_pre_hooks, 0, lambda *_: None)
        elif when == "tracing":
            patch.setattr(torch.jit, "is_tracing", lambda: True)
        elif when == "profiler":
            context = torch.autograd.profiler.profile
        elif when == "capturing":
            patch.setattr(replay, "is_capturing", lambda: True)
        elif when == "channels last":
            images = images.contiguous(memory_format=torch.channels_last)
        elif when == "many":
            images = random_images(batch=2)
            patch.setattr(replay, "MAX_PIXELS", SIZE * SIZE)
        for _ in range(5):
            with torch.set_grad_enabled(when == "gradients"), context():
                result = encode(encoder, images)
            assert result.requires_grad == (when == "gradients")
        assert len(called) == 5 and gpu.replays == [1]
    encode_all(encoder, range(1))
    assert gpu.replays == [2]


def test_only_gpu_tensors_use_graphs() -> None:
    assert not replay._on_gpu(random_images()) and replay._on_gpu(gpu_tensor())


def test_failed_recording_warns_once_and_falls_back(gpu: FakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    gpu.record_error = RuntimeError("CUDA error: operation not permitted when stream is capturing\nand much advice")
    for _ in range(2):
        encode_all(vit(), range(8))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == [
        "ImageEncoderViT runs without a CUDA graph "
        "(RuntimeError: CUDA error: operation not permitted when stream is capturing)"
    ]
    encoder = vit()
    encode_all(encoder, range(4))
    gpu.record_error = None
    encode_all(encoder, range(4))
    assert not gpu.graphs  # an encoder that failed isn't tried again
    encode_all(vit(), range(4))
    assert gpu.replays == [1]


def test_lack_of_memory_warns_once_and_falls_back(gpu: FakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    for amount in ("1.00 GiB", "2.00 GiB"):
        gpu.record_error = torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {amount}.")
        encode_all(vit(), range(4))
    gpu.record_error, gpu.free_bytes = None, replay.MIN_FREE_BYTES - 1
    encode_all(vit(), range(4))
    assert len(caplog.messages) == 2 and not gpu.graphs
    assert "(OutOfMemoryError)" in caplog.messages[0] and "1,024 MiB" in caplog.messages[1]


def test_failed_replay_warns_and_is_not_repeated(gpu: FakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    encoder = vit()
    encode_all(encoder, range(4))

    def fail() -> None:
        raise RuntimeError("no such graph")

    gpu.graphs[0].replay = fail  # type: ignore[method-assign]
    encode_all(encoder, range(5))
    assert len(gpu.graphs) == 1 and len(caplog.messages) == 1 and "no such graph" in caplog.text


def test_encoder_errors_are_raised_and_do_not_disable_graphs(gpu: FakeGpu) -> None:
    encoder = vit()
    wrong = torch.randn(1, 4, SIZE, SIZE)
    with torch.no_grad():
        for _ in range(4):
            with pytest.raises((RuntimeError, ValueError)):  # raised by native code or by PyTorch
                encode(encoder, wrong)
    encode_all(encoder, range(4))
    assert gpu.replays == [1]


def test_least_recently_used_graph_is_dropped(gpu: FakeGpu) -> None:
    encoder = vit()
    for number in range(MAX_GRAPHS):
        gpu.stream = f"stream {number}"
        encode_all(encoder, range(3))
    gone = [weakref.ref(graph) for graph in gpu.graphs]
    gpu.graphs.clear()
    gpu.stream = "stream 0"
    encode_all(encoder, range(1))
    gpu.stream = "one more"
    encode_all(encoder, range(1))
    gc.collect()
    assert [graph() is None for graph in gone] == [False, True, False, False]
    # With more streams in turn than graphs are kept, each key is dropped before its third call.
    for turn in range(12):
        gpu.stream = f"turn {turn % (MAX_GRAPHS + 1)}"
        encode_all(encoder, range(1))
    assert not gpu.graphs


def test_threads_share_one_graph(gpu: FakeGpu) -> None:
    encoder = vit()
    expected = [encode_eagerly(encoder, random_images(seed)) for seed in range(4)]
    encode_all(encoder)
    wrong: list[int] = []

    @torch.no_grad()
    def work(seed: int) -> None:
        for _ in range(25):
            if not torch.equal(encode(encoder, random_images(seed)), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(gpu.graphs) == 1 and gpu.replays[0] > 0


def test_other_threads_encode_without_graphs_during_a_recording(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, inside, leave = vit(), threading.Event(), threading.Event()
    record = replay.record

    def slowly(run: Callable[[], Tensor]) -> Any:
        inside.set()
        assert leave.wait(60)
        return record(run)

    monkeypatch.setattr(replay, "record", slowly)
    thread = threading.Thread(target=encode_all, args=(encoder,))
    thread.start()
    assert inside.wait(60)
    encode_all(encoder, range(4))
    assert not gpu.graphs
    leave.set()
    thread.join()
    encode_all(encoder, range(1))
    assert gpu.replays == [1]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_graphs_are_freed_with_their_encoder_and_not_copied(gpu: FakeGpu, dtype: Any) -> None:
    encoder = vit()
    names = list(encoder.state_dict())
    encode_all(in_dtype(encoder, dtype), range(4))
    graphs = weakref.ref(cached(in_dtype(encoder, dtype), "graphs", GraphCache))
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert list(twin.state_dict()) == names
        encode_all(in_dtype(twin, dtype), range(2))
    assert gpu.replays == [1]
    gone = weakref.ref(encoder)
    gpu.graphs.clear()
    # A real graph holds only addresses; the stand-in holds the recorded function, which references the encoder.
    owner = graphs()
    assert owner is not None
    (made,) = owner._entries.values()
    assert isinstance(made, replay.RecordedGraph)
    made._graph.run = None
    del encoder, owner, made, twin
    gc.collect()
    assert gone() is None and graphs() is None


def test_fastsam_cuda_graphs_switch_and_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "cuda_module", object())
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    for value, reason in (("", replay.SWITCHED_OFF), ("0", replay.SWITCHED_OFF), ("1", "")):
        monkeypatch.setenv("FASTSAM_CUDA_GRAPHS", value)
        assert replay._read_disabled_reason() == reason
        monkeypatch.setattr(replay, "disabled_reason", reason)
        expected = reason or ("in use" if torch.cuda.is_available() else "switched on, but ")
        assert f"CUDA graphs   {expected}" in doctor.report()
    monkeypatch.setenv("FASTSAM_CUDA_GRAPHS", "yes")
    with pytest.raises(ValueError, match="FASTSAM_CUDA_GRAPHS=yes: it must be 1 or 0"):
        replay._read_disabled_reason()
    monkeypatch.setenv("FASTSAM_CUDA_GRAPHS", "1")
    monkeypatch.setattr(torch, "__version__", "2.10.1")
    assert replay._read_disabled_reason() == "PyTorch 2.11 or newer is needed"
    monkeypatch.setattr(replay, "cuda_module", None)
    assert replay._read_disabled_reason() == "the CUDA kernels are not in use"


def test_nothing_is_recorded_when_switched_off(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "disabled_reason", replay.SWITCHED_OFF)
    encode_all(vit(), range(5))
    assert not gpu.graphs


def test_nothing_is_recorded_on_a_gpu_without_kernels(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "why_not_on", lambda device: "there is no code for it")
    encode_all(vit(), range(5))
    assert not gpu.graphs


def test_encoding_on_another_gpu_makes_it_current(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Any] = []

    def device(which: Any) -> Any:
        entered.append(which)
        return nullcontext()

    monkeypatch.setattr(replay, "_is_on_other_device", lambda images: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    encode_all(vit(), range(4))
    assert entered == [torch.device("cpu")] * 4 and gpu.replays == [1]
