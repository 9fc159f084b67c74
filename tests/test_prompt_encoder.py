"""Prompt encoder: embeddings of points, boxes and masks, by every way to compute them."""

from __future__ import annotations

import pytest
import torch

from fastsam_core.models import prompt_encoder
from fastsam_core.models.prompt_encoder import PromptEncoder


def encoder() -> PromptEncoder:
    torch.manual_seed(3)
    return PromptEncoder(64, (16, 16), (256, 256)).eval()


@pytest.mark.parametrize("count", [1, 7, 2000])
def test_embeddings_agree_with_and_without_gradients(count: int) -> None:
    made, points = encoder(), torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(1)) * 300 - 20
    labels = torch.arange(2 * count).view(count, 2) % 5 - 1
    expected = made.sparse(points, labels, None)
    with torch.no_grad():
        found = made.sparse(points, labels, None)
    assert expected.requires_grad and not found.requires_grad and found.dtype == torch.float32
    # Tolerance: one rounding of the sine or cosine, and one of the sum with the label's embedding.
    torch.testing.assert_close(found, expected.detach(), rtol=2**-23, atol=2**-23)


@torch.no_grad()
@pytest.mark.parametrize("label", [-9, -2, 4, 5, 2**40, -(2**63), 2**63 - 1])
def test_unknown_labels_embed_as_position_only(label: int) -> None:
    """As in Meta's encoder. It must not index out of bounds, which on a GPU would break the process's CUDA context."""
    made, points = encoder(), 200 * torch.rand(2, 1, 2)
    found = made.sparse(points, torch.tensor([[label], [1]]), None)
    positions = made.pe_layer._pe_encoding((points + 0.5) / made.image_size)
    assert torch.equal(found[0, 0], positions[0, 0])
    assert torch.equal(found[1, 0], made.sparse(points, torch.ones(2, 1), None)[1, 0])


def test_few_and_many_points_embed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    made, points = encoder(), torch.rand(9, 2, 2) * 256
    few = made.pe_layer._pe_encoding(points)
    monkeypatch.setattr(prompt_encoder, "_MIN_THREADED_ANGLES", 0)
    torch.testing.assert_close(made.pe_layer._pe_encoding(points), few, rtol=0, atol=2**-23)


@pytest.mark.parametrize("grad", [False, True])
def test_forward_matches_sparse_and_dense_embeddings(grad: bool) -> None:
    made, points, labels = encoder(), 200 * torch.rand(3, 2, 2), torch.tensor([[1, 0]] * 3)
    boxes, masks = 200 * torch.rand(3, 4), torch.randn(3, 1, 64, 64)
    with torch.set_grad_enabled(grad):
        for given, tokens in (({"points": (points, labels)}, 3), ({"boxes": boxes}, 2), ({"masks": masks}, 0), ({}, 0)):
            sparse, dense = made(**{"points": None, "boxes": None, "masks": None, **given})
            count = 3 if given else 1
            assert sparse.shape == (count, tokens, 64) and dense.shape == (count, 64, 16, 16)
            assert dense.requires_grad or not grad
        for shape in ((3, 1, 4), (3, 2, 2)):
            assert torch.equal(made(None, boxes.view(shape), None)[0], made.sparse(None, None, boxes))
        none = points[:, :0], labels[:, :0]  # as after the user has undone all clicks
        assert torch.equal(made(none, boxes, None)[0], made.sparse(None, None, boxes))
        assert torch.equal(made(none, None, None)[0], made.not_a_point_embed.weight.expand(3, 1, -1))
        sparse, dense = made(points=(points, labels), boxes=boxes, masks=masks)
        assert torch.equal(sparse, made.sparse(points, labels, boxes)) and torch.equal(dense, made.dense(masks))


@torch.no_grad()
def test_image_size_can_be_set() -> None:
    made = encoder()
    assert made.input_image_size == (256, 256) and made.image_embedding_size == (16, 16)
    assert made.mask_input_size == (64, 64)
    made.input_image_size, made.image_embedding_size = (128, 128), (8, 8)
    assert made.get_dense_pe().shape == (1, 64, 8, 8) and made(None, None, None)[1].shape == (1, 64, 8, 8)
    point, label = torch.tensor([[[40.0, 90.0]]]), torch.ones(1, 1)
    torch.testing.assert_close(made.sparse(point, label, None), encoder().sparse(2 * point + 0.5, label, None))
    with pytest.raises(ValueError, match="input_image_size must be square, not 128 x 256"):
        made.input_image_size = (128, 256)


@torch.no_grad()
def test_grid_positions_are_those_of_cell_centres() -> None:
    layer = encoder().pe_layer
    grid = layer((3, 5))
    assert grid.shape == (64, 3, 5)
    torch.testing.assert_close(layer.forward_with_coords(torch.tensor([[[3.5, 2.5]]]), (3, 5))[0, 0], grid[:, 2, 3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_exact_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    encoder = PromptEncoder(32, (64, 64), (1024, 1024))
    points, labels = 1024 * torch.rand(5, 3, 2), torch.ones(5, 3, dtype=torch.int64)
    exact = encoder.sparse(points, labels, None), encoder.get_dense_pe()
    with torch.autocast("cpu", dtype):
        under = encoder.sparse(points, labels, None), encoder.get_dense_pe()
    for one, other in zip(exact, under, strict=True):
        assert torch.equal(one, other)
