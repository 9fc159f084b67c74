"""Models that users build from the classes in `segment_anything.modeling`, beside the outputs of Meta's classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import golden_recipe
import meta_models
from fastsam_core import SAM
from fastsam_core.models.common import PIXEL_MEAN, PIXEL_STD
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.native import is_unmodified
from fastsam_core.models.sam_model import SamModel
from fastsam_core.segment_anything import Sam, SamPredictor, build_sam_nano, modeling
from fastsam_core.segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from fastsam_core.segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    add_decomposed_rel_pos,
    window_partition,
    window_unpartition,
)
from small_model import QUIET

GOLDEN = np.load(meta_models.PATH)
IMAGE = golden_recipe.test_image(56, 40)
BOX = np.array([4, 6, 40, 30])


def build_sam(name: str = "official") -> Sam:
    sam = meta_models.build_sam(modeling, name)
    assert isinstance(sam, Sam)
    return sam


@pytest.mark.parametrize("name", meta_models.ENCODERS)
@torch.no_grad()
def test_encoder_equals_metas(name: str) -> None:
    settings = meta_models.ENCODERS[name]
    encoder = meta_models.build_encoder(modeling, settings)
    expected = torch.from_numpy(GOLDEN[f"encoder {name}"])
    given = meta_models.encoder_input(settings)
    torch.testing.assert_close(encoder(given), expected, rtol=1e-4, atol=1e-4)
    has_native_form = name not in ("ReLU", "approximate GELU", "RMSNorm", "LayerNorm without weights")
    assert is_unmodified(encoder) is has_native_form
    with torch.enable_grad():
        torch.testing.assert_close(encoder(given).detach(), expected, rtol=1e-4, atol=1e-4)
    half = encoder.to(torch.bfloat16)(given.bfloat16())
    assert (half - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("name", meta_models.DECODERS)
def test_whole_model_equals_metas(name: str, multimask_output: bool) -> None:
    sam = build_sam(name)
    assert sam.mask_decoder.is_standard() is (name == "official")
    (output,) = sam([meta_models.prompts()], multimask_output=multimask_output)
    expected_iou, expected = (GOLDEN[f"{kind} {name} {multimask_output}"] for kind in ("iou", "logits"))
    torch.testing.assert_close(output["iou_predictions"], torch.from_numpy(expected_iou), rtol=1e-4, atol=1e-4)
    tolerance = {"rtol": 2**-10, "atol": 1e-3}  # the stored logits are float16
    torch.testing.assert_close(output["low_res_logits"], torch.from_numpy(expected).float(), **tolerance)
    assert output["masks"].shape == (*output["iou_predictions"].shape, 56, 40)


def test_relative_positions_of_other_sizes_than_the_queries() -> None:
    random = torch.Generator().manual_seed(2)
    scores, queries = torch.randn(2, 6, 20, generator=random), torch.randn(2, 6, 8, generator=random)
    tables = torch.randn(7, 8, generator=random), torch.randn(11, 8, generator=random)
    added = add_decomposed_rel_pos(scores, queries, *tables, (2, 3), (4, 5))
    torch.testing.assert_close(added, torch.from_numpy(GOLDEN["scores"]), rtol=1e-5, atol=1e-5)


def test_windows_are_cut_and_joined() -> None:
    x = torch.arange(2 * 5 * 7 * 3.0).view(2, 5, 7, 3)
    windows, padded = window_partition(x, 4)
    assert windows.shape == (8, 4, 4, 3) and padded == (8, 8)
    assert torch.equal(windows[1, :, :3], x[0, :4, 4:]) and not windows[1, :, 3].any() and not windows[3, 1:].any()
    assert torch.equal(window_unpartition(windows, 4, padded, (5, 7)), x)
    with pytest.raises(ValueError, match=r"pad_hw must be \(8, 8\) for \(5, 7\) and windows of 4, not \(8, 12\)"):
        window_unpartition(windows, 4, (8, 12), (5, 7))


# ----------------------------------------------------------------------------------------- through the other interfaces


def test_predictor_normalises_by_the_models_values() -> None:
    sam = build_sam()
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    scaled = torch.from_numpy(predictor.transform.apply_image(IMAGE)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = sam.image_encoder(sam.preprocess(scaled))
    torch.testing.assert_close(predictor.features, expected, rtol=1e-4, atol=1e-4)
    sam.pixel_std = sam.pixel_std * 2
    predictor.set_image(IMAGE)
    assert (predictor.features - expected).abs().max() > 1e-2
    with torch.no_grad():
        torch.testing.assert_close(predictor.features, sam.image_encoder(sam.preprocess(scaled)), rtol=1e-4, atol=1e-4)


def test_normalisation_survives_copies_and_casts_and_follows_changes() -> None:
    sam = build_sam()
    values = ((90.0, 100.5, 0.25), (60.0, 1.5, 255.0))
    assert sam.normalisation == values and build_sam_nano().normalisation == (PIXEL_MEAN, PIXEL_STD)
    assert copy.deepcopy(sam).normalisation == sam.half().normalisation == values
    assert copy.deepcopy(build_sam_nano()).normalisation == (PIXEL_MEAN, PIXEL_STD)
    # The usual values aren't numbers of half precision.
    assert build_sam_nano().half().normalisation == build_sam_nano().bfloat16().normalisation == (PIXEL_MEAN, PIXEL_STD)
    sam.float().pixel_mean.fill_(7)
    assert sam.normalisation == ((7.0, 7.0, 7.0), values[1])


def test_model_is_accepted_by_sam_and_its_embeddings_are_its_own(tmp_path: Any) -> None:
    """Embeddings that were saved with another normalisation are refused."""
    sam, other = build_sam(), build_sam()
    other.pixel_mean = other.pixel_mean + 1
    bgr = np.ascontiguousarray(IMAGE[..., ::-1])
    options = {**QUIET, "imgsz": 112}
    model = SAM(sam)
    logits = model(bgr, bboxes=BOX, **options)[0]
    assert len(logits) == 1 and logits.orig_shape == (56, 40)
    assert model.predictor is not None
    model.predictor.set_image(bgr)
    model.predictor.save_features(tmp_path / "image.safetensors")
    model.predictor.load_features(tmp_path / "image.safetensors")
    refusing = SAM(other)
    refusing(bgr, bboxes=BOX, **options)
    assert refusing.predictor is not None
    with pytest.raises(ValueError, match="other weights of sam"):
        refusing.predictor.load_features(tmp_path / "image.safetensors")


# ------------------------------------------------------------------------------------------------------ parts of theirs


class PlainAttention(nn.Module):
    """Attention as Meta's, for windows that are cut out."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        attention, (batch, height, width, _) = self.attention, x.shape
        q, k, v = attention.qkv(x).reshape(batch, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * attention.scale) @ k.transpose(-2, -1)
        if attention.use_rel_pos:
            size = (height, width)
            flat = add_decomposed_rel_pos(
                scores.flatten(0, 1), q.flatten(0, 1), attention.rel_pos_h, attention.rel_pos_w, size, size
            )
            scores = flat.view_as(scores)
        out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        return attention.proj(out)


