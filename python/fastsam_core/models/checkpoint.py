"""From a name or a path to a model with its weights: where the file is, which model it holds, and loading it."""

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

from .._files import home
from ..device import select_device
from .download import download
from .locate import as_text, fetch, no_file, not_found
from .registry import MODELS, ModelSpec
from .sam_model import SamModel
from .weights_file import read_state_dict

__all__ = ["download", "identify", "load_model", "load_state_dict", "read_state_dict", "resolve"]

DEFAULT_MODEL = "sam_b.pt"
_BUNDLED = "sam_nano"
# Constants that some exports store beside the weights.
_CONSTANTS = frozenset(("pixel_mean", "pixel_std"))
# BatchNorm's count of training steps plays no part in prediction, and some exports drop it.
_COUNTER = ".num_batches_tracked"
# What a checkpoint is that is none of ours: a pattern for its tensor names, and what to say. First match wins.
_OTHERS = (
    (r"memory_attention\.|memory_encoder\.|image_encoder\.trunk\.", "a SAM 2 checkpoint, which is not supported"),
    (r"(^|\.)detector\.", "a SAM 3 checkpoint, which is not supported"),
    (r"mask_decoder\.(hf_token|compress_vit_feat)", "a HQ-SAM checkpoint, which is not supported"),
    (r"^(sam\.)?(vision_encoder|shared_image_embedding)\.", "a SAM checkpoint converted for Hugging Face transformers"),
    (r"image_encoder\.(backbone|stages)\.", "a SAM variant with another image encoder, which is not supported"),
    (r"^image_encoder\.", "a SAM variant or another size of it"),
    (r"^(\d+|model\.\d+)\.(conv|cv1|m\.\d+)\.", "a YOLO checkpoint; YOLO(...) and FastSAM(...) load those"),
    (r"^layer1\.0\.conv1\.", "a ResNet classifier"),
    (r"^(blocks|encoder\.layers?)\.", "a plain vision transformer without prompt encoder and mask decoder"),
    (r"^(patch_embed|blocks|neck)\.", "an image encoder alone"),
)


@torch.inference_mode(False)  # whose weights are for inference alone, and nothing is kept that is made of them
def load_model(model: str | os.PathLike[str] | None = DEFAULT_MODEL, device: Any = "cpu") -> SamModel:
    """The model with its weights, in float32 and eval mode, on `device` (None or "": a GPU if there is one).

    model: a path, a name as for `resolve`, or None for sam_b. A file with a name of ours must hold that model; any
    other is recognised by its tensors. FileNotFoundError if it can't be found, ValueError if it is another kind of
    file or model, ConnectionError if a download fails.
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
        # Made in PyTorch's default type, which may hold less than the file.
        built = _build(MODELS[name]).float()
        load_state_dict(built, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return built.eval().to(chosen)


def resolve(model: str | os.PathLike[str]) -> Path:
    """The file that `model` stands for; official files are downloaded if need be.

    model: a path; else a file name within `FASTSAM_HOME`; else an official name: sam_b.pt, sam_l.pt, sam_h.pt,
    mobile_sam.pt, Meta's own file names, or those of the registry without suffix ("sam_b"); sam_nano comes with the
    package. An official model that lies in `FASTSAM_HOME` under another of its names is not downloaded again.
    FileNotFoundError for anything else, with the closest name.
    """
    text = as_text(model)
    given = Path(text).expanduser()
    if os.path.isfile(given):
        return given
    spec = MODELS.get(text) or (_spec_of(text) if given.name == text else None)
    if spec is None:
        stored = home() / text
        if os.path.isfile(stored):
            return stored
        if os.path.exists(given):
            raise no_file(text)
        raise _unknown(text)
    names = [text, *spec.file_names] if text != spec.name else list(spec.file_names)
    folders = [Path(), home()] if text == spec.name else [home()]
    for folder in folders:
        for name in names:
            if os.path.isfile(folder / name):
                return folder / name
    return _bundled() if spec.name == _BUNDLED else _download(spec, names[0])


def identify(state: Mapping[str, Tensor], likely: str | None = None) -> str:
    """The registry name of the model whose tensors these are; ValueError saying what they look like instead.

    likely: the name to try first, which saves looking at the other models; an error names it as what was expected.
    """
    for name in sorted(MODELS, key=lambda name: name != likely):
        if not any(_differences(name, state)):
            return name
    if not state:
        raise ValueError("a state dict without tensors; expected the weights of " + ", ".join(MODELS))
    # Not an exact fit: say what the nearest model lacks, if there is one that is near.
    shared = {name: sum(_fits(state, key, shape) for key, shape in _expected(name).items()) for name in MODELS}
    nearest = max(shared, key=lambda name: shared[name] / len(_expected(name)))
    if shared[nearest] >= 0.5 * len(_expected(nearest)):
        raise ValueError(f"looks like {nearest}, but {describe(nearest, state)}")
    first = ", ".join(list(state)[:3])
    guess = next((text for pattern, text in _OTHERS if any(re.search(pattern, key) for key in state)), "")
    looks = f"; it looks like {guess}" if guess else ""
    expected = likely or f"one of: {', '.join(MODELS)}"
    raise ValueError(f"found {len(state)} tensors ({first}...){looks}. Expected the state dict of {expected}")


def load_state_dict(model: SamModel, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the model, whatever their floating-point type.

    ValueError unless all fit and none lacks, and for NaN and infinite weights, with which nothing would be found.
    """
    wanted = _expected(model.name)
    if any(_differences(model.name, state)):
        raise ValueError(f"these are not the weights of {model.name}: {describe(model.name, state)}")
    model.load_state_dict({key: value for key, value in state.items() if key in wanted}, strict=False)
    broken = [key for key, value in model.state_dict().items() if not _finite(value)]
    if broken:
        raise ValueError(
            f"{len(broken)} tensors hold NaN or infinite numbers, such as {broken[0]}: the file is damaged, or the "
            "training that made it went wrong"
        )


