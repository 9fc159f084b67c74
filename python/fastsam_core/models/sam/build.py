"""Builders of models under names that users of the Ultralytics package know: `fastsam_core.models.sam.build`."""

from __future__ import annotations

import os
from collections.abc import Callable

from .. import registry
from ..checkpoint import load_model
from ..sam_model import SamModel

Checkpoint = str | os.PathLike[str] | None


def build_sam(ckpt: str | os.PathLike[str] = "sam_b.pt") -> SamModel:
    """Return the model of a checkpoint, on the CPU and in eval mode.

    ckpt: a path with any file name, since the model is identified by its tensors, or an official file name, which is
    downloaded if it isn't found locally. Raises FileNotFoundError, ValueError or ConnectionError as `load_model` does.
    """
    return load_model(ckpt)


def _build(name: str, checkpoint: Checkpoint) -> SamModel:
    """Return the model `name`: untrained without a checkpoint, else with its weights."""
    if checkpoint is None:
        return registry.build(name).eval()
    model = load_model(checkpoint)
    if model.name != name:
        raise ValueError(f"{os.fspath(checkpoint)} holds {model.name}, but {name} was asked for")
    return model


def build_sam_vit_h(checkpoint: Checkpoint = None) -> SamModel:
    """Return SAM with the ViT-H image encoder, untrained without a checkpoint. ValueError if it holds another model."""
    return _build("sam_h", checkpoint)


def build_sam_vit_l(checkpoint: Checkpoint = None) -> SamModel:
    """Return SAM with the ViT-L image encoder, untrained without a checkpoint. ValueError if it holds another model."""
    return _build("sam_l", checkpoint)


def build_sam_vit_b(checkpoint: Checkpoint = None) -> SamModel:
    """Return SAM with the ViT-B image encoder, untrained without a checkpoint. ValueError if it holds another model."""
    return _build("sam_b", checkpoint)


def build_mobile_sam(checkpoint: Checkpoint = None) -> SamModel:
    """Return MobileSAM, untrained without a checkpoint. ValueError if it holds another model."""
    return _build("mobile_sam", checkpoint)


def build_sam_nano(checkpoint: Checkpoint = "sam_nano.pt") -> SamModel:
    """Return the bundled model with its weights, or untrained if `checkpoint` is None."""
    return _build("sam_nano", checkpoint)


sam_model_map: dict[str, Callable[..., SamModel]] = {
    "sam_h.pt": build_sam_vit_h,
    "sam_l.pt": build_sam_vit_l,
    "sam_b.pt": build_sam_vit_b,
    "mobile_sam.pt": build_mobile_sam,
    "sam_nano.pt": build_sam_nano,
}