@pytest.mark.parametrize("name", ["official", "no positions"])
@torch.no_grad()
def test_replaced_attention_gets_the_windows(name: str) -> None:
    encoder = meta_models.build_encoder(modeling, meta_models.ENCODERS[name])
    assert isinstance(encoder, ImageEncoderViT)
    given, replaced = torch.randn(2, 3, 112, 112), []
    expected = encoder(given)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        block.attn = PlainAttention(block.attn)  # type: ignore[assignment]
        replaced.append(block.attn)
    torch.testing.assert_close(encoder(given), expected, rtol=1e-4, atol=1e-4)
    last = (2, 7, 7, 48) if name == "official" else (18, 3, 3, 48)
    assert [attention.shapes for attention in replaced] == [[(18, 3, 3, 48)], [(18, 3, 3, 48)], [last]]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["official", "no absolute positions"])
@torch.no_grad()
def test_tokens_of_a_replaced_patch_embedding_are_not_changed(name: str) -> None:
    class Stored(nn.Module):
        tokens = torch.randn(2, 48, 7, 7).permute(0, 2, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.tokens

    encoder = meta_models.build_encoder(modeling, meta_models.ENCODERS[name])
    encoder.patch_embed = Stored()
    kept, images = Stored.tokens.clone(), torch.randn(1, 3, 112, 112)
    first = encoder(images)
    assert torch.equal(Stored.tokens, kept) and torch.equal(encoder(images), first)


@torch.no_grad()
def test_hooks_on_attention_see_the_windows() -> None:
    encoder = meta_models.build_encoder(modeling, meta_models.ENCODERS["official"])
    given, shapes = torch.randn(1, 3, 112, 112), []
    expected = encoder(given)
    for block in encoder.blocks:  # type: ignore[union-attr]
        block.attn.register_forward_hook(lambda module, args, out: shapes.append((args[0].shape, out.shape)))
    torch.testing.assert_close(encoder(given), expected, rtol=1e-4, atol=1e-4)
    assert shapes == [((9, 3, 3, 48),) * 2, ((9, 3, 3, 48),) * 2, ((1, 7, 7, 48),) * 2]


@pytest.mark.parametrize("setting", ["scale", "use_rel_pos"])
@torch.no_grad()
def test_changed_settings_of_attention_take_effect(setting: str) -> None:
    encoder = meta_models.build_encoder(modeling, meta_models.ENCODERS["official"])
    given = torch.randn(1, 3, 112, 112)
    before, expected = encoder(given), copy.deepcopy(encoder)
    for changed in (encoder, expected):
        for block in changed.blocks:  # type: ignore[union-attr]
            setattr(block.attn, setting, 0.5 if setting == "scale" else False)
    for block in expected.blocks:  # type: ignore[union-attr]
        block.attn = PlainAttention(block.attn)
    assert (encoder(given) - before).abs().max() > 1e-3
    torch.testing.assert_close(encoder(given), expected(given), rtol=1e-4, atol=1e-4)


class NegatingDecoder(MaskDecoder):
    def predict_masks(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        masks, iou = super().predict_masks(*args, **kwargs)
        return -masks, iou


class PlainTransformer(nn.Module):
    """A transformer of the user's own."""

    def __init__(self, transformer: TwoWayTransformer) -> None:
        super().__init__()
        self.inner = transformer

    def forward(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys = self.inner(*args)
        return queries, -keys


class ForeignDecoder(nn.Module):
    """A decoder that has nothing in common with this package's but its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        features = (image_embeddings + dense_prompt_embeddings).mean(1, keepdim=True) * self.weight
        masks = nn.functional.interpolate(features, scale_factor=4)
        shift = sparse_prompt_embeddings.mean((1, 2))[:, None, None, None]
        masks = (masks + shift).expand(-1, 3 if multimask_output else 1, -1, -1)
        return masks, masks.mean((2, 3))


def with_subclass(sam: Sam) -> MaskDecoder:
    return NegatingDecoder(transformer_dim=32, transformer=sam.mask_decoder.transformer)


def with_transformer(sam: Sam) -> MaskDecoder:
    transformer: Any = PlainTransformer(sam.mask_decoder.transformer)
    return MaskDecoder(transformer_dim=32, transformer=transformer)


def with_linear_without_bias(sam: Sam) -> MaskDecoder:
    transformer = sam.mask_decoder.transformer
    transformer.blocks[1].mlp.lin1 = nn.Linear(32, 64, bias=False)
    return MaskDecoder(transformer_dim=32, transformer=transformer)


def with_foreign_decoder(sam: Sam) -> Any:
    return ForeignDecoder()


@pytest.mark.parametrize("make", [with_subclass, with_transformer, with_linear_without_bias, with_foreign_decoder])
def test_decoders_of_their_own_are_called(make: Callable[[Sam], MaskDecoder]) -> None:
    torch.manual_seed(0)
    official = build_sam()
    sam = Sam(official.image_encoder, official.prompt_encoder, make(official)).eval()
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    _, scores, low_res = predictor.predict(box=BOX, multimask_output=True)
    with torch.no_grad():
        box = torch.from_numpy(predictor.transform.apply_boxes(BOX, (56, 40))).float()
        sparse, dense = sam.prompt_encoder(points=None, boxes=box, masks=None)
        expected, expected_scores = sam.mask_decoder(
            image_embeddings=predictor.features,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    np.testing.assert_allclose(low_res, expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(scores, expected_scores[0].numpy(), atol=1e-5)
    everything = SAM(sam)(IMAGE, points_stride=2, conf_thres=-1e9, stability_score_thresh=-1, **{**QUIET, "imgsz": 112})
    assert len(everything) == 1


class ShiftingEncoder(PromptEncoder):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        sparse, dense = super().forward(*args, **kwargs)
        return sparse + 1, dense - 1


@pytest.mark.parametrize("how", ["subclass", "hook"])
def test_prompt_encoders_of_their_own_are_called(how: str) -> None:
    sam, given = build_sam(), meta_models.prompts()
    calls: list[int] = []
    if how == "subclass":
        encoder = ShiftingEncoder(32, (7, 7), (112, 112)).eval()
        encoder.load_state_dict(sam.prompt_encoder.state_dict())
        sam = Sam(sam.image_encoder, encoder, sam.mask_decoder).eval()
    else:
        sam.prompt_encoder.register_forward_hook(lambda module, args, out: calls.append(1) or (out[0] + 1, out[1] - 1))
    embedding = sam.encode_image(sam.preprocess(given["image"])[None])

    @torch.no_grad()
    def expected(**prompts: Any) -> tuple[Tensor, Tensor]:
        sparse, dense = sam.prompt_encoder(**{"points": None, "boxes": None, "masks": None, **prompts})
        return sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=True)

    points, labels, boxes, masks = (given[name] for name in ("point_coords", "point_labels", "boxes", "mask_inputs"))
    for found, wanted in (
        (sam.decode_prompts(embedding, points, labels, boxes, masks, True), {"boxes": boxes, "masks": masks}),
        (sam.decode_prompts(embedding, points, labels, None, None, True), {}),
    ):
        for value, other in zip(found, expected(points=(points, labels), **wanted), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4)
    for value, other in zip(sam.decode_prompts(embedding, multimask_output=True), expected(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4)
    many = points[:1].expand(20, -1, -1), labels[:1].expand(20, -1)
    scores, logits = sam.decode_points(embedding, *many)
    all_logits, all_scores = expected(points=many)
    torch.testing.assert_close(scores, all_scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits([19, 3], [0, 2]), all_logits[[19, 3], [0, 2]], rtol=1e-4, atol=1e-4)
    assert len(calls) == (0 if how == "subclass" else 4 + 4)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Attention(30, 4), ValueError, "num_heads must divide dim, 30, not be 4"),
        (lambda: Attention(32, 4, use_rel_pos=True), ValueError, "use_rel_pos needs input_size"),
        (lambda: TwoWayTransformer(2, 32, 8, 64, attention_downsample_rate=8), ValueError, "inner width, 4, not be 8"),
        (lambda: Sam(nn.Identity(), nn.Identity(), nn.Identity()), TypeError, "must be a PromptEncoder, not Identity"),  # type: ignore[arg-type]
        (
            lambda: sam_of(encoder=64),
            ValueError,
            "image encoder, 64, must be .* 128, and 16 times .* 8",
        ),
        (lambda: sam_of(grid=16), ValueError, "128, must be input_image_size .* 128, and 16 times .* 16"),
    ],
)
def test_arguments_that_do_not_fit(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def sam_of(encoder: int = 128, grid: int = 8, **given: Any) -> Sam:
    image_encoder = sam_vit(16, 1, 2, (0,), img_size=encoder, out_chans=32)
    decoder = MaskDecoder(transformer_dim=32, transformer=TwoWayTransformer(2, 32, 4, 64))
    return Sam(image_encoder, PromptEncoder(32, (grid, grid), (128, 128)), decoder, **given)


def test_models_that_share_an_encoder_may_differ_in_size() -> None:
    model = SamModel("vit", *list(sam_of().children()))  # type: ignore[arg-type]
    model.set_image_size(64)
    sam = Sam.from_model(model)
    assert sam.image_size == sam.image_encoder.img_size == 64
    model.set_image_size(128)
    assert sam.image_size == 64 and Sam.from_model(model).image_size == 128
