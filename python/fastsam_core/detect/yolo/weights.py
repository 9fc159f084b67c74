"""Checkpoints: reading them, checking that they hold a network of a known family, and building the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..._log import format_count
from ...models.weights_file import file_format
from .architecture import FAMILIES, Architecture
from .coco_names import COCO_NAMES
from .network import Network
from .pickled_checkpoint import WeightsMetadata, is_first_weight, read_pickled_checkpoint, to_published_names

_METADATA_KEY = "fastsam_core"
_BATCH_COUNTER_SUFFIX = ".num_batches_tracked"
# The distances that the bins stand for. Checkpoints store them, although they are always 0, 1, 2 ...
_DFL_WEIGHT = ".dfl.conv.weight"
# The head of YOLO26 has two sets of branches: "cv2" etc. give an object to many cells, "one2one_cv2" etc. to one.
_ONE_TO_ONE = re.compile(r"(model\.\d+\.)one2one_(cv[234]\.)")
_TRAINING_ONLY = ".proto.semseg."
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Weights:
    """A checkpoint: unfolded tensors by their published names ("model.0.conv.weight" ...), and its metadata."""

    tensors: dict[str, Tensor]
    metadata: WeightsMetadata

    def build_network(self) -> Network:
        """Build the network, in float32 on the CPU.

        ValueError, naming what differs, if the tensors don't fit, and for NaN or infinite weights.
        """
        tensors, end_to_end = _for_inference(fold_batch_norms(self.tensors, self.metadata.epsilon))
        try:
            shapes = {name: tuple(value.shape) for name, value in tensors.items()}
            architecture = Architecture.from_shapes(shapes, end_to_end)
        except ValueError as error:
            first_names = ", ".join(list(self.tensors)[:3])
            raise ValueError(f"these are not the tensors of a {FAMILIES} network ({first_names}...): {error}") from None
        family = architecture.family.name
        for name, value in self.tensors.items():
            if name.endswith(_DFL_WEIGHT) and value.flatten().tolist() != list(range(architecture.num_bins)):
                raise ValueError(f"{name} is not 0, 1, 2 ... as in {family}")
        with torch.device("meta"):
            network = Network(architecture)
        differences = _describe_differences(network.state_dict(), tensors)
        if differences:
            raise ValueError(f"these are not the tensors of a {family} network: {differences}")
        self.metadata.check_attributes(network)
        non_finite = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
        if non_finite:
            raise ValueError(
                f"NaN or infinite numbers in {format_count(len(non_finite), 'tensor')}, such as {non_finite[0]}: the "
                "file is damaged, or the training that made it went wrong"
            )
        network.load_state_dict(tensors, assign=True)
        return network

    def class_names(self, num_classes: int) -> dict[int, str]:
        """Return the checkpoint's class names; without any, those of COCO if there are 80 classes, else numbers.

        The only class of a network without names is called "object".
        """
        known_names = self.metadata.names or (COCO_NAMES if num_classes == len(COCO_NAMES) else {})
        return {
            index: known_names.get(index, "object" if num_classes == 1 else str(index)) for index in range(num_classes)
        }


def read_weights(path: Path) -> Weights:
    """Read a `.pt` file (pickled modules, or a state dict) or a `.safetensors` file by any writer.

    Nothing that the file names is imported or called. ValueError, naming the file, if it is something else or damaged.
    """
    try:
        if file_format(path) == "safetensors":
            return _read_safetensors(path)
        from ...models.pickled import open_pickled

        pickled = open_pickled(path)
        tensor_refs, metadata = read_pickled_checkpoint(pickled.content)
        return Weights(pickled.tensors(tensor_refs), metadata)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def is_yolo_state_dict(names: Iterable[str]) -> bool:
    """Return whether tensors with these names look like those of a YOLO network."""
    return any(is_first_weight(name) for name in names)


def save_weights(weights: Weights, target: Path) -> None:
    """Write a `.safetensors` file for `read_weights`, with the tensors unchanged and the metadata as JSON."""
    from ..._files import save_tensors

    metadata = {
        "format": "yolo",
        "names": weights.metadata.names,
        "imgsz": weights.metadata.imgsz,
        "epsilon": weights.metadata.epsilon,
    }
    save_tensors(weights.tensors, target, {_METADATA_KEY: json.dumps(metadata)})


def fold_batch_norms(tensors: Mapping[str, Tensor], epsilon: float) -> dict[str, Tensor]:
    """Return the tensors in float32 with every batch normalisation folded into its convolution's weight and bias.

    ValueError for a normalisation without its convolution or of another size, and for integers, such as those of a
    quantized network.
    """
    folded: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.endswith((_DFL_WEIGHT, _BATCH_COUNTER_SUFFIX)):
            continue
        if value.dtype not in _DTYPES:
            raise ValueError(f"{name} is {value.dtype}; weights are one of {', '.join(map(str, _DTYPES))}")
        if ".bn." not in name:
            folded[name] = value.float()
    for name in tensors:
        if not name.endswith(".bn.weight"):
            continue
        layer = name.removesuffix(".bn.weight")
        bn_tensors = [tensors.get(f"{layer}.bn.{key}") for key in ("weight", "bias", "running_mean", "running_var")]
        weight = folded.get(f"{layer}.conv.weight", torch.zeros(0, device="cpu"))
        bias = folded.get(f"{layer}.conv.bias", weight.new_zeros(weight.shape[:1]))
        if weight.ndim != 4 or any(
            tensor is None or tensor.shape != weight.shape[:1] for tensor in (bias, *bn_tensors)
        ):
            raise ValueError(f"the normalisation {layer}.bn doesn't fit its convolution")
        gamma, beta, mean, variance = (tensor.double() for tensor in bn_tensors if tensor is not None)
        gamma = gamma / (variance + epsilon).sqrt()
        folded[f"{layer}.conv.weight"] = (weight.double() * gamma[:, None, None, None]).float()
        folded[f"{layer}.conv.bias"] = (beta + (bias.double() - mean) * gamma).float()
    return folded


def _for_inference(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors that prediction needs, and whether the head gives each object to one cell.

    Of two sets of branches, those that give an object to many cells are used, as in Ultralytics; their duplicates are
    removed. Files of fused models may have only the others, which are renamed.
    """
    tensors = {name: value for name, value in tensors.items() if _TRAINING_ONLY not in name}
    one_to_one = {name: _ONE_TO_ONE.sub(r"\1\2", name) for name in tensors if _ONE_TO_ONE.match(name)}
    if any(name in tensors for name in one_to_one.values()):
        return {name: value for name, value in tensors.items() if name not in one_to_one}, False
    return {one_to_one.get(name, name): value for name, value in tensors.items()}, bool(one_to_one)


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata_json = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"it is a damaged safetensors file: {error}") from error
    return Weights(to_published_names(tensors), WeightsMetadata.from_json(metadata_json))


def _describe_differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> str:
    """Describe what is missing, unexpected or of another shape; empty if nothing is."""
    missing = [name for name in expected if name not in actual]
    unexpected = [name for name in actual if name not in expected]
    reshaped = [
        f"{name} {tuple(actual[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in actual and actual[name].shape != value.shape
    ]
    problems = ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
    return "; ".join(f"{len(names)} {problem}: {', '.join(names[:3])}" for names, problem in problems if names)
