"""Parts of Meta's model, used as training code does: encoders and decoder called on their own, layers replaced, and
weights changed while a predictor uses them.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import golden_recipe
from fastsam_core import segment_anything
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.mask_decoder import MaskDecoder as OwnDecoder
from fastsam_core.segment_anything import SamAutomaticMaskGenerator, SamPredictor
from fastsam_core.segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from golden_recipe import fill_state_dict
from small_model import small_sam

HEIGHT, WIDTH = 48, 80
BOX = np.array([4, 6, 40, 30])


@pytest.fixture
def sam() -> segment_anything.Sam:
    return small_sam()


def predictor_of(model: segment_anything.Sam) -> SamPredictor:
    predictor = SamPredictor(model)
    predictor.set_image(golden_recipe.test_image(HEIGHT, WIDTH))
    return predictor


def decode(model: segment_anything.Sam, embedding: Tensor, boxes: Tensor | None, multimask_output: bool) -> Any:
    """Call the prompt encoder and the mask decoder as training code does."""
    sparse, dense = model.prompt_encoder(points=None, boxes=boxes, masks=None)
    return model.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
    )


@pytest.mark.parametrize("multimask_output", [False, True])
def test_separate_parts_match_predictor(sam: segment_anything.Sam, multimask_output: bool) -> None:
    predictor = predictor_of(sam)
    box = torch.from_numpy(predictor.transform.apply_boxes(BOX, (HEIGHT, WIDTH))).float()
    low_res, scores = decode(sam, predictor.features, box[:, None], multimask_output)
    masks, expected_scores, expected = predictor.predict(box=BOX, multimask_output=multimask_output)
    np.testing.assert_allclose(low_res[0].detach().numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(scores[0].detach().numpy(), expected_scores, atol=1e-4)
    full = sam.postprocess_masks(low_res, predictor.input_size, predictor.original_size)
    assert ((full[0] > sam.mask_threshold).numpy() != masks).mean() < 1e-3


def test_training_step_reaches_encoder_and_decoder(sam: segment_anything.Sam) -> None:
    sam.train()
    for parameter in sam.prompt_encoder.parameters():
        parameter.requires_grad = False
    embedding = sam.image_encoder(sam.preprocess(torch.rand(2, 3, 100, 128) * 255))
    low_res, scores = decode(sam, embedding[:1], torch.tensor([[10.0, 20, 90, 80], [0, 0, 50, 50]])[:, None], False)
    assert low_res.shape == (2, 1, 32, 32) and scores.shape == (2, 1)
    (low_res.mean() + scores.mean()).backward()
    trained = {name.split(".")[0] for name, parameter in sam.named_parameters() if parameter.grad is not None}
    assert trained == {"image_encoder", "mask_decoder"}
    assert sam.image_encoder.patch_embed.seq[0].c.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_decoder_with_a_batch_of_embeddings(sam: segment_anything.Sam) -> None:
    embeddings = torch.randn(3, 128, 8, 8, generator=torch.Generator().manual_seed(1))
    low_res, scores = decode(sam, embeddings, None, True)
    assert low_res.shape == (3, 3, 32, 32) and scores.shape == (3, 3)
    for place in range(3):
        alone, score = decode(sam, embeddings[place : place + 1], None, True)
        torch.testing.assert_close(low_res[place : place + 1], alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores[place : place + 1], score, rtol=1e-4, atol=1e-4)
    boxes = torch.tensor([[10.0, 20, 90, 80], [0, 0, 50, 50], [5, 5, 60, 70]])
    pairwise, _ = decode(sam, embeddings, boxes, False)
    torch.testing.assert_close(pairwise[1:2], decode(sam, embeddings[1:2], boxes[1:2], False)[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_custom_prompt_encoder_and_decoder() -> None:
    """The prompt encoder has patches of 4 pixels, as LiteMedSAM's, and the decoder another number of masks."""
    prompts = PromptEncoder(
        embed_dim=32, image_embedding_size=(16, 16), input_image_size=(64, 64), mask_in_chans=16
    ).eval()
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=5).eval()
    sparse, dense = prompts(points=None, boxes=torch.tensor([[[1.0, 2, 30, 40]]]), masks=torch.zeros(1, 1, 64, 64))
    given = torch.randn(1, 32, 16, 16), prompts.get_dense_pe(), sparse, dense
    masks, scores = decoder(*given, multimask_output=True)
    assert masks.shape == (1, 5, 64, 64) and scores.shape == (1, 5)
    assert torch.equal(masks, decoder.predict_masks(*given)[0][:, 1:])
    assert decoder.num_mask_tokens == 6 and not decoder.is_standard()


