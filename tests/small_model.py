"""sam_nano with the golden recipe's weights, and images for it, for the tests of the public interface."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsam_core import segment_anything
from fastsam_core.models import registry
from fastsam_core.models.mask_scoring import OFFICIAL
from fastsam_core.models.sam_model import SamModel
from golden_recipe import fill_state_dict
from golden_recipe import test_image as rgb_image

# Recipe weights predict IoUs around zero, so every mask is kept. Nothing is saved or logged; a small input is quick.
QUIET: dict[str, Any] = {"conf": -1e9, "save": False, "verbose": False, "imgsz": 128}
# Gives a handful of masks, whatever the weights.
FEW: dict[str, Any] = {"points_stride": 2, "conf_thres": -1e9, "stability_score_thresh": -1}


@cache
def small_weights() -> dict[str, Tensor]:
    """Return the weights, cached because drawing millions of random numbers is slow."""
    return fill_state_dict(registry.build("sam_nano").state_dict())


def small_model() -> SamModel:
    """Return sam_nano with an encoder that counts images in `counts["encoded"]` and lists batch sizes in `batches`."""
    model = registry.build("sam_nano")
    model.load_state_dict(small_weights())
    model.eval()
    counts = {"encoded": 0}
    plain = model.encode_image

    batches: list[int] = []

    def encode_image(images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        counts["encoded"] += len(images)
        batches.append(len(images))
        return plain(images, dtype)

    model.encode_image = encode_image  # type: ignore[method-assign]
    model.counts = counts  # type: ignore[assignment]
    model.batches = batches  # type: ignore[assignment]
    return model


def small_sam() -> segment_anything.Sam:
    """Return sam_nano as Meta's `Sam` with inputs of 128 pixels and the official models' thresholds."""
    model = segment_anything.build_sam_nano(None)
    model.load_state_dict(small_weights())
    model.mask_scoring = OFFICIAL
    model.set_image_size(128)
    return model


def bgr_image(height: int, width: int) -> np.ndarray:
    """Return the recipe's image in BGR order, as OpenCV would read it."""
    return np.ascontiguousarray(rgb_image(height, width)[..., ::-1])
