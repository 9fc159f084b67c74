"""Files of image embeddings, which let another process reuse an embedding, but only for the same model and image.

A safetensors file holds one tensor `features`, (1, C, S / 16, S / 16) float32. Its metadata holds the model's name, the
hash of its image encoder's weights, the model's input size, and the hash, file name and size of the image.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._files import save_tensors
from .encoded_image import EncodedImage
from .models.fingerprint import weights_hash
from .models.module_cache import version_of
from .models.sam_model import SamModel

FORMAT = "fastsam_core image embedding"
VERSION = "1"

_fingerprints: weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]] = weakref.WeakKeyDictionary()


def fingerprint(model: SamModel) -> str:
    """Return the SHA-256 of what an embedding depends on: the image encoder's tensors, and the normalisation.

    It covers names, dtypes and shapes too. It is cached per encoder; the cache notices in-place changes, so a model in
    training is hashed again.
    """
    tensors = sorted(model.image_encoder.state_dict(keep_vars=True).items())
    state = model.normalisation, *((id(tensor), tensor.data_ptr(), version_of(tensor)) for _, tensor in tensors)
    cached = _fingerprints.get(model.image_encoder)
    if cached is not None and cached[0] == state:
        return cached[1]
    digest = weights_hash(model.image_encoder, model.normalisation)
    _fingerprints[model.image_encoder] = state, digest
    return digest


def save(target: str | os.PathLike[str], image: EncodedImage, model: SamModel) -> Path:
    """Write the image's embedding, with metadata on its model and image, and return the path of the file.

    Raises ValueError if there is no embedding yet.
    """
    if image.features is None:
        raise ValueError("there is no embedding to save yet: call set_image first")
    height, width = image.original_hw
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "weights": fingerprint(model),
        "image_size": str(model.image_size),
        "image": image.digest,
        "path": Path(image.path).name,  # without the folder, which may be private
        "height": str(height),
        "width": str(width),
    }
    save_tensors({"features": image.features}, target, metadata)
    return Path(target)


def load(source: str | os.PathLike[str], model: SamModel, image: EncodedImage | None = None) -> EncodedImage:
    """Load an embedding and return the image that it belongs to: `image` if given, else one without pixels.

    Raises FileNotFoundError if there is no such file, and ValueError if it is damaged or not an embedding, was made by
    other weights or at an input size other than the model's current one, or belongs to another image than `image`.
    """
    features, metadata = _read(Path(source))
    size, height, width = (_positive_integer(metadata, key, source) for key in ("image_size", "height", "width"))
    if metadata.get("model") != model.name or metadata.get("weights") != fingerprint(model):
        same_name = metadata.get("model") == model.name
        what = f"other weights of {model.name}" if same_name else f"the model {metadata.get('model')!r}"
        raise ValueError(f"{source} was made with {what}, not with the {model.name} that is loaded; encode again")
    if size != model.image_size:
        raise ValueError(
            f"{source} was made at imgsz={size}, the model now takes imgsz={model.image_size}; set imgsz={size}"
        )
    model.prepare(features.to(model.device))  # only to raise ValueError for a wrong shape
    if image is None:
        image = EncodedImage(None, metadata.get("path", ""), (height, width), metadata.get("image"))
    elif image.digest != metadata.get("image"):
        raise ValueError(
            f"{source} belongs to another image ({metadata.get('path')}, {height} x {width}) than the one that is "
            f"set ({image.path}, {image.original_hw[0]} x {image.original_hw[1]}); reset_image() first to use it"
        )
    image.features = features
    return image


def _read(source: Path) -> tuple[Tensor, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not source.is_file():
        raise FileNotFoundError(f"no embedding at {source}")
    try:
        with safe_open(source, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
                raise ValueError(
                    f"{source} is not an embedding that this version reads: format {metadata.get('format')!r}, "
                    f"version {metadata.get('version')!r}; save_features writes them"
                )
            if list(file.keys()) != ["features"]:
                raise ValueError(f"{source} should hold one tensor, 'features', but holds {sorted(file.keys())}")
            features = file.get_tensor("features")
    except SafetensorError as error:
        raise ValueError(f"{source} is damaged or not a safetensors file: {error}") from error
    if features.dtype != torch.float32 or not bool(torch.isfinite(features).all()):
        raise ValueError(f"{source} should hold finite float32 features, but they are {features.dtype}")
    return features, metadata


def _positive_integer(metadata: dict[str, str], key: str, source: Any) -> int:
    text = metadata.get(key, "")
    # Sides have at most 9 digits; int() of a million digits would take long.
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ValueError(f"{source} is damaged: its {key} is {text[:20]!r}")
    return int(text)
