"""Half precision in the models: results close to float32, cached copies of modules, and parts that stay float32."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoder_arguments import randomised
from fastsam_core import Predictor, encoded_image
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.mask_decoder import MaskDecoder, TwoWayTransformer
from fastsam_core.models.precision import Dtypes, dtype_of, in_dtype, usable_dtype
from fastsam_core.models.prompt_encoder import PromptEncoder
from fastsam_core.models.sam_model import SamModel
from predictor_examples import dense
from small_model import FEW, QUIET, bgr_image, small_model

HALVES = [torch.float16, torch.bfloat16]
BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0]]
POINTS = torch.tensor([[[10.0, 20.0], [60.0, 50.0]], [[100.0, 90.0], [3.0, 3.0]]])
LABELS = torch.tensor([[1, 0], [1, -1]])
IMAGES = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(3)) * 4 - 2


def small_vit() -> SamModel:
    encoder = sam_vit(32, 2, 2, (1,), img_size=128, window_size=5, out_chans=64)
    decoder = MaskDecoder(transformer_dim=64, transformer=TwoWayTransformer(2, 64, 8, 128))
    model = randomised(SamModel("vit", encoder, PromptEncoder(64, (8, 8), (128, 128)), decoder))
    assert isinstance(model, SamModel)
    return model


def decode_all(model: SamModel, embedding: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """Run every path of the decoder: folded, with mask prompts, with many tokens, and for selected masks."""
    image = model.prepare(embedding, dtype)
    masks = torch.linspace(-5, 5, 2 * 32 * 32).view(2, 1, 32, 32)
    iou, logits = model.decode_points(image, POINTS, LABELS)
    return [
        *model.decode_prompts(image, POINTS, LABELS),
        *model.decode_prompts(image, POINTS, LABELS, masks=masks, multimask_output=True),
        *model.decode_prompts(image, POINTS.repeat(1, 12, 1), LABELS.repeat(1, 12)),
        iou,
        logits([0, 1], [2, 0]),
    ]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make", [small_vit, small_model])
@torch.no_grad()
def test_calls_in_half_precision_are_close_to_float32(make: Any, dtype: torch.dtype) -> None:
    model = make()
    model.set_image_size(128)
    wanted, given = model.encode_image(IMAGES), model.encode_image(IMAGES, dtype=dtype)
    assert wanted.dtype == torch.float32 and given.dtype == dtype and model.dtype == torch.float32
    spread = 2.0**-6 if dtype == torch.bfloat16 else 2.0**-9
    assert 0 < (given - wanted).abs().max() < 4 * spread * wanted.abs().max()
    exact, halved = decode_all(model, wanted[:1], None), decode_all(model, wanted[:1], dtype)
    # Errors are relative to the largest of all IoUs (or logits), since the IoU of one mask may be near 0.
    largest = {ndim: max(one.abs().max() for one in exact if one.ndim == ndim) for ndim in {one.ndim for one in exact}}
    for one, other in zip(exact, halved, strict=True):
        assert other.dtype == torch.float32 and other.shape == one.shape
        assert 0 < (one - other).abs().max() < 4 * spread * largest[one.ndim]
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("weights", [*HALVES, torch.float64])
@torch.no_grad()
def test_model_with_other_weights_can_compute_in_float32(weights: torch.dtype) -> None:
    model = small_model()
    model.set_image_size(128)
    model.to(weights)
    given = model.encode_image(IMAGES, dtype=torch.float32)
    assert torch.equal(given, copy.deepcopy(model.image_encoder).float()(IMAGES)) and model.dtype == weights
    other = model.encode_image(IMAGES, dtype=torch.bfloat16)
    assert (other - given).abs().max() < 2.0**-4 * given.abs().max()


@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_cast_model_matches_calls_in_that_dtype(dtype: torch.dtype) -> None:
    model = small_vit()
    cast = copy.deepcopy(model).to(dtype)
    assert cast.dtype == dtype
    given = cast.encode_image(IMAGES)
    assert torch.equal(given, model.encode_image(IMAGES, dtype))
    for one, other in zip(decode_all(cast, given[:1], None), decode_all(cast, given[:1], dtype), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    back = cast.encode_image(IMAGES, torch.float32)
    assert back.dtype == torch.float32 and dtype_of(cast.image_encoder) == dtype


@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_folded_decoder_errors_are_at_most_twice_the_plain_ones(dtype: torch.dtype) -> None:
    model = small_model()
    model.set_image_size(128)
    embedding = model.encode_image(IMAGES)[:1]
    points = torch.rand(24, 1, 2, generator=torch.Generator().manual_seed(5)) * 128

    def plain(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        image = model.prepare(embedding, dtype)
        tokens = model.prompt_encoder.sparse(points, torch.ones(24, 1), None).to(dtype)
        logits, iou = image.decoder.predict_masks(image.embedding, image.position, tokens, image.no_mask)
        return logits[:, 1:].float(), iou[:, 1:].float()

    iou, logits = model.decode_points(model.prepare(embedding, dtype), points, torch.ones(24, 1))
    pairs = torch.cartesian_prod(torch.arange(24), torch.arange(3))
    folded = logits(pairs[:, 0], pairs[:, 1]).unflatten(0, (24, 3)), iou
    for exact, usual, ours in zip(plain(torch.float32), plain(dtype), folded, strict=True):
        assert 0 < (ours - exact).abs().max() < 2 * (usual - exact).abs().max()


@pytest.mark.parametrize("dtype", HALVES)
def test_coordinates_stay_float32(dtype: torch.dtype) -> None:
    model = small_vit()
    layer = model.prompt_encoder.pe_layer
    matrix = layer.positional_encoding_gaussian_matrix.clone()
    # 2049 pixels rounded to half precision are off by one pixel, which changes the features.
    places = torch.tensor([[[2049.0, 3.0]]]) / 4096
    wanted = layer._pe_encoding(places)
    assert not torch.equal(wanted, layer._pe_encoding(places.to(dtype).float()))
    model.to(dtype)
    assert layer.positional_encoding_gaussian_matrix.dtype == torch.float32
    assert torch.equal(layer.positional_encoding_gaussian_matrix, matrix)
    assert torch.equal(layer._pe_encoding(places), wanted)
    assert model.prompt_encoder.get_dense_pe().dtype == torch.float32
    assert model.prompt_encoder.sparse(places, torch.ones(1, 1), None).dtype == torch.float32
    assert model.double().prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.dtype == torch.float64
    with torch.device("meta"):
        layer = PromptEncoder(8, (4, 4), (64, 64)).to(dtype).pe_layer
        assert layer.positional_encoding_gaussian_matrix.dtype == torch.float32


def test_cast_copy_is_cached_until_the_module_changes() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(5)).eval()
    assert in_dtype(module, None) is module and in_dtype(module, torch.float32) is module
    half = in_dtype(module, torch.float16)
    assert isinstance(half, nn.Sequential) and in_dtype(module, torch.float16) is half
    assert half[0].weight.dtype == half[2].weight.dtype == torch.float16
    assert half[1].weight is module[1].weight and half[1].running_var is module[1].running_var
    assert half(torch.randn(1, 3, 5, 5).half()).dtype == torch.float16
    assert in_dtype(module, torch.bfloat16) is not half and in_dtype(module, torch.float16) is half
    with torch.no_grad():
        module[0].weight.mul_(2)
    changed = in_dtype(module, torch.float16)
    assert isinstance(changed, nn.Sequential) and torch.equal(changed[0].weight, module[0].weight.half())
    calls: list[Any] = []
    module[0].register_forward_hook(lambda *_: calls.append(1))
    in_dtype(module, torch.float16)(torch.randn(1, 3, 5, 5).half())
    assert calls == [1]
    module.train()
    assert in_dtype(module, torch.float16).training
    gone = weakref.ref(in_dtype(module, torch.float16))
    del module
    gc.collect()
    assert gone() is None


def test_half_precision_is_used_only_on_cuda(caplog: pytest.LogCaptureFixture) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    for dtype in HALVES:
        assert usable_dtype(dtype, cuda) == dtype and usable_dtype(dtype, cpu) == torch.float32
    assert [record.message for record in caplog.records] == [
        "half precision is for CUDA devices; on cpu everything runs in float32"
    ]
    for dtype in (None, torch.float32):
        assert usable_dtype(dtype, cpu) == usable_dtype(dtype, cuda) == dtype


@pytest.fixture
def half_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow half precision on the CPU, which stands in for a GPU."""
    monkeypatch.setattr(encoded_image, "usable_dtypes", lambda dtype, device, encoder: Dtypes(dtype, dtype, None))