def _finite(tensor: Tensor) -> bool:
    # A sum is quicker than a look at each number, but large numbers alone may make it infinite.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def describe(name: str, state: Mapping[str, Tensor]) -> str:
    """In words, what `state` lacks, has too much of, and has in other shapes for the model of that name."""
    missing, unexpected, other = _differences(name, state)
    shapes = [f"{key} {tuple(state[key].shape)} instead of {_expected(name)[key]}" for key in other]
    parts = ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape or type"))
    return "; ".join(
        f"{len(keys)} tensors {what}: {', '.join(keys[:4])}{'...' if len(keys) > 4 else ''}"
        for keys, what in parts
        if keys
    )


def _differences(name: str, state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """(missing, unexpected, misfitting) names of tensors for the model of that name."""
    expected, ignored = _expected(name), MODELS[name].ignored_keys
    return (
        [key for key in expected if key not in state and not key.endswith(_COUNTER)],
        [key for key in state if key not in expected and key not in _CONSTANTS and not key.startswith(ignored)],
        [key for key in expected if key in state and not _fits(state, key, expected[key])],
    )


def _fits(state: Mapping[str, Tensor], key: str, shape: tuple[int, ...]) -> bool:
    tensor = state.get(key)
    if tensor is None or tuple(tensor.shape) != shape or tensor.is_quantized:
        return False
    return tensor.is_floating_point() or key.endswith(_COUNTER)


class _WithoutInit(TorchFunctionMode):
    """Skips random initialisation: seconds for a large model, whose every value is about to be overwritten.

    It also leaves the caller's random numbers as they were.
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
    with torch.device("cpu"), _WithoutInit():
        return spec.build()


@cache
def _expected(name: str) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a model. The memory of the model built for it is never touched, so it costs little."""
    return {key: tuple(value.shape) for key, value in _build(MODELS[name]).state_dict().items()}


def _spec_of(file_name: str) -> ModelSpec | None:
    return next((spec for spec in MODELS.values() if file_name in spec.file_names), None)


def _bundled() -> Path:
    path = Path(str(resources.files("fastsam_core") / "weights" / f"{_BUNDLED}.safetensors"))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, which is part of the package: install fastsam_core again")
    return path


def _download(spec: ModelSpec, name: str) -> Path:
    # A Meta file name stands for Meta's file, not for a re-hosted one.
    urls = [url for url in spec.urls if url.endswith("/" + name)] if name != spec.file_names[0] else list(spec.urls)
    return fetch(name, urls)


def _unknown(text: str) -> FileNotFoundError:
    error = not_found(text, [*MODELS, *(name for spec in MODELS.values() for name in spec.file_names)])
    others = re.search("sam[-_]?[23]", text.lower())
    return FileNotFoundError(f"SAM 2 and SAM 3 are not supported, and there is {error}") if others else error