@torch.no_grad()
def test_changed_windows_and_activation_of_a_vit_block_take_effect() -> None:
    torch.manual_seed(0)
    encoder = sam_vit(48, 3, 3, (2,), img_size=128, window_size=3, out_chans=32).eval()
    for value in encoder.parameters():
        nn.init.normal_(value, std=0.1)
    image = torch.randn(1, 3, 128, 128)
    before = encoder(image)
    expected = copy.deepcopy(encoder)
    encoder.blocks[0].window_size = 0
    first = expected.blocks[0]

    def with_global_attention(x: Tensor) -> Tensor:
        x = x + first.attn(first.norm1(x))
        return x + first.mlp(first.norm2(x))

    first.forward = with_global_attention
    assert [block.window_size for block in encoder.blocks] == [0, 3, 0]
    assert (encoder(image) - before).abs().max() > 1e-4
    torch.testing.assert_close(encoder(image), expected(image), rtol=0, atol=1e-5)
    mlp = expected.blocks[1].mlp
    mlp.forward = lambda x: mlp.lin2(mlp.lin1(x).relu())
    encoder.blocks[1].mlp.act = nn.ReLU()
    assert (encoder(image) - before).abs().max() > 1e-4
    torch.testing.assert_close(encoder(image), expected(image), rtol=0, atol=1e-5)


@torch.no_grad()
def test_torch_exported_decoder_accepts_any_number_of_prompts() -> None:
    decoder = MaskDecoder(transformer_dim=32, transformer=TwoWayTransformer(2, 32, 4, 64)).eval()
    image = torch.randn(1, 32, 4, 4), torch.randn(1, 32, 4, 4)
    dense, count = torch.randn(1, 32, 1, 1), torch.export.Dim("count", min=2)
    program = torch.export.export(
        decoder,
        (*image, torch.randn(3, 2, 32), dense, True),
        dynamic_shapes=({}, {}, {0: count}, {}, None),
    )
    given = *image, torch.randn(7, 2, 32), dense, True
    for found, expected in zip(program.module()(*given), decoder(*given), strict=True):
        torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------------------------------------------- modified decoders


class Adapter(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) - 0.5 * self.layer.weight.sum(1)


class NegatingDecoder(MaskDecoder):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        masks, scores = super().forward(*args, **kwargs)
        return -masks, scores


def adapted(decoder: OwnDecoder) -> None:
    for block in decoder.transformer.blocks:
        attention = block.cross_attn_image_to_token
        attention.k_proj = Adapter(attention.k_proj)  # type: ignore[assignment]
    final = decoder.transformer.final_attn_token_to_image
    final.v_proj = Adapter(final.v_proj)  # type: ignore[assignment]


def patched(decoder: OwnDecoder) -> None:
    plain = decoder.predict_masks
    decoder.predict_masks = lambda **given: (-plain(**given)[0], plain(**given)[1])  # type: ignore[method-assign]


def subclassed(decoder: OwnDecoder) -> None:
    decoder.__class__ = NegatingDecoder


def with_other_activation(decoder: OwnDecoder) -> None:
    decoder.output_upscaling[2] = nn.ReLU()


def with_approximate_activation(decoder: OwnDecoder) -> None:
    decoder.output_upscaling[4] = nn.GELU(approximate="tanh")
    decoder.output_upscaling[2].approximate = "tanh"


def with_other_eps(decoder: OwnDecoder) -> None:
    decoder.transformer.blocks[1].norm2.eps = 0.5


def with_other_heads(decoder: OwnDecoder) -> None:
    decoder.transformer.blocks[0].self_attn.num_heads = 2


def with_a_wider_head(decoder: OwnDecoder) -> None:
    first, second, _ = decoder.output_hypernetworks_mlps[1].layers
    decoder.output_hypernetworks_mlps[1].layers[0] = nn.Linear(first.in_features, 200)
    decoder.output_hypernetworks_mlps[1].layers[1] = nn.Linear(200, second.out_features)


