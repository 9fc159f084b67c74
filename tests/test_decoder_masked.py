"""Tests of prompts with masks: native results equal the plain decoder's, and altered layers fall back to PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoder_arguments import randomised
from fastsam_core.models import sam_model
from fastsam_core.models.decoder_calls import PromptTensors
from fastsam_core.models.decoder_tiled import TiledImage
from fastsam_core.models.mask_decoder import MaskDecoder, TwoWayTransformer
from fastsam_core.models.prompt_encoder import PromptEncoder
from fastsam_core.models.sam_model import SamModel
from fastsam_core.ops._native import cpu_module
from siblings import each_sibling, use_sibling

native = pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off")


def model_of(dim: int = 64, heads: int = 4, grid: int = 5) -> SamModel:
    """Return a model without an image encoder; these tests start from embeddings."""
    encoder = PromptEncoder(dim, (grid, grid), (16 * grid, 16 * grid))
    decoder = MaskDecoder(transformer_dim=dim, transformer=TwoWayTransformer(2, dim, heads, 64), iou_head_hidden_dim=32)
    model = randomised(SamModel("sam_b", nn.Identity(), encoder, decoder))
    assert isinstance(model, SamModel)
    return model


def prompts_of(model: SamModel, count: int, clicks: int = 2, box: bool = False) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    size, side = model.image_size, model.image_size // 4
    prompts = {"masks": 4 * torch.randn(count, 1, side, side, generator=draw)}
    if clicks:
        prompts["points"] = size * torch.rand(count, clicks, 2, generator=draw)
        prompts["labels"] = torch.arange(count * clicks).view(count, clicks) % 2
    if box:
        prompts["boxes"] = size * torch.rand(count, 4, generator=draw)
    return prompts


def embedding_of(model: SamModel) -> Tensor:
    encoder = model.prompt_encoder
    draw = torch.Generator().manual_seed(5)
    return torch.randn(1, encoder.embed_dim, encoder.grid_size, encoder.grid_size, generator=draw)


def exact(model: SamModel, prompts: dict[str, Tensor], multimask: bool) -> tuple[Tensor, Tensor]:
    """Return logits and IoU of the plain decoder, computed in float64."""
    wide = copy.deepcopy(model).double()
    encoder = wide.prompt_encoder
    sparse = encoder.sparse(prompts.get("points"), prompts.get("labels"), prompts.get("boxes"))
    masks, iou = wide.mask_decoder.predict_masks(
        embedding_of(model).double(), encoder.get_dense_pe(), sparse, encoder.dense(prompts["masks"].double())
    )
    chosen = slice(1, None) if multimask else slice(0, 1)
    return masks[:, chosen].float(), iou[:, chosen].float()


def check(model: SamModel, prompts: dict[str, Tensor], multimask: bool = False) -> None:
    expected, expected_iou = exact(model, prompts, multimask)
    logits, iou = model.decode_prompts(embedding_of(model), **prompts, multimask_output=multimask)
    torch.testing.assert_close(iou, expected_iou, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def plain_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of prompts of each call of the plain decoder."""
    calls, whole = list[int](), sam_model.decode_in_chunks

    def counted(image: Any, encoder: PromptEncoder, prompts: PromptTensors, multimask: bool) -> tuple[Tensor, Tensor]:
        calls.append(prompts.num_objects)
        return whole(image, encoder, prompts, multimask)

    monkeypatch.setattr(sam_model, "decode_in_chunks", counted)
    return calls


@pytest.mark.parametrize(("dim", "heads"), [(256, 8), (128, 8), (64, 4), (96, 2)])
@pytest.mark.parametrize("grid", [1, 5, 12])
@each_sibling
@torch.no_grad()
def test_equals_the_plain_decoder(sibling: str, dim: int, heads: int, grid: int, monkeypatch: Any) -> None:
    use_sibling(monkeypatch, sibling)
    model = model_of(dim, heads, grid)
    check(model, prompts_of(model, 3))


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize(("clicks", "box"), [(0, False), (0, True), (1, True), (9, False), (30, False)])
@torch.no_grad()
def test_masks_combine_with_any_other_prompts(clicks: int, box: bool, multimask: bool) -> None:
    """30 clicks make more tokens than the native form takes."""
    model = model_of()
    check(model, prompts_of(model, 2, clicks, box), multimask)


@native
@torch.no_grad()
def test_plain_decoder_is_not_called(plain_calls: list[int]) -> None:
    model = model_of()
    model.decode_prompts(embedding_of(model), **prompts_of(model, 3))
    assert plain_calls == []


@native
@torch.no_grad()
def test_any_number_of_threads_gives_the_same_bits() -> None:
    model = model_of()
    prompts, image = prompts_of(model, 5), model.prepare(embedding_of(model))
    results = []
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        results.append(model.decode_prompts(image, **prompts, multimask_output=True))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@native
@pytest.mark.parametrize("modes", [(torch.no_grad, torch.inference_mode), (torch.inference_mode, torch.no_grad)])
def test_image_may_be_shared_by_no_grad_and_inference_mode(modes: tuple[Callable[[], Any], ...]) -> None:
    model, image = model_of(), None
    prompts = prompts_of(model, 2)
    for mode in modes:
        with mode():
            image = image or model.prepare(embedding_of(model))
            logits, _ = model.decode_prompts(image, **prompts)
            torch.testing.assert_close(logits, exact(model, prompts, False)[0], rtol=1e-4, atol=1e-5)


