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
from fastsam_core.models.image_encoder import ImageEncoderViT
from fastsam_core.models.replay import USES, encode

SIZE = 64


class Again:
    """A "graph" whose replay runs the recorded function again, on what its tensors hold at that time."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self.run, self.replays = run, 0
        self.result = run()

    @torch.inference_mode(False)
    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.run())


class Stand:
    """Simulated GPU state: graphs `made` so far, the current stream as `place`, free bytes as `spare`.

    If `fails` is set, recording a graph raises it.
    """

    def __init__(self) -> None:
        self.made: list[Again] = []
        self.place, self.spare = "stream 0", 1 << 40
        self.fails: Exception | None = None

    def record(self, run: Callable[[], Tensor]) -> tuple[Again, Tensor]:
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        if self.fails is not None:
            raise self.fails
        graph = Again(run)
        self.made.append(graph)
        return graph, graph.result

    @property
    def replays(self) -> list[int]:
        return [graph.replays for graph in self.made]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Switch graphs on, and treat all tensors as if they were on a GPU."""
    made = Stand()
    monkeypatch.setattr(replay, "off", "")
    monkeypatch.setattr(replay, "record", made.record)
    monkeypatch.setattr(replay, "_on_gpu", lambda images: True)
    monkeypatch.setattr(replay, "_elsewhere", lambda images: False)
    monkeypatch.setattr(replay, "_place", lambda images: made.place)
    monkeypatch.setattr(replay, "_spare_bytes", lambda: made.spare)
    return made


def vit() -> ImageEncoderViT:
    torch.manual_seed(0)
    made = randomised(ImageEncoderViT(32, 2, 2, (1,), image_size=SIZE, window_size=3, out_channels=8)).eval()
    assert isinstance(made, ImageEncoderViT)
    return made


def picture(seed: int = 0, batch: int = 1, size: int = SIZE) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def usual(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return what a fresh copy of `encoder` computes when it is simply called."""
    with torch.no_grad():
        twin = copy.deepcopy(encoder)
        return twin(images.to(next(twin.parameters()).dtype))


def encode_all(encoder: nn.Module, seeds: range = range(USES), **given: Any) -> None:
    """Call `encode` once per seed, and check each result against the plain encoder's."""
    with torch.no_grad():
        for seed in seeds:
            images = picture(seed, **given)
            assert torch.equal(encode(encoder, images), usual(encoder, images)), seed
