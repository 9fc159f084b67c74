"""Tests of the four official architectures against the reference implementation's numbers, on name-seeded weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import golden_recipe
from fastsam_core.models import registry
from fastsam_core.models.prepared_image import PreparedImage
from fastsam_core.models.sam_model import SamModel
from fastsam_core.preprocess import preprocess, resize, scale_points

DATA = Path(__file__).parent / "data"
SIZES = {"mobile_sam": (720, 1280), "sam_b": (1200, 1800), "sam_l": (1200, 1800), "sam_h": (1200, 1800)}
PROMPTS = ("point", "points3", "box", "box_point")
# Stored logits are float16, so rounding alone changes them by up to 2**-11; the embedding's tolerance is 2e-4.
LOGIT_RTOL, LOGIT_ATOL = 2**-11, 5e-4


class Case:
    """One model and its image, encoded once for all tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.golden = np.load(DATA / f"{name}.npz")
        self.height, self.width = SIZES[name]
        self.image = golden_recipe.test_image(self.height, self.width)
        with torch.device("meta"):
            module = registry.build(name)
        # Built on the meta device to hold the weights only once: those of sam_h take 2.6 GB.
        module.load_state_dict(golden_recipe.fill_state_dict(_empty_like(module)), assign=True)
        self.model: SamModel = _with_buffers(module, name).eval()
        inputs, self.content = preprocess(self.image, self.model.image_size)
        with torch.inference_mode():
            self.embedding = self.model.encode_image(inputs)

    def prepared(self) -> PreparedImage:
        return self.model.prepare(self.embedding)

    def prompt(self, name: str) -> dict[str, Tensor]:
        clicks = {
            "point": [(0.5, 0.55, 1)],
            "points3": [(0.3, 0.4, 1), (0.5, 0.55, 1), (0.8, 0.2, 0)],
            "box_point": [(0.3, 0.3, 0)],
        }.get(name)
        prompt = {}
        if clicks:
            prompt["points"] = self._scaled([(x, y) for x, y, _ in clicks])[None]
            prompt["labels"] = torch.tensor([[label for _, _, label in clicks]])
        if "box" in name:
            prompt["boxes"] = self._scaled([(0.2, 0.2), (0.7, 0.9)]).reshape(1, 4)
        return prompt

    def _scaled(self, fractions: list[tuple[float, float]]) -> Tensor:
        pixels = torch.tensor(fractions) * torch.tensor([self.width, self.height])
        return scale_points(pixels, (self.height, self.width), self.content)

    def full_size(self, low_res: Tensor) -> Tensor:
        """Return logits at the image's size by the reference's two bilinear steps."""
        size = self.model.image_size
        canvas = F.interpolate(low_res, size=(size, size), mode="bilinear")[..., : self.content[0], : self.content[1]]
        return F.interpolate(canvas, size=(self.height, self.width), mode="bilinear")


def _empty_like(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a state dict for `fill_state_dict`, which reads only the shapes of floating-point tensors."""
    return {
        name: tensor if tensor.is_floating_point() else torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in module.state_dict().items()
    }


def _with_buffers(module: SamModel, name: str) -> SamModel:
    """Replace buffers outside the state dict, still on the meta device, by those of a normally built module."""
    missing = {key for key, value in module.named_buffers() if value.is_meta}
    if missing:
        real = dict(registry.build(name).named_buffers())
        for key in missing:
            owner, _, leaf = key.rpartition(".")
            setattr(module.get_submodule(owner), leaf, real[key])
    return module


@pytest.fixture(scope="module", params=["mobile_sam", "sam_b"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def check_embedding(case: Case) -> None:
    values = case.embedding.flatten().numpy()
    np.testing.assert_allclose(values[case.golden["embedding_idx"]], case.golden["embedding_val"], rtol=0, atol=2e-4)
    statistics = [values.mean(), values.std()]
    np.testing.assert_allclose(statistics, case.golden["embedding_mean_std"], rtol=0, atol=2e-4)


def test_preprocessing_equals_pillow(case: Case) -> None:
    resized = resize(case.image, case.model.image_size)
    assert resized.shape == tuple(case.golden["resized_shape"])
    np.testing.assert_array_equal(resized[::16, ::16], case.golden["resized_sample"])


def test_embedding_matches_the_reference(case: Case) -> None:
    check_embedding(case)


@pytest.mark.once("the layers are sam_b's, more and wider")
@pytest.mark.parametrize("name", ["sam_l", "sam_h"])
def test_embedding_of_large_models(name: str) -> None:
    check_embedding(Case(name))


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "plain"])
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_iou_and_areas_match_the_reference(case: Case, prompt: str, multimask: bool, folded: bool) -> None:
    # Gradients select the plain decoder, which is what training runs.
    with torch.set_grad_enabled(not folded):
        logits, iou = case.model.decode_prompts(case.prepared(), **case.prompt(prompt), multimask_output=multimask)
    key = f"{prompt}.multi{int(multimask)}"
    logits = logits.detach()
    np.testing.assert_allclose(iou[0].detach().numpy(), case.golden[f"{key}.iou"], rtol=0, atol=1e-5)
    wanted = case.golden[f"{key}.low_res"].astype(np.float32)
    np.testing.assert_allclose(logits[0].numpy(), wanted, rtol=LOGIT_RTOL, atol=LOGIT_ATOL)
    area = (case.full_size(logits)[0] > 0).sum((1, 2)).numpy()
    np.testing.assert_allclose(area, case.golden[f"{key}.area"], rtol=0.005)


@torch.inference_mode()
def test_mask_prompt_matches_the_reference(case: Case) -> None:
    image, point = case.prepared(), case.prompt("point")
    first, _ = case.model.decode_prompts(image, **point, multimask_output=True)
    logits, iou = case.model.decode_prompts(image, **point, masks=first[:, :1])
    np.testing.assert_allclose(iou[0].numpy(), case.golden["mask_point.multi0.iou"], rtol=0, atol=1e-5)
    wanted = case.golden["mask_point.multi0.low_res"].astype(np.float32)
    np.testing.assert_allclose(logits[0].numpy(), wanted, rtol=LOGIT_RTOL, atol=LOGIT_ATOL)


@torch.inference_mode()
def test_full_resolution_logits_match_the_reference(case: Case) -> None:
    logits, _ = case.model.decode_prompts(case.prepared(), **case.prompt("point"), multimask_output=True)
    full = case.full_size(logits)[0, :, ::8, ::8].numpy()
    wanted = case.golden["point.mask_full_sample"].astype(np.float32)
    np.testing.assert_allclose(full, wanted, rtol=LOGIT_RTOL, atol=LOGIT_ATOL)
