"""Helpers for the optional package transformers, which is imported only when it is used."""

from __future__ import annotations

import hashlib
import importlib
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def load_pretrained(
    model: str | os.PathLike[str], processor: Any, purpose: str, model_class: str, processor_class: str
) -> tuple[Any, Any]:
    """Return a model by its name or folder, and its processor, which is loaded too if it is None.

    ImportError, which names the purpose, without the package. FileNotFoundError if loading fails: unknown name, missing
    files or no connection.
    """
    name = os.path.expanduser(model)
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package transformers: pip install 'fastsam_core[text]' ({error})"
        ) from error
    try:
        # The small config comes first: without a connection, each file costs half a minute of attempts.
        transformers.AutoConfig.from_pretrained(name)
        if processor is None:
            processor = getattr(transformers, processor_class).from_pretrained(name)
        return getattr(transformers, model_class).from_pretrained(name), processor
    except OSError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"transformers can't load the model {name!r}: {reason} If you can get its files another way, give the "
            "folder that they are in instead of the name"
        ) from error


def to_pil_image(image: NDArray[np.uint8]) -> Any:
    """Convert BGR (H, W, 3) to an RGB Pillow image, so that no processor has to guess which axis holds the channels."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))


def to_model(inputs: Any, model: nn.Module) -> dict[str, Any]:
    """Return what a processor gives on the model's device, images also in its dtype, which may be half precision."""
    weight = next(model.parameters())
    inputs = {name: value.to(weight.device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    return {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 over the names, dtypes, shapes and values of a model's tensors."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
