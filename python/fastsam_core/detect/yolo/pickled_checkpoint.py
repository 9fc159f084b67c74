"""Reading a pickled checkpoint: where its tensors are, and metadata that the tensors don't tell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from ...models.pickled import Record, TensorRef
from .architecture import FAMILIES, YOLO11, YOLO12, YOLOV8, Family
from .blocks import NUM_POOLINGS, AreaAttention, Attention, AttentionBlock, Bottleneck, Conv, PyramidPooling
from .network import Network

_HEAD_TYPES = ("Detect", "Segment", "Segment26")
_DEFAULT_EPSILON = 1e-3  # of the family's batch normalisations, if the file doesn't give it
_MAX_MODULES = 10_000
_MAX_DEPTH = 16
# Properties of modules that the shapes of their tensors don't show, by published type.
_CONVOLUTION_ATTRIBUTES = ("stride", "padding", "dilation", "groups")
_ATTRIBUTES = {
    "Conv2d": _CONVOLUTION_ATTRIBUTES,
    "ConvTranspose2d": _CONVOLUTION_ATTRIBUTES,
    "Bottleneck": ("add",),
    "PSABlock": ("add",),
    "SPPF": ("add", "n"),
    "Attention": ("num_heads",),
    "AAttn": ("num_heads", "area"),
}
# Properties of modules without a counterpart in `Network`.
_FIXED_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "MaxPool2d": {"kernel_size": 5, "stride": 1, "padding": 2},
    "Upsample": {"scale_factor": 2, "mode": "nearest"},
}

TensorT = TypeVar("TensorT")


@dataclass(frozen=True)
class WeightsMetadata:
    """Metadata of a checkpoint.

    names: class names by id. imgsz: long side of the input in training, None if unknown. epsilon: of the batch
    normalisations. attributes: properties by module name, as far as the file gives them.
    """

    names: dict[int, str] = field(default_factory=dict)
    imgsz: int | None = None
    epsilon: float = _DEFAULT_EPSILON
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | None) -> WeightsMetadata:
        """Read the metadata of a safetensors file; ValueError if they are malformed."""
        if text is None:
            return cls()
        try:
            metadata = json.loads(text)
            names = {int(index): str(name) for index, name in metadata["names"].items()}
            epsilon = metadata["epsilon"]
            if not _is_epsilon(epsilon):
                raise ValueError(f"epsilon is {epsilon!r}")
            return cls(names, _imgsz(metadata), epsilon)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"its metadata are damaged: {error}") from None

    def check_attributes(self, network: Network) -> None:
        """Raise ValueError if a module of the file has other properties than the network's."""
        for name, module in network.named_modules():
            _check_attributes(
                name, self.attributes.get(name, {}), _expected_attributes(module), network.architecture.family
            )


def read_pickled_checkpoint(content: Any) -> tuple[dict[str, TensorRef], WeightsMetadata]:
    """Return the positions of the tensors, and the metadata, in the content that `open_pickled` returned.

    If the checkpoint has an exponential moving average of the weights, that is taken. ValueError for anything but a
    network of a known family or its state dict.
    """
    top_level: Mapping[Any, Any] = content if isinstance(content, dict) else {}
    root: Any = content
    for key in ("ema", "model", "state_dict"):
        if isinstance(top_level.get(key), Record | dict):
            root = top_level[key]
            break
    if isinstance(root, dict):
        state_dict = {str(name): value for name, value in root.items() if isinstance(value, TensorRef)}
        return to_published_names(state_dict), WeightsMetadata()
    if not isinstance(root, Record):
        raise ValueError(f"it holds a {type(root).__name__}, not a network")
    layers = root.state.get("_modules", {})
    sequence = layers.get("model") if isinstance(layers, dict) else None
    if not isinstance(sequence, Record):
        raise ValueError(f"it holds a {root.name}, which is not a {FAMILIES} network")
    family = _check_layer_types(sequence)
    modules = dict(_iterate_modules(sequence))
    tensors: dict[str, TensorRef] = {}
    attributes: dict[str, dict[str, Any]] = {}
    epsilons: list[Any] = []
    for name, module in modules.items():
        tensors.update(_tensors_of_module(name, module))
        if module.class_name in ("BatchNorm2d", "SyncBatchNorm"):
            epsilons.append(module.state.get("eps"))
        if name.endswith(".act"):
            attributes.setdefault(name.removesuffix(".act"), {})["act"] = module.class_name
        given = {key: module.state[key] for key in _ATTRIBUTES.get(module.class_name, ()) if key in module.state}
        attributes.setdefault(name, {}).update(given)
        _check_attributes(name, module.state, _FIXED_ATTRIBUTES.get(module.class_name, {}), family)
    if not all(map(_is_epsilon, epsilons)) or len(set(epsilons)) > 1:
        raise ValueError("its batch normalisations have different or impossible epsilons")
    metadata = WeightsMetadata(
        names=_class_names(root.state.get("names")),
        imgsz=_imgsz(top_level.get("train_args")) or _imgsz(root.state.get("args")),
        epsilon=epsilons[0] if epsilons else _DEFAULT_EPSILON,
        attributes=attributes,
    )
    return tensors, metadata


