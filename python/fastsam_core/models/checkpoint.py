"""Load a model from a name or a path: find the file, identify the model in it, and build it with its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._files import cache_folder
from .._log import format_count
from ..device import select_device
from .checkpoint_paths import as_path, as_text, download_official, not_a_file_error, not_found_error
from .download import download
from .registry import MODELS, ModelSpec
from .sam_model import SamModel
from .vit_sizes import vit_spec
from .weights_file import read_state_dict

__all__ = ["download", "identify", "load_model", "load_state_dict", "read_state_dict", "resolve"]

DEFAULT_MODEL = "sam_b.pt"
_BUNDLED_MODEL = "sam_nano"
# Names that transformers gives to the weights in a folder.
_FILES_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
# Constants that some exports store besides the weights.
_CONSTANTS = frozenset(("pixel_mean", "pixel_std"))
# BatchNorm's count of training steps plays no part in prediction, and some exports drop it.
_NUM_BATCHES_TRACKED = ".num_batches_tracked"
# Checkpoints of other models: a pattern that one of the tensor names matches, and what to say. The first match wins.
_FOREIGN_CHECKPOINTS = (
    (r"memory_attention\.|memory_encoder\.|image_encoder\.trunk\.", "a SAM 2 checkpoint, which is not supported"),
    (r"(^|\.)detector\.", "a SAM 3 checkpoint, which is not supported"),
    (r"mask_decoder\.(h[fq]_token|compress_vit_)", "a HQ-SAM checkpoint, which is not supported"),
    (r"image_encoder\.(backbone|stages)\.", "a SAM variant with another image encoder, which is not supported"),
    (r"^image_encoder\.", "a SAM variant with other layers"),
    (r"^(\d+|model\.\d+)\.(conv|cv1|m\.\d+)\.", "a YOLO checkpoint; YOLO(...) and FastSAM(...) load those"),
    (r"^layer1\.0\.conv1\.", "a ResNet classifier"),
    (r"^(blocks|encoder\.layers?)\.", "a plain vision transformer without prompt encoder and mask decoder"),
    (r"^(patch_embed|blocks|neck)\.", "an image encoder alone"),
)


@torch.inference_mode(False)  # inference tensors can't be trained, and nothing derived from them is cached
def load_model(model: str | os.PathLike[str] | None = DEFAULT_MODEL, device: Any = "cpu") -> SamModel:
    """Return the model with its weights, in float32 and eval mode, on `device` (None or "": a GPU if there is one).

    model: a path, a name as for `resolve`, or None for sam_b. A file that has an official name must hold that model;
    any other file is identified by its tensors, as a registered model or one of the same layers with a ViT of another
    size. Raises FileNotFoundError if the file can't be found, ValueError if it is another kind of file or model, and
    ConnectionError if a download fails.
    """
    target_device = select_device(device)
    path = resolve(DEFAULT_MODEL if model is None else model)
    state = read_state_dict(path)
    expected = _find_spec(path.name)
    try:
        spec = identify(state, expected)
        if expected is not None and expected is not spec:
            raise ValueError(
                f"the file name stands for {expected.name}, but the {len(state)} tensors in it are those of "
                f"{spec.name}; rename it if that is what you want"
            )
        # The model is built in PyTorch's default dtype, which may be narrower than that of the file.
        network = _build_uninitialised(spec).float()
        load_state_dict(network, state, spec)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return network.eval().to(target_device)


def resolve(model: str | os.PathLike[str]) -> Path:
    """Return the path of the file that `model` stands for; official files are downloaded if necessary.

    model: a path of a file, or of a folder in which transformers saved one; else a file name within `FASTSAM_HOME`;
    else an official name: sam_b.pt, sam_l.pt, sam_h.pt, mobile_sam.pt, one of Meta's file names, or a registry name
    without suffix ("sam_b"). sam_nano comes with the package. An official model that lies in `FASTSAM_HOME` under
    another of its names is not downloaded again. Raises FileNotFoundError for anything else, suggesting the closest
    name, and ValueError for any other folder or a special file.
    """
    text = as_text(model)
    path = as_path(text)
    for candidate in (path, *(path / name for name in _FILES_IN_FOLDER)):
        if os.path.isfile(candidate):
            return candidate
    spec = MODELS.get(text) or (_find_spec(text) if path.name == text else None)
    if spec is None:
        home_path = cache_folder() / text
        if os.path.isfile(home_path):
            return home_path
        if os.path.exists(path):
            raise not_a_file_error(text)
        raise _unknown_model_error(text)
    names = [text, *spec.file_names] if text != spec.name else list(spec.file_names)
    folders = [Path(), cache_folder()] if text == spec.name else [cache_folder()]
    for folder in folders:
        for name in names:
            if os.path.isfile(folder / name):
                return folder / name
    return _bundled_path() if spec.name == _BUNDLED_MODEL else _download_weights(spec, names[0])


def identify(state: Mapping[str, Tensor], expected: ModelSpec | None = None) -> ModelSpec:
    """Return the row of the model that these tensors belong to: one of the registry, or one with a ViT of another size.

    expected: the row to try first, which saves comparing with the other models; an error names it as the expected
    model. Raises ValueError if no model fits exactly, saying what the tensors look like instead.
    """
    specs = sorted(MODELS.values(), key=lambda spec: spec is not expected)
    for spec in specs:
        if not any(_differences(spec, state)):
            return spec
    if other := vit_spec(state):
        if not any(_differences(other, state)):
            return other
        specs.append(other)
    # No exact fit: if one model is close, report how the tensors differ from it.
    shares = [_share_of_fitting(spec, state) for spec in specs]
    if max(shares) >= 0.5:
        closest = specs[shares.index(max(shares))]
        raise ValueError(f"looks like {closest.name}, but {describe_differences(closest, state)}")
    first = ", ".join(list(state)[:3])
    foreign_kind = next(
        (text for pattern, text in _FOREIGN_CHECKPOINTS if any(re.search(pattern, key) for key in state)), ""
    )
    hint = f"; it looks like {foreign_kind}" if foreign_kind else ""
    wanted = expected.name if expected else f"one of: {', '.join(MODELS)}"
    raise ValueError(
        f"found {format_count(len(state), 'tensor')} ({first}...){hint}. Expected the state dict of {wanted}"
    )


def load_state_dict(model: SamModel, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Copy the tensors into a model that was built from this row; they may have any floating-point dtype.

    Raises ValueError unless every tensor fits and none is missing, and for NaN or infinite weights, with which the
    model would find nothing.
    """
    expected_keys = _expected_shapes(spec)
    if any(_differences(spec, state)):
        raise ValueError(f"these are not the weights of {spec.name}: {describe_differences(spec, state)}")
    model.load_state_dict({key: value for key, value in state.items() if key in expected_keys}, strict=False)
    non_finite = [key for key, value in model.state_dict().items() if not _is_finite(value)]
    if non_finite:
        raise ValueError(
            f"NaN or infinite numbers in {format_count(len(non_finite), 'tensor')}, such as {non_finite[0]}: the file "
            "is damaged, or the training that made it went wrong"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinite numbers."""
    # The sum is a fast check. It may overflow for large finite values, so a non-finite sum is confirmed element by
    # element.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def describe_differences(spec: ModelSpec, state: Mapping[str, Tensor]) -> str:
    """Describe which tensors of the model are missing in `state`, unexpected, or of another shape or dtype."""
    missing, unexpected, mismatched = _differences(spec, state)
    shapes = [f"{key} {_describe_type(state[key])} instead of {_expected_shapes(spec)[key]}" for key in mismatched]
    parts = ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape or type"))
    return "; ".join(
        f"{format_count(len(keys), 'tensor')} {what}: {', '.join(keys[:4])}{'...' if len(keys) > 4 else ''}"
        for keys, what in parts
        if keys
    )


def _describe_type(tensor: Tensor) -> str:
    """Return a tensor's shape, and its dtype unless that is a floating-point one."""
    shape = str(tuple(tensor.shape))
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _differences(spec: ModelSpec, state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Return the names of (missing, unexpected, misfitting) tensors for the model."""
    expected, ignored = _expected_shapes(spec), spec.ignored_keys
    return (
        [key for key in expected if key not in state and not key.endswith(_NUM_BATCHES_TRACKED)],
        [key for key in state if key not in expected and key not in _CONSTANTS and not key.startswith(ignored)],
        [key for key in expected if key in state and not _fits(state, key, expected[key])],
    )


def _share_of_fitting(spec: ModelSpec, state: Mapping[str, Tensor]) -> float:
    """Return which share of the model's tensors `state` has in a fitting form."""
    expected = _expected_shapes(spec)
    return sum(_fits(state, key, shape) for key, shape in expected.items()) / len(expected)


def _fits(state: Mapping[str, Tensor], key: str, shape: tuple[int, ...]) -> bool:
    """Return whether `state` has a tensor `key` of this shape with a usable dtype."""
    tensor = state.get(key)
    if tensor is None or tuple(tensor.shape) != shape:
        return False
    return tensor.is_floating_point() or key.endswith(_NUM_BATCHES_TRACKED)


class _SkipInit(TorchFunctionMode):
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


def _build_uninitialised(spec: ModelSpec, device: str = "cpu") -> SamModel:
    """Build the model with uninitialised weights."""
    with torch.device(device), _SkipInit():
        return spec.build()


@lru_cache(maxsize=16)
def _expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the tensor names and shapes of a model."""
    return {key: tuple(value.shape) for key, value in _build_uninitialised(spec, "meta").state_dict().items()}


def _find_spec(file_name: str) -> ModelSpec | None:
    """Return the registry row that has this official file name, or None."""
    return next((spec for spec in MODELS.values() if file_name in spec.file_names), None)


def _bundled_path() -> Path:
    """Return the path of the bundled checkpoint."""
    path = Path(str(resources.files("fastsam_core") / "weights" / f"{_BUNDLED_MODEL}.safetensors"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}, a file of this package, is missing: install fastsam_core again")
    return path


def _download_weights(spec: ModelSpec, name: str) -> Path:
    """Download an official file as `name` and return its path."""
    # One of Meta's file names means Meta's file, not a re-hosted one.
    urls = [url for url in spec.urls if url.endswith("/" + name)] if name != spec.file_names[0] else list(spec.urls)
    return download_official(name, urls)


def _unknown_model_error(text: str) -> FileNotFoundError:
    """Return the error for a name that stands for nothing."""
    error = not_found_error(text, [*MODELS, *(name for spec in MODELS.values() for name in spec.file_names)])
    name = os.path.basename(text).lower()
    if re.search("sam[-_]?[23]", name):
        return FileNotFoundError(f"SAM 2 and SAM 3 are not supported; {error}")
    if name.startswith(("yolo", "fastsam")):
        return FileNotFoundError(f"YOLO(...) and FastSAM(...) load such checkpoints, SAM doesn't; {error}")
    return error
