"""Models inside wrappers that training code puts around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastsam_core import SAM, Predictor
from fastsam_core.annotate.segmenter import Segmenter
from fastsam_core.models.wrappers import unwrapped
from fastsam_core.segment_anything import Sam, SamAutomaticMaskGenerator, SamPredictor
from fastsam_core.tiles.segmenters import CallableSegmenter, ModelSegmenter, load_segmenter
from golden_recipe import test_image as rgb_image
from small_model import small_sam


class PeftModel(nn.Module):
    """A wrapper with the method by which PEFT's gives access to the model whose layers have adapters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.ModuleDict({"model": model})

    def get_base_model(self) -> nn.Module:
        return self.base_model["model"]


def compiled_peft(model: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(PeftModel(model))  # type: ignore[assignment]
    return wrapped


@pytest.mark.parametrize("wrap", [PeftModel, torch.compile, nn.DataParallel, compiled_peft])
def test_wrapped_models_are_used_themselves(wrap: Callable[[nn.Module], Any]) -> None:
    sam = small_sam()
    wrapped = wrap(sam)
    assert SamPredictor(wrapped).model is sam and SamAutomaticMaskGenerator(wrapped, 2).predictor.model is sam
    assert SAM(wrapped).model is sam and Segmenter(wrapped).model.mask_decoder is sam.mask_decoder
    segmenter = load_segmenter(wrapped, "", {})
    assert isinstance(segmenter, ModelSegmenter)
    predictor = Predictor(overrides={"model": wrapped, "imgsz": 128, "save": False, "verbose": False})
    assert len(predictor(rgb_image(48, 80), bboxes=[4, 6, 40, 30], conf=-1e9)[0]) == 1
    assert predictor.model is sam


def test_anything_else_stays_as_it_is() -> None:
    linear = nn.Linear(2, 2)
    for given in (linear, nn.DataParallel(linear), PeftModel(linear), torch.compile(linear), "sam_b.pt", None):
        assert unwrapped(given) is given
    detector = nn.DataParallel(nn.Identity())
    assert isinstance(load_segmenter(detector, "", {}), CallableSegmenter)
    with pytest.raises(TypeError, match="a model made by sam_model_registry or SAM is needed, not DataParallel"):
        SamPredictor(nn.DataParallel(linear))
    with pytest.raises(TypeError, match="a checkpoint's name or path or a SamModel, not Linear"):
        SAM(linear)  # type: ignore[arg-type]


def test_adapters_in_a_wrapper_take_effect() -> None:
    class Adapter(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer, self.extra = layer, nn.Linear(128, 64, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            added: torch.Tensor = self.layer(x) + self.extra(x)
            return added

    torch.manual_seed(0)
    sam, results = small_sam(), []
    for has_adapter in (False, True):
        if has_adapter:
            attention = sam.mask_decoder.transformer.blocks[1].cross_attn_token_to_image
            attention.q_proj = Adapter(attention.q_proj)  # type: ignore[assignment]
        predictor = SamPredictor(PeftModel(sam))
        assert isinstance(predictor.model, Sam)
        predictor.set_image(rgb_image(48, 80))
        results.append(predictor.predict(box=np.array([4, 6, 40, 30]))[2])
    assert np.abs(results[1] - results[0]).max() > 1e-3
