"""A stand-in for CUDA graphs that runs the recorded function again and copies its result to where the graph writes.

Also a small encoder to record, and its results without a graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoder_arguments import randomised
from fastsam_core.models import replay
from fastsam_core.models.image_encoder import ImageEncoderViT, sam_vit
from fastsam_core.models.replay import WARMUP_CALLS, encode

SIZE = 64


class FakeGraph:
    """A "graph" whose replay runs the recorded function again, on what its tensors hold at that time."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self.run, self.replays = run, 0
        self.result = run()

    @torch.inference_mode(False)
    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.run())


class FakeGpu:
    """Simulated GPU state: the recorded `graphs`, the current `stream` and the `free_bytes` of memory.

    If `record_error` is set, recording a graph raises it.
    """

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []
        self.stream, self.free_bytes = "stream 0", 1 << 40
        self.record_error: Exception | None = None

    def record(self, run: Callable[[], Tensor]) -> tuple[FakeGraph, Tensor]:
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        if self.record_error is not None:
            raise self.record_error
        graph = FakeGraph(run)
        self.graphs.append(graph)
        return graph, graph.result

    @property
    def replays(self) -> list[int]:
        return [graph.replays for graph in self.graphs]


def install_fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Switch graphs on, and treat all tensors as if they were on a GPU."""
    fake_gpu = FakeGpu()
    monkeypatch.setattr(replay, "disabled_reason", "")
    monkeypatch.setattr(replay, "record", fake_gpu.record)
    monkeypatch.setattr(replay, "_on_gpu", lambda images: True)
    monkeypatch.setattr(replay, "_is_on_other_device", lambda images: False)
    monkeypatch.setattr(replay, "_device_and_stream", lambda images: fake_gpu.stream)
    monkeypatch.setattr(replay, "_free_bytes", lambda: fake_gpu.free_bytes)
    return fake_gpu


def vit() -> ImageEncoderViT:
    torch.manual_seed(0)
    encoder = randomised(sam_vit(32, 2, 2, (1,), img_size=SIZE, window_size=3, out_chans=8)).eval()
    assert isinstance(encoder, ImageEncoderViT)
    return encoder


def random_images(seed: int = 0, batch: int = 1, size: int = SIZE) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def encode_eagerly(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return what a fresh copy of `encoder` computes when it is simply called."""
    with torch.no_grad():
        twin = copy.deepcopy(encoder)
        return twin(images.to(next(twin.parameters()).dtype))


def encode_all(encoder: nn.Module, seeds: range = range(WARMUP_CALLS), **given: Any) -> None:
    """Call `encode` once per seed, and check each result against the plain encoder's."""
    with torch.no_grad():
        for seed in seeds:
            images = random_images(seed, **given)
            assert torch.equal(encode(encoder, images), encode_eagerly(encoder, images)), seed
