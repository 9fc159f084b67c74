"""SamOnnxModel and image encoders: the same results as the predictor, called directly and exported to ONNX."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastsam_core import segment_anything
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.tiny_vit import TinyViT
from fastsam_core.segment_anything import SamPredictor
from fastsam_core.segment_anything.utils.amg import calculate_stability_score
from fastsam_core.segment_anything.utils.onnx import SamOnnxModel
from small_model import small_sam

HEIGHT, WIDTH = 48, 80


@pytest.fixture
def sam() -> segment_anything.Sam:
    return small_sam()


def prompt_of(model: segment_anything.Sam, count: int, has_mask: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {
        "image_embeddings": torch.randn(1, 128, 8, 8, generator=generator),
        "point_coords": 100 * torch.rand(1, count, 2, generator=generator),
        "point_labels": torch.tensor([[*[1.0, 0, 1, 0][: count - 1], -1.0]]),
        "mask_input": torch.randn(1, 1, 32, 32, generator=generator),
        "has_mask_input": torch.tensor([has_mask]),
        "orig_im_size": torch.tensor([float(HEIGHT), float(WIDTH)]),
    }


@pytest.mark.parametrize("has_mask", [0.0, 1.0])
@pytest.mark.parametrize("count", [2, 4])
def test_onnx_model_matches_predictor(sam: segment_anything.Sam, count: int, has_mask: float) -> None:
    given = prompt_of(sam, count, has_mask)
    predictor = SamPredictor(sam)
    predictor.set_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    predictor.features = given["image_embeddings"]
    prompt = given["point_coords"][:, :-1], given["point_labels"][:, :-1], None
    mask = given["mask_input"] if has_mask else None
    found = [predictor.predict_torch(*prompt, mask, several, return_logits=True) for several in (False, True)]
    single, several = ([one[0] for one in results] for results in found)
    expected = [torch.cat(pair) for pair in zip(single, several, strict=True)]
    upscaled, scores, low_res = SamOnnxModel(sam, return_single_mask=False)(**given)
    torch.testing.assert_close(low_res[0], expected[2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores[0], expected[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(upscaled[0], expected[0], rtol=1e-3, atol=1e-3)
    best = int(several[1].argmax()) + 1 if count < 3 else 0
    model = SamOnnxModel(sam, return_single_mask=True, return_extra_metrics=True)
    upscaled, scores, stability, areas, low_res = model(**given)
    torch.testing.assert_close(low_res[0, 0], expected[2][best], rtol=1e-3, atol=1e-3)
    assert scores.shape == stability.shape == areas.shape == (1, 1) and areas == (upscaled > 0).sum()
    _, stability, _ = SamOnnxModel(sam, return_single_mask=True, use_stability_score=True)(**given)
    of_all = calculate_stability_score(expected[2], 0.0, 1.0)
    assert stability.item() == pytest.approx(float(of_all[1:].max() if count < 3 else of_all[0]), abs=0.01)


def test_exported_onnx_model_accepts_any_number_of_points(sam: segment_anything.Sam) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, example, file = SamOnnxModel(sam, return_single_mask=True), prompt_of(sam, 5, 1.0), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracer warnings about shape checks
        torch.onnx.export(
            model,
            tuple(example.values()),
            file,
            input_names=list(example),
            dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
            dynamo=False,
        )
    session = runtime.InferenceSession(file.getvalue())
    for count in (2, 3, 5):
        given = {**prompt_of(sam, count, float(count % 2)), "orig_im_size": torch.tensor([70.0, 30.0])}
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        assert found[0].shape == (1, 1, 70, 30)
        for array, expected in zip(found, model(**given), strict=True):
            np.testing.assert_allclose(array, expected.numpy(), atol=1e-3)


def image_encoder(kind: str) -> nn.Module:
    """Return an encoder of 256 pixels whose windows extend beyond the grid, with weights that all matter."""
    encoder: nn.Module
    if kind == "ViT":
        encoder = sam_vit(32, 2, 2, (1,), img_size=256)
    else:
        encoder = TinyViT((12, 20, 36, 44), (1, 1, 2, 1), (1, 2, 3, 2), (3, 3, 5, 4), out_channels=24)
    generator = torch.Generator().manual_seed(4)
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return encoder.eval()


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["ViT", "TinyViT"])
def test_exported_image_encoders_give_the_same_embeddings(kind: str, dynamo: bool) -> None:
    if dynamo and torch.__version__.startswith("2.4."):
        pytest.skip("this PyTorch's dynamo exporter doesn't export writes into slices")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import onnxruntime as runtime

    encoder, file = image_encoder(kind), io.BytesIO()
    example, image = torch.randn(2, 1, 3, 256, 256, generator=torch.Generator().manual_seed(5))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracer warnings about shape checks
        torch.onnx.export(encoder, (example,), file, input_names=["image"], dynamo=dynamo)
        expected = encoder(image)
    (found,) = runtime.InferenceSession(file.getvalue()).run(None, {"image": image.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


class LowResolution(SamOnnxModel):
    """A decoder without upscaling, written with the steps of Meta's class."""

    @torch.no_grad()
    def forward(  # type: ignore[override]
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        masks, scores = self.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask),
        )
        return self.select_masks(masks, scores, point_coords.shape[1])


class OneChannel(SamOnnxModel):
    """A decoder with other steps."""

    def _embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        return super()._embed_points(128 - point_coords, point_labels)

    def _embed_masks(self, input_mask: Tensor, has_mask_input: Tensor) -> Tensor:
        return super()._embed_masks(-input_mask, has_mask_input)

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        return masks[:, 2:3] + num_points, iou_preds[:, 2:3]

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        return masks.sigmoid()


def test_steps_of_the_onnx_model_may_be_called_and_overridden(sam: segment_anything.Sam) -> None:
    given = prompt_of(sam, 3, 1.0)
    _, scores, low_res = SamOnnxModel(sam, return_single_mask=True)(**given)
    embeddings, coords, labels, mask, has_mask, size = given.values()
    found = LowResolution(sam, return_single_mask=True)(embeddings, coords, labels, mask, has_mask)
    torch.testing.assert_close(found, (low_res, scores))
    given.update(point_coords=128 - coords, mask_input=-mask)
    _, all_scores, all_masks = SamOnnxModel(sam, return_single_mask=False)(**given)
    given.update(point_coords=coords, mask_input=mask)
    upscaled, scores, low_res = OneChannel(sam, return_single_mask=True)(**given)
    torch.testing.assert_close((scores, low_res), (all_scores[:, 2:3], all_masks[:, 2:3] + 3), rtol=1e-4, atol=1e-4)
    assert torch.equal(upscaled, low_res.sigmoid())
    model = SamOnnxModel(sam, return_single_mask=False, use_stability_score=True)
    model.stability_score_offset = 0.25
    assert model.img_size == 128 and model.resize_longest_image_size(size, 128).tolist() == [77, 128]
    scores, low_res = model(**given)[1:]
    torch.testing.assert_close(scores, calculate_stability_score(low_res, 0.0, 0.25))
