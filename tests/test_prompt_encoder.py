"""Position embeddings of prompts: the same however they are computed."""

from __future__ import annotations

import pytest
import torch

from fastsam_core.models import prompt_encoder
from fastsam_core.models.prompt_encoder import PromptEncoder


def encoder() -> PromptEncoder:
    torch.manual_seed(3)
    return PromptEncoder(64, 256).eval()


@pytest.mark.parametrize("count", [1, 7, 2000])
def test_points_embed_alike_with_and_without_gradients(count: int) -> None:
    made, points = encoder(), torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(1)) * 300 - 20
    labels = torch.arange(2 * count).view(count, 2) % 5 - 1
    expected = made.sparse(points, labels, None)
    with torch.no_grad():
        found = made.sparse(points, labels, None)
    assert expected.requires_grad and not found.requires_grad and found.dtype == torch.float32
    # One rounding of the sine or cosine, and one of the sum with the label's embedding.
    torch.testing.assert_close(found, expected.detach(), rtol=2**-23, atol=2**-23)


@torch.no_grad()
def test_few_points_embed_as_many_do(monkeypatch: pytest.MonkeyPatch) -> None:
    made, points = encoder(), torch.rand(9, 2, 2) * 256
    few = made.pe_layer.of_points(points)
    monkeypatch.setattr(prompt_encoder, "_FEW_ANGLES", 0)
    torch.testing.assert_close(made.pe_layer.of_points(points), few, rtol=0, atol=2**-23)
    assert torch.equal(made.pe_layer.of_points(points), made.pe_layer(points))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_exact_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    encoder = PromptEncoder(32, 1024)
    points, labels = 1024 * torch.rand(5, 3, 2), torch.ones(5, 3, dtype=torch.int64)
    exact = encoder.sparse(points, labels, None), encoder.dense_position_embedding()
    with torch.autocast("cpu", dtype):
        under = encoder.sparse(points, labels, None), encoder.dense_position_embedding()
    for one, other in zip(exact, under, strict=True):
        assert torch.equal(one, other)
