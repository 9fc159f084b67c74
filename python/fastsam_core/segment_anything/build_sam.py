"""Models by Meta's names."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..models import registry
from ..models.checkpoint import load_model
from .modeling import Sam

Checkpoint = str | os.PathLike[str] | None


def _build(name: str, checkpoint: Checkpoint = None) -> Sam:
    """The model of a registry row in evaluation mode, untrained without a checkpoint, else with its weights.

    checkpoint: a path, or an official file name, which is downloaded if it is nowhere here. ValueError for a checkpoint
    of another model.
    """
    if checkpoint is None:
        return Sam(registry.build(name).eval())
    model = load_model(checkpoint)
    if model.name != name:
        raise ValueError(f"{os.fspath(checkpoint)} holds {model.name}, but {name} was asked for")
    return Sam(model)


def build_sam_vit_h(checkpoint: Checkpoint = None) -> Sam:
    """SAM with the ViT-H image encoder; untrained without a checkpoint."""
    return _build("sam_h", checkpoint)


def build_sam_vit_l(checkpoint: Checkpoint = None) -> Sam:
    """SAM with the ViT-L image encoder; untrained without a checkpoint."""
    return _build("sam_l", checkpoint)


def build_sam_vit_b(checkpoint: Checkpoint = None) -> Sam:
    """SAM with the ViT-B image encoder; untrained without a checkpoint."""
    return _build("sam_b", checkpoint)


def build_sam_vit_t(checkpoint: Checkpoint = None) -> Sam:
    """MobileSAM, as its own package calls it; untrained without a checkpoint."""
    return _build("mobile_sam", checkpoint)


def build_sam_nano(checkpoint: Checkpoint = "sam_nano.pt") -> Sam:
    """The bundled model, with its weights unless `checkpoint` is None."""
    return _build("sam_nano", checkpoint)


build_sam = build_sam_vit_h

sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
    "sam_nano": build_sam_nano,
}
