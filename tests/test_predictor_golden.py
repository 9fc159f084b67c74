"""Predictor and SAM with a mobile_sam checkpoint, against stored outputs of the reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import golden_recipe
from fastsam_core import SAM, Predictor
from fastsam_core.models import registry

GOLDEN = np.load(Path(__file__).parent / "data" / "mobile_sam.npz")
HEIGHT, WIDTH = 720, 1280
BOX = [0.2 * WIDTH, 0.2 * HEIGHT, 0.7 * WIDTH, 0.9 * HEIGHT]


def pixels(*fractions: tuple[float, float]) -> list[list[float]]:
    return [[x * WIDTH, y * HEIGHT] for x, y in fractions]


PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"points": pixels((0.5, 0.55))[0], "labels": [1]},
    "points3": {"points": [pixels((0.3, 0.4), (0.5, 0.55), (0.8, 0.2))], "labels": [[1, 1, 0]]},
    "box": {"bboxes": BOX},
    "box_point": {"bboxes": BOX, "points": pixels((0.3, 0.3)), "labels": 0},
}
# Stored logits are float16, with relative rounding of 2**-11; the tolerance of the embedding is 2e-4.
CLOSE = {"rtol": 2**-11, "atol": 5e-4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(golden_recipe.fill_state_dict(registry.build("mobile_sam").state_dict()), path)
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(golden_recipe.test_image(HEIGHT, WIDTH)).save(path)
    return path


@pytest.fixture(scope="module")
def predictor(checkpoint: Path, photo: Path) -> Predictor:
    predictor = Predictor(overrides={"model": checkpoint, "conf": -1e9, "save": False, "verbose": False})
    predictor.set_image(photo)
    return predictor


def test_embedding_matches_the_reference(predictor: Predictor) -> None:
    features = predictor.features
    assert features is not None and features.shape == (1, 256, 64, 64)
    assert np.abs(features.flatten()[GOLDEN["embedding_idx"]].numpy() - GOLDEN["embedding_val"]).max() < 2e-4


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("name", PROMPTS)
def test_masks_and_scores_match_the_reference(predictor: Predictor, name: str, multimask_output: bool) -> None:
    key = f"{name}.multi{int(multimask_output)}"
    low_res, scores = predictor.prompt_inference(**PROMPTS[name], multimask_output=multimask_output)
    np.testing.assert_allclose(low_res.numpy(), GOLDEN[f"{key}.low_res"].astype(np.float32), **CLOSE)
    np.testing.assert_allclose(scores.numpy(), GOLDEN[f"{key}.iou"], atol=2e-4)
    result = predictor(**PROMPTS[name], multimask_output=multimask_output)[0]
    np.testing.assert_allclose(result.masks.area.numpy(), GOLDEN[f"{key}.area"], rtol=0.005)


def test_mask_prompt_matches_the_reference(predictor: Predictor) -> None:
    low_res, _ = predictor.prompt_inference(**PROMPTS["point"], multimask_output=True)
    refined, scores = predictor.prompt_inference(**PROMPTS["point"], masks=low_res[0])
    np.testing.assert_allclose(refined.numpy(), GOLDEN["mask_point.multi0.low_res"].astype(np.float32), **CLOSE)
    np.testing.assert_allclose(scores.numpy(), GOLDEN["mask_point.multi0.iou"], atol=2e-4)


def test_sam_matches_the_reference_area(checkpoint: Path, photo: Path) -> None:
    result = SAM(str(checkpoint))(str(photo), **PROMPTS["box"], conf=-1e9, verbose=False)[0]
    assert result.path == str(photo) and result.masks.data.shape == (1, HEIGHT, WIDTH)
    np.testing.assert_allclose(result.masks.area.numpy(), GOLDEN["box.multi0.area"], rtol=0.005)
