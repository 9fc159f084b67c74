"""Load a model from a name or a path: find the file, identify the model in it, and build it with its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._files import cache_folder
from .._log import format_count
from ..device import select_device
from .download import download
from .locate import as_path, as_text, fetch, no_file, not_found
from .registry import MODELS, ModelSpec
from .sam_model import SamModel
from .weights_file import read_state_dict

__all__ = ["download", "identify", "load_model", "load_state_dict", "read_state_dict", "resolve"]

DEFAULT_MODEL = "sam_b.pt"
_BUNDLED = "sam_nano"
# Constants that some exports store besides the weights.
_CONSTANTS = frozenset(("pixel_mean", "pixel_std"))
# BatchNorm's count of training steps plays no part in prediction, and some exports drop it.
_COUNTER = ".num_batches_tracked"
# Checkpoints of other models: a pattern that one of the tensor names matches, and what to say. The first match wins.
_OTHERS = (
    (r"memory_attention\.|memory_encoder\.|image_encoder\.trunk\.", "a SAM 2 checkpoint, which is not supported"),
    (r"(^|\.)detector\.", "a SAM 3 checkpoint, which is not supported"),
    (r"mask_decoder\.(hf_token|compress_vit_feat)", "a HQ-SAM checkpoint, which is not supported"),
    (r"^(sam\.)?(vision_encoder|shared_image_embedding)\.", "a SAM checkpoint converted for Hugging Face transformers"),
    (r"image_encoder\.(backbone|stages)\.", "a SAM variant with another image encoder, which is not supported"),
    (r"^image_encoder\.", "a SAM variant or a SAM model of another size"),
    (r"^(\d+|model\.\d+)\.(conv|cv1|m\.\d+)\.", "a YOLO checkpoint; YOLO(...) and FastSAM(...) load those"),
    (r"^layer1\.0\.conv1\.", "a ResNet classifier"),
    (r"^(blocks|encoder\.layers?)\.", "a plain vision transformer without prompt encoder and mask decoder"),
    (r"^(patch_embed|blocks|neck)\.", "an image encoder alone"),
)


@torch.inference_mode(False)  # inference tensors can't be trained, and nothing derived from them is cached
def load_model(model: str | os.PathLike[str] | None = DEFAULT_MODEL, device: Any = "cpu") -> SamModel:
    """Return the model with its weights, in float32 and eval mode, on `device` (None or "": a GPU if there is one).

    model: a path, a name as for `resolve`, or None for sam_b. A file that has an official name must hold that model;
    any other file is identified by its tensors. Raises FileNotFoundError if the file can't be found, ValueError if it
    is another kind of file or model, and ConnectionError if a download fails.
    """
    chosen = select_device(device)
    path = resolve(DEFAULT_MODEL if model is None else model)
    state = read_state_dict(path)
    expected = _spec_of(path.name)
    try:
        name = identify(state, None if expected is None else expected.name)
        if expected is not None and expected.name != name:
            raise ValueError(
                f"the file name stands for {expected.name}, but the {len(state)} tensors in it are those of {name}; "
                "rename it if that is what you want"
            )
        # The model is built in PyTorch's default dtype, which may be narrower than that of the file.
        built = _build(MODELS[name]).float()
        load_state_dict(built, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return built.eval().to(chosen)


def resolve(model: str | os.PathLike[str]) -> Path:
    """Return the path of the file that `model` stands for; official files are downloaded if necessary.

    model: a path; else a file name within `FASTSAM_HOME`; else an official name: sam_b.pt, sam_l.pt, sam_h.pt,
    mobile_sam.pt, one of Meta's file names, or a registry name without suffix ("sam_b"). sam_nano comes with the
    package. An official model that lies in `FASTSAM_HOME` under another of its names is not downloaded again. Raises
    FileNotFoundError for anything else, suggesting the closest name, and ValueError for a folder or a special file.
    """
    text = as_text(model)
    given = as_path(text)
    if os.path.isfile(given):
        return given
    spec = MODELS.get(text) or (_spec_of(text) if given.name == text else None)
    if spec is None:
        stored = cache_folder() / text
        if os.path.isfile(stored):
            return stored
        if os.path.exists(given):
            raise no_file(text)
        raise _unknown(text)
    names = [text, *spec.file_names] if text != spec.name else list(spec.file_names)
    folders = [Path(), cache_folder()] if text == spec.name else [cache_folder()]
    for folder in folders:
        for name in names:
            if os.path.isfile(folder / name):
                return folder / name
    return _bundled() if spec.name == _BUNDLED else _download(spec, names[0])


def identify(state: Mapping[str, Tensor], likely: str | None = None) -> str:
    """Return the registry name of the model that these tensors belong to.

    likely: the name to try first, which saves comparing with the other models; an error names it as the expected model.
    Raises ValueError if no model fits exactly, saying what the tensors look like instead.
    """
    for name in sorted(MODELS, key=lambda name: name != likely):
        if not any(_differences(name, state)):
            return name
    if not state:
        raise ValueError("a state dict without tensors; expected the weights of " + ", ".join(MODELS))
    # No exact fit: if one model is close, report how the tensors differ from it.
    shared = {name: sum(_fits(state, key, shape) for key, shape in _expected(name).items()) for name in MODELS}
    nearest = max(shared, key=lambda name: shared[name] / len(_expected(name)))
    if shared[nearest] >= 0.5 * len(_expected(nearest)):
        raise ValueError(f"looks like {nearest}, but {describe(nearest, state)}")
    first = ", ".join(list(state)[:3])
    guess = next((text for pattern, text in _OTHERS if any(re.search(pattern, key) for key in state)), "")
    looks = f"; it looks like {guess}" if guess else ""
    expected = likely or f"one of: {', '.join(MODELS)}"
    raise ValueError(
        f"found {format_count(len(state), 'tensor')} ({first}...){looks}. Expected the state dict of {expected}"
    )


def load_state_dict(model: SamModel, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the model; they may have any floating-point dtype.

    Raises ValueError unless every tensor fits and none is missing, and for NaN or infinite weights, with which the
    model would find nothing.
    """
    wanted = _expected(model.name)
    if any(_differences(model.name, state)):
        raise ValueError(f"these are not the weights of {model.name}: {describe(model.name, state)}")
    model.load_state_dict({key: value for key, value in state.items() if key in wanted}, strict=False)
    broken = [key for key, value in model.state_dict().items() if not _finite(value)]
    if broken:
        raise ValueError(
            f"NaN or infinite numbers in {format_count(len(broken), 'tensor')}, such as {broken[0]}: the file is "
            "damaged, or the training that made it went wrong"
        )


