"""CLIP from transformers, which scores how well images fit texts."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._transformers import load_pretrained, to_model, to_pil_image

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
_BATCH_SIZE = 32


class ClipMatcher:
    """A `Matcher` that uses a CLIP model.

    model: a `transformers.CLIPModel`, or the name or folder of one (default CLIP ViT-B/32, 600 MB, downloaded by
    transformers). processor: its `CLIPProcessor`; required with a loaded model, otherwise loaded along with it. device:
    "" is the GPU if there is one.
    """

    def __init__(self, model: Any = DEFAULT_MODEL, processor: Any = None, device: Any = "") -> None:
        from ..device import select_device

        if isinstance(model, (str, os.PathLike)):
            purpose = "choosing objects by texts"
            model, processor = load_pretrained(model, processor, purpose, "CLIPModel", "CLIPProcessor")
        if processor is None:
            raise ValueError("a loaded model needs its processor too: give processor=")
        self.device = select_device(device)
        self.model, self.processor = model.eval().to(self.device), processor

    @torch.no_grad()
    def __call__(self, images: list[NDArray[np.uint8]], texts: list[str]) -> NDArray[np.float32]:
        """Return cosine similarities (T, N) of T texts and N BGR images (h, w, 3)."""
        tokens = self.processor(text=texts, return_tensors="pt", padding=True, truncation=True)
        text_vectors = _unit_vectors(self.model.get_text_features(**to_model(tokens, self.model)))
        image_vectors = []
        for start in range(0, len(images), _BATCH_SIZE):
            pil_images = [to_pil_image(image) for image in images[start : start + _BATCH_SIZE]]
            pixels = self.processor(images=pil_images, return_tensors="pt")
            image_vectors.append(_unit_vectors(self.model.get_image_features(**to_model(pixels, self.model))))
        similarities: NDArray[np.float32] = (text_vectors @ torch.cat(image_vectors).T).float().cpu().numpy()
        return similarities


def _unit_vectors(features: Any) -> torch.Tensor:
    """Normalise features to unit vectors (N, D). Newer releases of transformers wrap them in an output object."""
    vectors: torch.Tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
    return vectors / vectors.norm(dim=-1, keepdim=True)
