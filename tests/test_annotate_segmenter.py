"""Tests which options of a SAM model a manifest records, and the models that `Segmenter` takes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import SAM, Predictor
from fastsam_core.annotate.segmenter import Segmenter
from fastsam_core.models.sam_model import SamModel
from small_model import small_model

OF_PROMPTS = {"sam_model", "sam.conf", "sam.imgsz", "sam.mask_scoring", "sam.dtype"}


@pytest.fixture(scope="module")
def small() -> SamModel:
    return small_model()


def settings(small: SamModel, everything: bool = True, **options: Any) -> dict[str, Any]:
    predictor = Predictor(overrides={"model": small, "save": False, "verbose": False, **options})
    return Segmenter(predictor).settings(everything)


def test_options_of_segment_everything_are_recorded_without_a_detector(small: SamModel) -> None:
    assert set(settings(small, everything=False)) == OF_PROMPTS
    recorded = settings(small, points_stride=16, crop_n_layers=1)
    assert set(recorded) > OF_PROMPTS and json.loads(json.dumps(recorded)) == recorded
    assert (recorded["sam.points_stride"], recorded["sam.crop_n_layers"]) == (16, 1)
    assert recorded["sam.point_grids"] is None
    assert settings(small, points_batch_size=7) == settings(small, points_batch_size=64), "masks don't depend on it"


def test_point_grids_are_recorded_as_lists(small: SamModel) -> None:
    grids = [np.array([[0.25, 0.5], [0.75, 0.5]]), np.array([[0.5, 0.5]])]
    recorded = settings(small, point_grids=grids, crop_n_layers=1)
    assert recorded["sam.point_grids"] == [[[0.25, 0.5], [0.75, 0.5]], [[0.5, 0.5]]]
    assert json.loads(json.dumps(recorded)) == recorded


def test_weights_are_recorded(small: SamModel) -> None:
    changed = small_model()
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    names = [settings(model, everything=False)["sam_model"] for model in (small, small_model(), changed)]
    assert names[0] == names[1] != names[2]


def test_options_of_a_sam_or_predictor_apply(small: SamModel) -> None:
    sam = SAM(small)
    sam.overrides["conf"] = 0.75
    predictor = Predictor(overrides={"model": small, "conf": 0.5, "device": "cpu"})
    for model, conf in ((sam, 0.75), (predictor, 0.5)):
        segmenter = Segmenter(model)
        assert segmenter.settings(everything=False)["sam.conf"] == conf
        assert segmenter.model.mask_decoder is small.mask_decoder
    assert [Segmenter(predictor, device).config.device for device in ("", None)] == ["cpu", "cpu"]
    assert [Segmenter(model, "cpu").config.device for model in (small, sam)] == ["cpu", "cpu"]


@pytest.mark.parametrize("given", [3, None, np.zeros(3), torch.nn.Linear(1, 1)])
def test_other_models_are_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=f"sam_model must be .* a SAM or a Predictor, not {type(given).__name__}"):
        Segmenter(given)