@native
@torch.no_grad()
def test_masks_image_buffer_is_reused_and_results_stay() -> None:
    model = model_of()
    prompts, image = prompts_of(model, 1), model.prepare(embedding_of(model))
    first, _ = model.decode_prompts(image, **prompts)
    kept, expected = image.image_decoder._masked._free_buffers[0]["base"].data_ptr(), first.clone()  # type: ignore[union-attr]
    model.decode_prompts(image, **prompts | {"masks": -prompts["masks"]})
    assert image.image_decoder._masked._free_buffers[0]["base"].data_ptr() == kept and torch.equal(first, expected)  # type: ignore[union-attr]


@native
@torch.no_grad()
def test_masks_do_not_change_the_prepared_image() -> None:
    model = model_of()
    prompts, image = prompts_of(model, 5), model.prepare(embedding_of(model))
    unmasked = {name: given for name, given in prompts.items() if name != "masks"}
    before = model.decode_prompts(image, **unmasked)
    model.decode_prompts(image, **prompts)
    assert all(torch.equal(a, b) for a, b in zip(before, model.decode_prompts(image, **unmasked), strict=True))


@native
@torch.no_grad()
def test_mask_of_zeros_differs_from_no_mask() -> None:
    model = model_of()
    prompts = prompts_of(model, 1)
    prompts["masks"].zero_()
    check(model, prompts)
    with_mask, _ = model.decode_prompts(embedding_of(model), **prompts)
    without, _ = model.decode_prompts(embedding_of(model), points=prompts["points"], labels=prompts["labels"])
    assert not torch.allclose(with_mask, without, atol=1e-3)


@native
@torch.no_grad()
def test_changed_weights_of_the_last_mask_layer_are_used() -> None:
    model = model_of()
    prompts, image = prompts_of(model, 1), model.prepare(embedding_of(model))
    model.decode_prompts(image, **prompts)
    last = model.prompt_encoder.mask_downscaling[-1]
    assert isinstance(last, nn.Conv2d)
    last.weight.mul_(-1)
    logits, _ = model.decode_prompts(image, **prompts)
    torch.testing.assert_close(logits, exact(model, prompts, False)[0], rtol=1e-4, atol=1e-5)


def _hooked(encoder: PromptEncoder) -> None:
    encoder.mask_downscaling[-1].register_forward_hook(lambda module, args, result: 2 * result)


def _other_kernel(encoder: PromptEncoder) -> None:
    encoder.mask_downscaling[-1] = nn.Conv2d(16, 64, 3, padding=1)


def _other_groups(encoder: PromptEncoder) -> None:
    encoder.mask_downscaling[-1] = nn.Conv2d(16, 64, 1, groups=2)


def _other_dense(encoder: PromptEncoder) -> None:
    plain = encoder.dense
    encoder.dense = lambda masks: 2 * plain(masks)  # type: ignore[method-assign]


@pytest.mark.parametrize("alter", [_hooked, _other_kernel, _other_groups, _other_dense])
@torch.no_grad()
def test_altered_mask_embedding_falls_back_to_pytorch(
    alter: Callable[[PromptEncoder], None], plain_calls: list[int]
) -> None:
    model = model_of()
    prompts, image = prompts_of(model, 2), model.prepare(embedding_of(model))
    usual, _ = model.decode_prompts(image, **prompts)
    alter(model.prompt_encoder)
    plain_calls.clear()
    logits, _ = model.decode_prompts(image, **prompts)
    assert plain_calls == [2] and not torch.allclose(logits, usual)


@torch.no_grad()
def test_last_mask_layer_may_lack_a_bias() -> None:
    model = model_of()
    model.prompt_encoder.mask_downscaling[-1] = randomised(nn.Conv2d(16, 64, 1, bias=False))
    check(model, prompts_of(model, 2))


def test_gradients_reach_the_mask_embedding() -> None:
    model = model_of()
    logits, _ = model.decode_prompts(embedding_of(model), **prompts_of(model, 2))
    logits.sum().backward()
    first = model.prompt_encoder.mask_downscaling[0]
    assert isinstance(first, nn.Conv2d) and first.weight.grad is not None and bool(first.weight.grad.any())


@torch.no_grad()
def test_prompts_with_masks_prepare_no_image_without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam_core.models.native.cpu_module", None)
    model = model_of()
    image = model.prepare(embedding_of(model))
    model.decode_prompts(image, **prompts_of(model, 1))
    assert image._image_decoder is None


@native
@torch.no_grad()
def test_image_is_prepared_for_masks_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = model_of(), list[int]()
    prompts, image = prompts_of(model, 2), model.prepare(embedding_of(model))
    source = TiledImage._source
    monkeypatch.setattr(TiledImage, "_source", lambda self: made.append(1) or source(self))
    for _ in range(3):
        model.decode_prompts(image, **prompts)
    assert len(made) == 2  # once for prompts without masks, once for all with masks
