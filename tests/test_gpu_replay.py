"""Tests of replaying image encoders from CUDA graphs on a GPU. test_replay.py tests the logic around it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoder_arguments import randomised
from fastsam_core.models import registry, replay
from fastsam_core.models.image_encoder import ImageEncoderViT, sam_vit
from fastsam_core.models.module_cache import cached
from fastsam_core.models.precision import in_dtype
from fastsam_core.models.replay import GraphCache, RecordedGraph, encode
from fastsam_core.models.sam_model import SamModel

pytestmark = pytest.mark.gpu

HALF = torch.bfloat16
SIZES = {"vit": 1024, "nano": 512}
each_encoder = pytest.mark.parametrize("name", SIZES)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FASTSAM_CUDA_GRAPHS", "1")
    if reason := replay._read_disabled_reason():
        pytest.skip(reason)
    monkeypatch.setattr(replay, "disabled_reason", "")
    free_memory()
    yield
    free_memory()


def free_memory() -> None:
    """Free all unused memory, above all that of other tests' graphs, which would leave too little for new ones."""
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def pools() -> set[Any]:
    return {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}


def encoder_of(name: str) -> nn.Module:
    """Return a ViT with a windowed and a global block, or the bundled model's TinyViT; kernels serve both."""
    torch.manual_seed(0)
    if name == "vit":
        made: nn.Module = randomised(sam_vit(256, 2, 4, (1,), img_size=SIZES[name]))
    else:
        model = registry.build("sam_nano")
        assert isinstance(model, SamModel)
        made = model.image_encoder
    return made.cuda().eval()


def random_images(name: str, seed: int, batch: int = 1) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(batch, 3, SIZES[name], SIZES[name], generator=generator, device="cuda")


def encode_directly(encoder: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = encoder(images.to(next(encoder.parameters()).dtype))
    return result


def graphs_of(encoder: nn.Module) -> list[RecordedGraph]:
    graphs = cached(encoder, "graphs", GraphCache)
    assert not graphs._disabled
    return [one for one in graphs._entries.values() if isinstance(one, RecordedGraph)]


def check(encoder: nn.Module, name: str, calls: int = 4, batch: int = 1, first: int = 0) -> None:
    """Assert that `calls` calls of `encode` equal the encoder's bits; results are compared after the last call."""
    images = [random_images(name, seed, batch) for seed in range(first, first + calls)]
    expected = [encode_directly(encoder, one) for one in images]
    with torch.no_grad():
        results = [encode(encoder, one) for one in images]
    for call, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        assert not wanted.isnan().any()
        assert torch.equal(result, wanted) and result.stride() == wanted.stride(), call


@each_encoder
@pytest.mark.parametrize("dtype", [None, torch.float16, HALF])
@pytest.mark.parametrize("batch", [1, 2])
def test_replay_gives_the_encoders_bits(name: str, dtype: Any, batch: int, caplog: pytest.LogCaptureFixture) -> None:
    encoder = in_dtype(encoder_of(name), dtype)
    check(encoder, name, 8, batch)
    assert len(graphs_of(encoder)) == 1 and not caplog.records
    check(encoder, name, 4, 3 - batch)
    assert len(graphs_of(encoder)) == 2
    check(encoder, name, 4, batch, first=8)


@each_encoder
def test_model_replays_its_encoder(name: str) -> None:
    model = registry.build("sam_nano").cuda().eval()
    assert isinstance(model, SamModel)
    model.image_encoder = encoder_of(name)
    model.set_image_size(SIZES[name])
    half = in_dtype(model.image_encoder, HALF)
    for seed in range(6):
        images = random_images(name, seed)
        with torch.inference_mode() if seed % 2 else torch.no_grad():
            assert torch.equal(model.encode_image(images, HALF), encode_directly(half, images))
    assert len(graphs_of(half)) == 1


@each_encoder
@pytest.mark.parametrize("dtype", [None, HALF])
def test_changed_weights_are_captured_anew(name: str, dtype: Any) -> None:
    encoder = encoder_of(name)
    before = None
    for _ in range(3):
        check(in_dtype(encoder, dtype), name, 5)
        (graph,) = graphs_of(in_dtype(encoder, dtype))
        assert graph is not before
        before = graph
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.mul_(1.01)


@each_encoder
@pytest.mark.parametrize("made_in", [torch.inference_mode, torch.no_grad])
def test_no_grad_and_inference_mode_share_a_graph(name: str, made_in: type[AbstractContextManager[None]]) -> None:
    with made_in():
        encoder = encoder_of(name)
    for each in (encoder, in_dtype(encoder, HALF)):
        for seed in range(8):
            images = random_images(name, seed)
            expected = encode_directly(each, images)
            with torch.inference_mode() if seed % 2 == 0 else torch.no_grad():
                result = encode(each, images)
            assert torch.equal(result, expected), seed
        assert len(graphs_of(each)) == 1


@each_encoder
def test_each_stream_has_its_own_graph(name: str) -> None:
    encoder = in_dtype(encoder_of(name), HALF)
    check(encoder, name)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        check(encoder, name)
    torch.cuda.synchronize()
    assert len(graphs_of(encoder)) == 2
    # Both at once, each in the order of its stream: images arrive late, and their memory is reused early.
    late = [random_images(name, seed) for seed in (11, 12)]
    expected = [encode_directly(encoder, one) for one in late]
    given = [torch.zeros_like(one) for one in late]
    torch.cuda.synchronize()
    results = []
    for on, to, images in zip((torch.cuda.current_stream(), stream), given, late, strict=True):
        with torch.cuda.stream(on), torch.no_grad():
            torch.cuda._sleep(20_000_000)
            to.copy_(images)
            results.append(encode(encoder, to))
            to.zero_()
    torch.cuda.synchronize()
    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))


