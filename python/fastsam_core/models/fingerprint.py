"""Fingerprint of a model's weights and normalisation."""

from __future__ import annotations

import hashlib

import torch

from .common import PIXEL_MEAN, PIXEL_STD, Normalisation


def weights_hash(module: torch.nn.Module, normalisation: Normalisation = (PIXEL_MEAN, PIXEL_STD)) -> str:
    """Return a sha256 over the names, dtypes, shapes and values of all tensors, in hexadecimal.

    normalisation: of the model that the module belongs to, covered as well.
    """
    content = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    if normalisation != (PIXEL_MEAN, PIXEL_STD):
        content.update(repr(normalisation).encode())
    return content.hexdigest()
