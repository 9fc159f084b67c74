"""Conversion of checkpoints to safetensors files, which can only hold tensors and text, never code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ._files import save_tensors
from .detect.yolo.load import OFFICIAL_URLS
from .detect.yolo.weights import is_yolo_state_dict, read_weights, save_weights
from .models.checkpoint import identify, read_state_dict, resolve
from .models.checkpoint_paths import find_checkpoint


@dataclass(frozen=True)
class Converted:
    """The written file, a description of its model, and the number of its tensors."""

    path: Path
    model: str
    tensors: int


def convert_checkpoint(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Converted:
    """Write the tensors of a SAM, YOLO or FastSAM checkpoint to `target`, a `.safetensors` file.

    source: a path, or an official checkpoint name. Tensors keep their types, and their names unless transformers saved
    them. For YOLO networks, class names and other settings are stored in the file's metadata. Nothing that a pickled
    checkpoint refers to is imported or run.

    Raises ValueError for a source that is none of these models, for a target with another suffix, and for a target that
    is the source itself; FileNotFoundError if there is no such source.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"checkpoints are converted to .safetensors, not to {target.name!r}")
    text = os.fspath(source)
    path = find_checkpoint(text, OFFICIAL_URLS) if text in OFFICIAL_URLS else resolve(text)
    if target.exists() and target.samefile(path):
        raise ValueError(f"{target} is the source itself; give another name")
    try:
        state: dict[str, Tensor] | None = read_state_dict(path)
    except ValueError:
        state = None  # not a state dict: pickled modules, or something that `read_weights` will reject
    if state is None or is_yolo_state_dict(state):
        weights = read_weights(path)
        sizes = weights.build_network().architecture
        save_weights(weights, target)
        return Converted(
            target, f"{sizes.family.name}, {sizes.task}, {sizes.num_classes} classes", len(weights.tensors)
        )
    spec = identify(state)
    save_tensors(state, target)
    return Converted(target, spec.name, len(state))
