"""Tests of properties of the networks that the golden numbers don't cover."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor

from decoder_arguments import randomised
from fastsam_core.models import registry
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.mask_scoring import stability_score
from fastsam_core.models.sam_model import SamModel
from fastsam_core.models.vit_block import Attention, resample_rel_pos
from fastsam_core.ops._attention.windows import partition, unpartition
from tensor_sizes import LargestTensor


@pytest.fixture(scope="module")
def nano() -> SamModel:
    model = randomised(registry.build("sam_nano"))
    assert isinstance(model, SamModel)
    model.set_image_size(128)
    return model


@pytest.fixture(scope="module")
def embedding() -> Tensor:
    return torch.randn(1, 128, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As published by Meta.
    [("sam_b", 93_735_472), ("sam_l", 312_342_832), ("sam_h", 641_090_608)],
)
def test_parameter_counts_of_official_models(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = registry.build(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.name == name
    assert model.image_size == 1024


def test_unknown_model_suggests_a_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'sam_b'"):
        registry.build("sam_bb")


def test_partition_pads_and_unpartition_inverts_it() -> None:
    x = torch.randn(2, 5, 7, 3)
    padding = torch.tensor([10.0, 20.0, 30.0])
    windows = partition(x, 4, padding)
    assert windows.shape == (2 * 2 * 2, 4, 4, 3)
    torch.testing.assert_close(unpartition(windows, 5, 7), x)
    # The last window of an image begins at row 4, column 4; only one row and three columns of it aren't padding.
    torch.testing.assert_close(windows[3, 1:], padding.expand(3, 4, 3))
    torch.testing.assert_close(windows[3, 0, 3], padding)


def attention_reference(attn: Attention, x: Tensor, window: int) -> Tensor:
    """Compute attention in the textbook form: pad, cut windows, and add the full N x N bias."""
    height, width = x.shape[1:3]
    windows = partition(x, window, torch.zeros(x.shape[-1])) if window else x
    side_h, side_w = windows.shape[1:3]
    q, k, v = attn.qkv(windows).flatten(1, 2).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    table_h, table_w = resample_rel_pos(attn.rel_pos_h, side_h), resample_rel_pos(attn.rel_pos_w, side_w)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    for a, b in itertools.product(range(side_h * side_w), repeat=2):
        (ya, xa), (yb, xb) = divmod(a, side_w), divmod(b, side_w)
        scores[:, :, a, b] += q[:, :, a] @ (table_h[ya - yb + side_h - 1] + table_w[xa - xb + side_w - 1])
    out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2).unflatten(1, (side_h, side_w))
    return attn.proj(unpartition(out, height, width) if window else out)


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("grid", [6, 8], ids=["resampled", "learnt"])
@torch.no_grad()
def test_attention_equals_the_textbook(window: int, grid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam_core.ops._attention.reference._BIAS_BLOCK_ELEMENTS", 500)  # several blocks of rows
    attn = randomised(Attention(12, 3, use_rel_pos=True, input_size=(window or 8, window or 8)))
    assert isinstance(attn, Attention)
    x = torch.randn(2, grid, grid, 12)
    torch.testing.assert_close(attn(x, window), attention_reference(attn, x, window))


@torch.no_grad()
def test_global_attention_never_allocates_the_full_score_matrix() -> None:
    encoder = sam_vit(16, 1, 2, (0,), out_chans=8).eval()
    with LargestTensor() as largest:
        encoder(torch.zeros(1, 3, 1024, 1024))
    tokens = 64 * 64
    assert 3 * 1024 * 1024 <= largest.numel < 2 * tokens * tokens / 4  # 2 heads x N x N


def test_gradients_reach_every_parameter(nano: SamModel) -> None:
    embedding = nano.encode_image(torch.randn(1, 3, 128, 128))
    points, labels = torch.full((2, 1, 2), 60.0), torch.tensor([[1], [0]])
    logits, iou = nano.decode_prompts(embedding, points, labels, multimask_output=True)
    single, _ = nano.decode_prompts(embedding, boxes=torch.tensor([[10.0, 10.0, 90.0, 90.0]]))
    (logits.square().mean() + iou.square().mean() + single.square().mean()).backward()
    untouched = {name for name, p in nano.named_parameters() if p.grad is None or not p.grad.any()}
    nano.zero_grad(set_to_none=True)
    assert {name for name in untouched if "mask_downscaling" not in name} == set()


def assert_same_masks(
    model: SamModel, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], rtol: float = 1e-4
) -> None:
    """Compare logits (N, M, h, w) and predicted IoUs (N, M), the latter without the share of the masks' stability.

    Stability counts pixels: one pixel whose logit is within rounding of a threshold changes it by more than rounding.
    """
    share = model.mask_scoring.stability_share
    of_decoder = [iou.detach() - share * stability_score(logits.detach()) for logits, iou in (found, expected)]
    torch.testing.assert_close(*of_decoder, rtol=rtol, atol=1e-5)
    torch.testing.assert_close(found[0].detach(), expected[0].detach(), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("clicks", [1, 3])
@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("count", [1, 9])
def test_folded_decoder_equals_plain(nano: SamModel, embedding: Tensor, clicks: int, boxes: bool, count: int) -> None:
    points, labels = torch.rand(count, clicks, 2) * 128, torch.randint(-1, 2, (count, clicks))
    box = torch.rand(count, 4) * 128 if boxes else None
    plain = nano.decode_prompts(embedding, points, labels, box, multimask_output=True)
    with torch.no_grad():
        folded = nano.decode_prompts(embedding, points, labels, box, multimask_output=True)
    assert_same_masks(nano, folded, plain)


def test_prompts_are_independent(nano: SamModel, embedding: Tensor) -> None:
    points, labels = torch.rand(11, 2, 2) * 128, torch.ones(11, 2)
    with torch.no_grad():
        logits, iou = nano.decode_prompts(embedding, points, labels)
        for i in (0, 4, 10):
            alone = nano.decode_prompts(embedding, points[i : i + 1], labels[i : i + 1])
            assert_same_masks(nano, alone, (logits[i : i + 1], iou[i : i + 1]))


def test_position_of_padding_clicks_does_not_matter(nano: SamModel, embedding: Tensor) -> None:
    labels = torch.tensor([[1, -1]])
    with torch.no_grad():
        a, _ = nano.decode_prompts(embedding, torch.tensor([[[30.0, 40.0], [0.0, 0.0]]]), labels)
        b, _ = nano.decode_prompts(embedding, torch.tensor([[[30.0, 40.0], [99.0, 7.0]]]), labels)
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_decode_points_gives_the_chosen_masks(nano: SamModel, embedding: Tensor) -> None:
    points, labels = torch.rand(10, 1, 2) * 128, torch.ones(10, 1)
    with torch.no_grad():
        every, every_iou = nano.decode_prompts(embedding, points, labels, multimask_output=True)
    iou, logits = nano.decode_points(embedding, points, labels)
    torch.testing.assert_close(nano.mask_scoring.predicted_iou(iou, every), every_iou)
    assert not torch.allclose(iou, every_iou)  # `every_iou` includes the masks' stability
    chosen = logits([7, 0, 7, 3], torch.tensor([2, 1, 0, 2]))
    torch.testing.assert_close(chosen, every[[7, 0, 7, 3], [2, 1, 0, 2]], rtol=1e-4, atol=1e-5)
    assert logits([], []).shape == (0, 32, 32)


def test_many_clicks_equal_the_plain_decoder(nano: SamModel, embedding: Tensor) -> None:
    points, labels = torch.rand(2, 30, 2) * 128, torch.ones(2, 30)
    with torch.no_grad():
        found = nano.decode_prompts(embedding, points, labels)
    assert_same_masks(nano, found, nano.decode_prompts(embedding, points, labels), rtol=1.3e-6)


def test_wrong_shapes_and_sizes_are_refused(nano: SamModel, embedding: Tensor) -> None:
    with pytest.raises(ValueError, match="takes \\(B, 3, 128, 128\\)"):
        nano.encode_image(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="takes \\(1, 128, 8, 8\\)"):
        nano.prepare(torch.zeros(1, 128, 4, 4))
    with pytest.raises(ValueError, match="no prompt"):
        nano.decode_prompts(embedding)
    with pytest.raises(ValueError, match="different numbers of objects"):
        nano.decode_prompts(embedding, torch.zeros(2, 1, 2), torch.ones(2, 1), torch.zeros(3, 4))
    for size in (0, 100, -16, 64.0, True):
        with pytest.raises(ValueError, match="multiple of 16"):
            nano.set_image_size(size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be S or \(S, S\)"):
        nano.set_imgsz((128, 64))


@pytest.mark.parametrize("name", ["mobile_sam", "sam_nano"])
def test_models_take_other_input_sizes(name: str) -> None:
    model = registry.build(name).eval()
    keys = set(model.state_dict())
    with torch.no_grad():
        for size in (96, 240):
            model.set_imgsz((size, size) if size == 96 else size)
            embedding = model.encode_image(torch.zeros(1, 3, size, size))
            logits, _ = model.decode_prompts(embedding, boxes=torch.tensor([[1.0, 2.0, 30.0, 40.0]]))
            assert logits.shape == (1, 1, size // 4, size // 4)
    assert set(model.state_dict()) == keys


def test_model_at_another_size_shares_its_parts() -> None:
    nano = registry.build("sam_nano")
    for size in (64, 128):
        other = nano.at_image_size(size)
        assert (other.image_size, other.prompt_encoder.grid_size, nano.image_size) == (size, size // 16, 512)
        assert other.mask_decoder is nano.mask_decoder and list(other.state_dict()) == list(nano.state_dict())
    nano.prompt_encoder.sparse = nano.prompt_encoder.dense  # type: ignore[method-assign, assignment]
    assert nano.at_image_size(64).prompt_encoder.sparse is nano.prompt_encoder.sparse
    del nano.prompt_encoder.sparse
    assert "sparse" not in vars(nano.at_image_size(64).prompt_encoder)
    nano.prompt_encoder = copy.deepcopy(nano.prompt_encoder)
    twin = pickle.loads(pickle.dumps(nano))
    for model in (nano, twin):
        assert model.at_image_size(64).prompt_encoder.no_mask_embed is model.prompt_encoder.no_mask_embed


@torch.no_grad()
def test_vit_takes_other_input_sizes() -> None:
    encoder = sam_vit(16, 2, 2, (1,), img_size=128, window_size=3, out_chans=8).eval()
    assert encoder(torch.zeros(1, 3, 128, 128)).shape == (1, 8, 8, 8)
    assert encoder(torch.zeros(2, 3, 80, 80)).shape == (2, 8, 5, 5)


def test_empty_prompts_give_empty_results(nano: SamModel, embedding: Tensor) -> None:
    logits, iou = nano.decode_prompts(embedding, boxes=torch.zeros(0, 4), multimask_output=True)
    assert logits.shape == (0, 3, 32, 32)
    assert iou.shape == (0, 3)


@pytest.mark.parametrize("form", ["usual", "plain"])
def test_no_points_give_no_masks(nano: SamModel, embedding: Tensor, form: str) -> None:
    hook = nano.mask_decoder.register_forward_hook(lambda *_: None) if form == "plain" else None
    try:
        iou, logits = nano.decode_points(embedding, torch.zeros(0, 1, 2), torch.zeros(0, 1))
    finally:
        if hook is not None:
            hook.remove()
    assert iou.shape == (0, 3) and iou.dtype == torch.float32
    assert logits([], []).shape == (0, 32, 32)


@pytest.mark.parametrize("size", [96, 72])
def test_image_encoder_is_equal_with_and_without_gradients(size: int) -> None:
    # Without gradients, native operations run if available.
    torch.manual_seed(0)
    encoder = sam_vit(32, 3, 2, (1,), img_size=96, patch_size=8, window_size=5, out_chans=16)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.randn(2, 3, size, size)
    before = images.clone()
    with torch.no_grad():
        given = encoder(images)
    assert torch.equal(images, before)
    torch.testing.assert_close(given, encoder(images).detach(), rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        assert torch.equal(encoder(images), given)