def to_published_names(tensors: Mapping[str, TensorT]) -> dict[str, TensorT]:
    """Rename a state dict to the published names: the prefix before "0.conv.weight" becomes "model."."""
    prefix = next((name.removesuffix("0.conv.weight") for name in tensors if is_first_weight(name)), None)
    if prefix is None:
        first_names = ", ".join(map(repr, list(tensors)[:3])) or "nothing"
        raise ValueError(f"it holds no tensors of a {FAMILIES} network, but {first_names}")
    return {f"model.{name.removeprefix(prefix)}": value for name, value in tensors.items() if name.startswith(prefix)}


def is_first_weight(name: str) -> bool:
    """Return whether `name` is the name of the first layer's weight, with or without a prefix."""
    return name == "0.conv.weight" or name.endswith("model.0.conv.weight")


def _check_layer_types(sequence: Record) -> Family:
    """Return a family with these layers. ValueError if there is none, even if all tensor shapes match."""
    layers = sequence.state.get("_modules")
    modules = list(layers.values()) if isinstance(layers, dict) else []
    types = [layer.class_name if isinstance(layer, Record) else type(layer).__name__ for layer in modules]

    def matches(family: Family) -> list[bool]:
        return [given == expected for given, expected in zip(types, family.layers, strict=False)]

    family = max(YOLOV8, YOLO11, YOLO12, key=lambda family: sum(matches(family)))  # YOLO26 has the layers of YOLO11
    index = next((index for index, same in enumerate(matches(family)) if not same), len(family.layers))
    if index < len(family.layers):
        raise ValueError(
            f"layer {index} is a {types[index]}, in {family.name} a {family.layers[index]}: another network, which is "
            "not supported; detect.from_onnx takes detectors that were exported to ONNX"
        )
    if len(types) != family.head_layer + 1 or types[-1] not in _HEAD_TYPES:
        raise ValueError(
            f"a network of {len(types)} layers that ends with {types[-1] if types else 'nothing'}; supported are those "
            f"of {family.head_layer + 1} layers that end with {' or '.join(_HEAD_TYPES)}"
        )
    return family


def _expected_attributes(module: nn.Module) -> dict[str, Any]:
    match module:
        case nn.Conv2d() | nn.ConvTranspose2d():
            return {key: getattr(module, key) for key in _CONVOLUTION_ATTRIBUTES}
        case Conv():
            return {"act": "SiLU" if module.activated else "Identity"}
        case Bottleneck():
            return {"add": module.residual}
        case AttentionBlock():
            return {"add": True}
        case PyramidPooling():
            return {"add": module.residual, "n": NUM_POOLINGS}
        case Attention():
            return {"num_heads": module.num_heads}
        case AreaAttention():
            return {"num_heads": module.num_heads, "area": module.num_areas}
    return {}


def _check_attributes(name: str, given: Mapping[str, Any], expected: Mapping[str, Any], family: Family) -> None:
    for key, value in expected.items():
        if given.get(key, value) != value:
            raise ValueError(
                f"{name} has {key} {given[key]!r:.40}, in {family.name} {value!r}: a modified network, which is not "
                "supported"
            )


def _iterate_modules(sequence: Record) -> Iterator[tuple[str, Record]]:
    """Yield every module below the sequence with its dotted name. ValueError if they are too many or too deep."""
    stack: list[tuple[str, Record, int]] = [("model", sequence, 0)]
    count = 0
    while stack:
        name, module, depth = stack.pop()
        count += 1
        if count > _MAX_MODULES or depth > _MAX_DEPTH:
            raise ValueError(f"its modules are too many or nested too deeply: {name[:100]}")
        yield name, module
        children = module.state.get("_modules")
        for key, child in (children if isinstance(children, dict) else {}).items():
            if isinstance(child, Record):
                stack.append((f"{name}.{str(key)[:100]}", child, depth + 1))


def _tensors_of_module(name: str, module: Record) -> Iterator[tuple[str, TensorRef]]:
    transient = module.state.get("_non_persistent_buffers_set")
    for group in ("_parameters", "_buffers"):
        values = module.state.get(group)
        for key, value in (values if isinstance(values, dict) else {}).items():
            if isinstance(value, TensorRef) and not (isinstance(transient, set) and key in transient):
                yield f"{name}.{str(key)[:100]}", value


def _class_names(names: Any) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list | tuple) else ()
    return {int(index): name for index, name in pairs if isinstance(index, int) and isinstance(name, str)}


def _is_epsilon(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


def _imgsz(args: Any) -> int | None:
    """Return the input size in training, from a dictionary or record of the settings; None if missing or invalid."""
    settings = args.state if isinstance(args, Record) else args
    value = settings.get("imgsz") if isinstance(settings, dict) else None
    if isinstance(value, list | tuple) and value and all(type(side) is int for side in value):
        value = max(value)
    return value if type(value) is int and 32 <= value <= 8192 else None