@pytest.mark.parametrize("dtype", HALVES)
def test_predictor_dtype_changes_single_calls_only(half_everywhere: None, dtype: torch.dtype) -> None:
    model = small_model()
    predictor = Predictor(overrides={"model": model, **QUIET})
    image = bgr_image(60, 90)
    predictor.set_image(image)
    features, wanted = predictor.features, predictor(bboxes=BOXES)[0]
    every = predictor(**FEW)[0]
    encoded = model.counts["encoded"]
    for _ in range(2):
        halved = predictor(bboxes=BOXES, dtype=dtype)[0]
    assert model.counts["encoded"] == encoded + 1, "encoded once more, then cached"
    assert halved.boxes.data.dtype == halved.predicted_iou.dtype == torch.float32
    assert predictor.features.dtype == torch.float32 and not torch.equal(predictor.features, features)
    assert torch.equal(predictor.features, predictor.features.to(dtype).float()), "computed in the narrow type"
    same = dense(halved) == dense(wanted)
    assert same.mean() > 0.97 and torch.allclose(halved.predicted_iou, wanted.predicted_iou, atol=0.05)
    logits, iou = predictor.prompt_inference(bboxes=BOXES)
    assert logits.dtype == iou.dtype == torch.float32
    assert len(predictor(**FEW, dtype=dtype)[0]) > 0
    assert predictor(bboxes=BOXES)[0].masks.rle == wanted.masks.rle, "float32 is as before"
    assert predictor(**FEW)[0].masks.rle == every.masks.rle


def test_assigned_features_are_decoded_in_the_requested_dtype(half_everywhere: None) -> None:
    model = small_model()
    predictor = Predictor(overrides={"model": model, **QUIET, "dtype": "bfloat16"})
    predictor.set_image(bgr_image(60, 90))
    predictor.features = torch.randn(1, 128, 8, 8, generator=torch.Generator().manual_seed(1))
    encoded = model.counts["encoded"]
    in_bfloat16, _ = predictor.prompt_inference(bboxes=BOXES)
    predictor.args.dtype = None
    in_float32, _ = predictor.prompt_inference(bboxes=BOXES)
    assert model.counts["encoded"] == encoded
    assert 0 < (in_bfloat16 - in_float32).abs().max() < 0.1 * in_float32.abs().max()


def test_pytorch_multiplies_float32_batches_in_float32() -> None:
    """The decoder's layers rely on this. PyTorch 2.4 multiplies in bfloat16 on ARM processors that support it."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 5, 64, 64, generator=generator)
    assert (a @ b - a.double() @ b.double()).abs().max() < 1e-4