@pytest.mark.parametrize(
    "change",
    [
        *(adapted, patched, subclassed, with_other_activation, with_a_wider_head),
        *(with_approximate_activation, with_other_eps, with_other_heads),
    ],
)
def test_predictor_uses_a_modified_decoder(sam: segment_anything.Sam, change: Callable[[OwnDecoder], None]) -> None:
    before = predictor_of(sam).predict(box=BOX)[2]
    change(sam.mask_decoder)
    predictor = predictor_of(sam)
    _, scores, low_res = predictor.predict(box=BOX)
    assert np.abs(low_res - before).max() > 1e-4  # far more than rounding
    box = torch.from_numpy(predictor.transform.apply_boxes(BOX, (HEIGHT, WIDTH))).float()
    with torch.no_grad():
        expected, expected_scores = decode(sam, predictor.features, box, True)
    np.testing.assert_allclose(low_res, expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(scores, expected_scores[0].numpy(), atol=1e-5)
    image = sam.prepare(predictor.features)
    points, labels = 100 * torch.rand(9, 1, 2), torch.ones(9, 1)
    scores, logits = sam.decode_points(image, points, labels)
    with torch.no_grad():
        made, made_scores = sam.decode_prompts(image, points, labels, multimask_output=True)
    torch.testing.assert_close(scores, made_scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits([8, 0], [2, 1]), made[[8, 0], [2, 1]], rtol=1e-4, atol=1e-4)


def test_forward_hooks_of_the_decoder_are_called(sam: segment_anything.Sam) -> None:
    seen: list[str] = []
    for part in (sam.mask_decoder, sam.mask_decoder.transformer, sam.mask_decoder.transformer.layers[0]):
        part.register_forward_hook(lambda module, given, result: seen.append(type(module).__name__))
    predictor_of(sam).predict(box=BOX)
    assert seen == ["TwoWayBlock", "TwoWayTransformer", "MaskDecoder"]


# ------------------------------------------------------------------------------------- what changes under a predictor


def assert_matches_new_predictor(predictor: SamPredictor) -> None:
    """Assert that `predictor` gives the same results as a new one that is assigned a copy of its features."""
    other = SamPredictor(predictor.model)
    other.features, other.is_image_set = predictor.features.clone(), True
    other.original_size, other.input_size = predictor.original_size, predictor.input_size
    for found, expected in zip(predictor.predict(box=BOX), other.predict(box=BOX), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_changed_weights_and_features_take_effect(sam: segment_anything.Sam) -> None:
    predictor = predictor_of(sam)
    results = [predictor.predict(box=BOX)[2]]

    def differs() -> None:
        assert_matches_new_predictor(predictor)
        results.append(predictor.predict(box=BOX)[2])
        assert np.abs(results[-1] - results[-2]).max() > 1e-3

    predictor.features *= 0.5
    differs()
    with torch.no_grad():
        for parameter in sam.mask_decoder.parameters():
            parameter *= 0.9
    differs()
    sam.prompt_encoder.load_state_dict({name: 2 * x for name, x in sam.prompt_encoder.state_dict().items()})
    differs()
    other = copy.deepcopy(sam.mask_decoder)
    other.load_state_dict(fill_state_dict(other.state_dict()))
    sam.mask_decoder = other
    differs()
    with torch.inference_mode():
        predictor.set_image(golden_recipe.test_image(WIDTH, HEIGHT))
    differs()


def test_image_encoder_works_without_the_other_parts(sam: segment_anything.Sam) -> None:
    images = torch.rand(1, 3, 90, 128) * 255
    with torch.no_grad():
        expected = sam.image_encoder(sam.preprocess(images))
        del sam.prompt_encoder, sam.mask_decoder
        assert torch.equal(sam.image_encoder(sam.preprocess(images)), expected)
    assert sam.device == torch.device("cpu")
    assert sam.double().image_encoder.patch_embed.seq[0].c.weight.dtype == torch.float64


def test_input_size_may_be_set_on_each_part(sam: segment_anything.Sam) -> None:
    sam.image_encoder.img_size = 64  # type: ignore[assignment]
    sam.prompt_encoder.image_embedding_size, sam.prompt_encoder.input_image_size = (4, 4), (64, 64)
    predictor = predictor_of(sam)
    assert predictor.transform.target_length == 64 and predictor.input_size == (38, 64)
    found = predictor.predict(box=BOX)
    sam.set_image_size(64)
    for array, expected in zip(found, predictor_of(sam).predict(box=BOX), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_segment_everything_applies_mask_threshold(sam: segment_anything.Sam) -> None:
    image = golden_recipe.test_image(HEIGHT, WIDTH)
    generator = SamAutomaticMaskGenerator(sam, 2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
    generator.point_grids[0][:, 0] = 0.5  # callers may edit the grid
    before = generator.generate(image)
    sam.mask_threshold = 0.3
    records = generator.generate(image)
    predictor = predictor_of(sam)
    assert len(records) == len(before)
    for record in records:
        assert record["point_coords"][0][0] == WIDTH / 2
        masks, _, _ = predictor.predict(np.array(record["point_coords"]), np.array([1]))
        assert min((record["segmentation"] != mask).mean() for mask in masks) < 1e-3
    assert sum(record["area"] for record in records) < sum(record["area"] for record in before)


@torch.no_grad()
def test_embedding_under_autocast_is_float32_as_in_the_reference() -> None:
    encoder, images = sam_vit(32, 1, 2, (0,), img_size=64, out_chans=16), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, encoder(images), rtol=0.1, atol=0.1)


# -------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("modeling", "ImageEncoderViT MaskDecoder PromptEncoder Sam TinyViT TwoWayTransformer"),
        ("modeling.common", "LayerNorm2d MLPBlock"),
        ("modeling.image_encoder", "Attention Block ImageEncoderViT LayerNorm2d MLPBlock PatchEmbed"),
        ("modeling.mask_decoder", "MLP MaskDecoder"),
        ("modeling.prompt_encoder", "PositionEmbeddingRandom PromptEncoder"),
        ("modeling.sam", "Sam"),
        ("modeling.tiny_vit_sam", "TinyViT"),
        ("modeling.transformer", "Attention TwoWayAttentionBlock TwoWayTransformer"),
    ],
)
def test_import_paths_of_metas_modules(path: str, names: str) -> None:
    module = importlib.import_module(f"fastsam_core.segment_anything.{path}")
    assert all(isinstance(getattr(module, name), type) for name in names.split())
