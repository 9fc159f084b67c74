"""Checkpoints of the family: reading them, checking that they are YOLOv8 networks, and building the network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...models.weights_file import file_format
from .coco_names import COCO_NAMES
from .network import Architecture, Network
from .record import Facts, flat_tensors, is_first, read_record

_METADATA = "fastsam_core"
_COUNTER = ".num_batches_tracked"
# The distances that the bins stand for. Checkpoints store them, although they are always 0, 1, 2 ...
_DISTANCES = "model.22.dfl.conv.weight"


@dataclass(frozen=True)
class Weights:
    """A checkpoint: unfolded tensors by their published names ("model.0.conv.weight" ...), and facts about it."""

    tensors: dict[str, Tensor]
    facts: Facts

    def network(self) -> Network:
        """Build the network, in float32 on the CPU. ValueError, naming what differs, if the tensors don't fit."""
        folded = fold(self.tensors, self.facts.epsilon)
        try:
            sizes = Architecture.of({name: tuple(value.shape) for name, value in folded.items()})
        except ValueError as error:
            first = ", ".join(list(self.tensors)[:3])
            raise ValueError(f"these are not the tensors of a YOLOv8 network ({first}...): {error}") from None
        distances = self.tensors.get(_DISTANCES)
        if distances is not None and distances.flatten().tolist() != list(range(sizes.bins)):
            raise ValueError(f"{_DISTANCES} is not 0, 1, 2 ... as in YOLOv8")
        with torch.device("meta"):
            network = Network(sizes)
        problem = _differences(network.state_dict(), folded)
        if problem:
            raise ValueError(f"these are not the tensors of a YOLOv8 network: {problem}")
        self.facts.check(network)
        network.load_state_dict(folded, assign=True)
        return network

    def names(self, classes: int) -> dict[int, str]:
        """Return the checkpoint's class names; without any, those of COCO if there are 80 classes, else numbers.

        The only class of a network without names is called "object".
        """
        known = self.facts.names or (COCO_NAMES if classes == len(COCO_NAMES) else {})
        return {index: known.get(index, "object" if classes == 1 else str(index)) for index in range(classes)}


def read_weights(path: Path) -> Weights:
    """Read a `.pt` file (pickled modules, or a state dict) or a `.safetensors` file by any writer.

    Nothing that the file names is imported or called. ValueError, naming the file, if it is something else or damaged.
    """
    try:
        if file_format(path) == "safetensors":
            return _safetensors(path)
        from ...models.pickled import open_pickled

        pickled = open_pickled(path)
        places, facts = read_record(pickled.content)
        return Weights(pickled.tensors(places), facts)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def tells_yolo(names: Iterable[str]) -> bool:
    """Return whether tensors with these names look like those of a YOLO network."""
    return any(is_first(name) for name in names)


def save_weights(weights: Weights, target: Path) -> None:
    """Write a `.safetensors` file for `read_weights`, with the tensors unchanged and the facts as metadata."""
    from ..._files import save_tensors

    facts = {
        "format": "yolov8",
        "names": weights.facts.names,
        "imgsz": weights.facts.imgsz,
        "epsilon": weights.facts.epsilon,
    }
    save_tensors(weights.tensors, target, {_METADATA: json.dumps(facts)})


def fold(tensors: Mapping[str, Tensor], epsilon: float) -> dict[str, Tensor]:
    """Return the tensors in float32 with every batch normalisation folded into its convolution's weight and bias.

    ValueError for a normalisation without its convolution, or of another size.
    """
    folded: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name == _DISTANCES or name.endswith(_COUNTER) or ".bn." in name:
            continue
        folded[name] = value.float()
    for name in tensors:
        if not name.endswith(".bn.weight"):
            continue
        layer = name.removesuffix(".bn.weight")
        parts = [tensors.get(f"{layer}.bn.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        weight = folded.get(f"{layer}.conv.weight")
        if weight is None or any(part is None or part.shape != weight.shape[:1] for part in parts):
            raise ValueError(f"the normalisation {layer}.bn doesn't fit its convolution")
        gain, shift, mean, variance = (part.double() for part in parts if part is not None)
        gain = gain / (variance + epsilon).sqrt()
        bias = folded.get(f"{layer}.conv.bias", torch.zeros_like(mean)).double()
        folded[f"{layer}.conv.weight"] = (weight.double() * gain[:, None, None, None]).float()
        folded[f"{layer}.conv.bias"] = (shift + (bias - mean) * gain).float()
    return folded


def _safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(_METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"it is a damaged safetensors file: {error}") from error
    return Weights(flat_tensors(tensors), Facts.from_json(metadata))


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Describe what is missing, unexpected or of another shape; empty if nothing is."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    parts = ((missing, "missing"), (unexpected, "unexpected"), (other, "of another shape"))
    return "; ".join(f"{len(names)} {what}: {', '.join(names[:3])}" for names, what in parts if names)