def _finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinite numbers."""
    # The sum is a fast check. It may overflow for large finite values, so a non-finite sum is confirmed element by
    # element.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def describe(name: str, state: Mapping[str, Tensor]) -> str:
    """Describe which tensors of the model `name` are missing in `state`, unexpected, or of another shape or dtype."""
    missing, unexpected, other = _differences(name, state)
    shapes = [f"{key} {tuple(state[key].shape)} instead of {_expected(name)[key]}" for key in other]
    parts = ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape or type"))
    return "; ".join(
        f"{format_count(len(keys), 'tensor')} {what}: {', '.join(keys[:4])}{'...' if len(keys) > 4 else ''}"
        for keys, what in parts
        if keys
    )


def _differences(name: str, state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Return the names of (missing, unexpected, misfitting) tensors for the model `name`."""
    expected, ignored = _expected(name), MODELS[name].ignored_keys
    return (
        [key for key in expected if key not in state and not key.endswith(_COUNTER)],
        [key for key in state if key not in expected and key not in _CONSTANTS and not key.startswith(ignored)],
        [key for key in expected if key in state and not _fits(state, key, expected[key])],
    )


def _fits(state: Mapping[str, Tensor], key: str, shape: tuple[int, ...]) -> bool:
    """Return whether `state` has a tensor `key` of this shape with a usable dtype."""
    tensor = state.get(key)
    if tensor is None or tuple(tensor.shape) != shape or tensor.is_quantized:
        return False
    return tensor.is_floating_point() or key.endswith(_COUNTER)


class _WithoutInit(TorchFunctionMode):
    """Mode that skips random initialisation and so leaves the caller's random state unchanged.

    Initialisation would take seconds for a large model, whose values are all overwritten next.
    """

    _SKIPPED = frozenset(
        (torch.nn.init.kaiming_uniform_, torch.nn.init.uniform_, torch.nn.init.normal_, torch.nn.init.trunc_normal_)
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._SKIPPED:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        return func(*args, **kwargs)


def _build(spec: ModelSpec) -> SamModel:
    """Build the model on the CPU with uninitialised weights."""
    with torch.device("cpu"), _WithoutInit():
        return spec.build()


@cache
def _expected(name: str) -> dict[str, tuple[int, ...]]:
    """Return the tensor names and shapes of a model.

    The model that is built for this is cheap: its weights are allocated, but their memory is never touched.
    """
    return {key: tuple(value.shape) for key, value in _build(MODELS[name]).state_dict().items()}


def _spec_of(file_name: str) -> ModelSpec | None:
    """Return the registry row that has this official file name, or None."""
    return next((spec for spec in MODELS.values() if file_name in spec.file_names), None)


def _bundled() -> Path:
    """Return the path of the bundled checkpoint."""
    path = Path(str(resources.files("fastsam_core") / "weights" / f"{_BUNDLED}.safetensors"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}, a file of this package, is missing: install fastsam_core again")
    return path


def _download(spec: ModelSpec, name: str) -> Path:
    """Download an official file as `name` and return its path."""
    # One of Meta's file names means Meta's file, not a re-hosted one.
    urls = [url for url in spec.urls if url.endswith("/" + name)] if name != spec.file_names[0] else list(spec.urls)
    return fetch(name, urls)


def _unknown(text: str) -> FileNotFoundError:
    """Return the error for a name that stands for nothing."""
    error = not_found(text, [*MODELS, *(name for spec in MODELS.values() for name in spec.file_names)])
    others = re.search("sam[-_]?[23]", text.lower())
    return FileNotFoundError(f"SAM 2 and SAM 3 are not supported; {error}") if others else error