@each_encoder
def test_encoder_can_be_captured_by_the_caller(name: str) -> None:
    encoder = in_dtype(encoder_of(name), HALF)
    check(encoder, name)
    images, others = random_images(name, 1), random_images(name, 2)
    expected = encode_directly(encoder, others)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        result = encode(encoder, images)
    images.copy_(others)
    graph.replay()
    assert torch.equal(result, expected)
    check(encoder, name)
    assert len(graphs_of(encoder)) == 1


@each_encoder
def test_capture_succeeds_while_another_thread_uses_the_gpu(name: str) -> None:
    encoder, stop, errors = encoder_of(name), threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            stream, step = torch.cuda.Stream(), 0
            with torch.cuda.stream(stream), torch.no_grad():
                a = torch.ones(256, 256, device="cuda")
                while not stop.is_set():
                    step += 1
                    piece = torch.full((step % 50 * 100_003 + 1,), 1.0, device="cuda")
                    assert float((a @ a)[0, 0]) == 256 and float(piece.sum()) > 0
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(8):  # captured anew each time
            check(in_dtype(encoder, HALF), name, 6)
            assert len(graphs_of(in_dtype(encoder, HALF))) == 1
            with torch.no_grad():
                next(encoder.parameters()).mul_(1.5)
    finally:
        stop.set()
        thread.join()
    assert not errors, errors


@each_encoder
def test_threads_on_their_own_streams_get_the_encoders_bits(name: str) -> None:
    encoder = in_dtype(encoder_of(name), HALF)
    images = [random_images(name, seed) for seed in range(3)]
    expected = [encode_directly(encoder, one) for one in images]
    torch.cuda.synchronize()
    wrong, errors = list[int](), list[BaseException]()

    def work(seed: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
                for _ in range(30):
                    if not torch.equal(encode(encoder, images[seed]), expected[seed]):
                        wrong.append(seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not errors, (wrong, errors)
    assert graphs_of(encoder)


@each_encoder
def test_memory_is_constant_and_freed_with_the_encoder(name: str) -> None:
    images = random_images(name, 0)
    free_memory()
    before, pools_before = torch.cuda.memory_allocated(), pools()
    encoder = encoder_of(name)
    half = in_dtype(encoder, HALF)
    with torch.no_grad():
        for _ in range(8):
            encode(half, images)
        torch.cuda.synchronize()
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        for _ in range(200):
            encode(half, images)
        torch.cuda.synchronize()
    assert len(graphs_of(half)) == 1
    assert torch.cuda.memory_allocated() == allocated and torch.cuda.memory_reserved() == reserved
    assert len(pools() - pools_before) == 1
    del encoder, half
    free_memory()
    assert pools() <= pools_before | {(0, 0)}
    # Less than the input images that a graph would hold.
    assert torch.cuda.memory_allocated() - before < images.numel()


def test_out_of_memory_during_capture_falls_back_to_the_encoder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = in_dtype(encoder_of("vit"), HALF)
    images = random_images("vit", 2)
    expected = encode_directly(encoder, images)
    record, tried = replay.record, []

    def starved(run: Callable[[], Tensor]) -> Any:
        tried.append(run)
        torch.cuda.set_per_process_memory_fraction(1e-6)  # no memory beyond what PyTorch has reserved already
        try:
            return record(run)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(replay, "record", starved)
        results = [encode(encoder, images) for _ in range(5)]
    assert len(tried) == 1 and all(torch.equal(result, expected) for result in results)
    assert len(caplog.messages) == 1 and "(OutOfMemoryError)" in caplog.text
    check(in_dtype(encoder_of("vit"), HALF), "vit")


# The last test, because a failed capture might affect later tests of the process.
@pytest.mark.parametrize("spoilt", ["begin", "end", "inside"])
def test_failed_capture_leaves_the_process_usable(
    spoilt: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = in_dtype(encoder_of("vit"), HALF)
    positions, capture_end = ImageEncoderViT._position_embedding, torch.cuda.CUDAGraph.capture_end
    images = random_images("vit", 0)
    expected = encode_directly(encoder, images)

    def waiting(self: ImageEncoderViT, height: int, width: int) -> Tensor | None:
        result = positions(self, height, width)
        torch.cuda.current_stream().synchronize()  # not permitted during a capture
        return result

    def ending(self: Any) -> None:
        capture_end(self)
        raise RuntimeError("on purpose")

    def beginning(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch, torch.no_grad():
        if spoilt == "inside":
            patch.setattr(ImageEncoderViT, "_position_embedding", waiting)
        elif spoilt == "begin":
            patch.setattr(torch.cuda.CUDAGraph, "capture_begin", beginning)
        else:
            patch.setattr(torch.cuda.CUDAGraph, "capture_end", ending)
        for _ in range(5):
            assert torch.equal(encode(encoder, images), expected)
    assert [record.levelname for record in caplog.records] == ["WARNING"], caplog.text
    torch.cuda.synchronize()
    # Random numbers, memory shared between streams, and new graphs still work.
    assert not torch.equal(torch.randn(9, device="cuda"), torch.randn(9, device="cuda"))
    stream, shared = torch.cuda.Stream(), torch.ones(1 << 20, device="cuda")
    with torch.cuda.stream(stream):
        shared.add_(1)
    shared.record_stream(stream)
    del shared
    torch.cuda.synchronize()
    again = in_dtype(encoder_of("vit"), HALF)
    check(again, "vit", 6)
    assert len(graphs_of(again)) == 1
