"""Which network a checkpoint holds: its family, and the sizes that distinguish one member from another.

Both follow from the names and shapes of its tensors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Family:
    """How the layers of a family follow each other, from a backbone to a two-way feature pyramid.

    name: as published. layers: published type of each layer before the head. joined_layers: for each "Concat", the
    layer that it joins to the one before it. head_inputs: layers that the head reads, finest first.
    residual_pyramid: whether bottlenecks of the pyramid add their input to their output, as those of the backbone do.
    residual_pooling: whether the pooling layer does. separable_scores: whether the head's class branches have depthwise
    convolutions.
    """

    name: str
    layers: tuple[str, ...]
    joined_layers: dict[int, int]
    head_inputs: tuple[int, int, int]
    residual_pyramid: bool
    residual_pooling: bool
    separable_scores: bool

    @property
    def head_layer(self) -> int:
        """Index of the head."""
        return len(self.layers)

    def indices(self, *types: str) -> list[int]:
        """Return the indices of the layers of these types."""
        return [index for index, layer in enumerate(self.layers) if layer in types]


STAGES = ("C2f", "C3k2")
POOLING = "SPPF"
ATTENTION = "C2PSA"


def _family(name: str, stage: str, backbone_end: tuple[str, ...] = (), *, residual_pooling: bool = False) -> Family:
    down = ("Conv", stage)
    backbone = ("Conv", *down, *down, *down, *down, POOLING, *backbone_end)
    last = len(backbone) - 1
    pyramid = (*("Upsample", "Concat", stage) * 2, *("Conv", "Concat", stage) * 2)
    is_v8 = stage == "C2f"
    return Family(
        name=name,
        layers=(*backbone, *pyramid),
        joined_layers={last + 2: 6, last + 5: 4, last + 8: last + 3, last + 11: last},
        head_inputs=(last + 6, last + 9, last + 12),
        residual_pyramid=not is_v8,
        residual_pooling=residual_pooling,
        separable_scores=not is_v8,
    )


YOLOV8 = _family("YOLOv8", "C2f")
YOLO11 = _family("YOLO11", "C3k2", (ATTENTION,))
YOLO26 = _family("YOLO26", "C3k2", (ATTENTION,), residual_pooling=True)

FAMILIES = f"{YOLOV8.name}, {YOLO11.name} or {YOLO26.name}"  # for messages


class BlockShape(NamedTuple):
    """Kind of a stage's blocks, the channels inside them, and the number of bottlenecks in each."""

    kind: Literal["bottleneck", "cross_stage", "attention"]
    channels: int
    depth: int = 1


@dataclass(frozen=True)
class Architecture:
    """Sizes that distinguish one network from another.

    family: its family. out_channels: output channels of a layer, by its index. hidden_channels: channels inside a
    stage, the pooling or the attention layer. depths: blocks of a stage or the attention layer. blocks: what they are,
    by the stage's index. num_bins: bins per distance. num_classes: number of object classes. box_channels,
    score_channels, mask_channels: channels inside the head's branches. num_coefficients: mask coefficients, 0 without
    segmentation. prototype_channels: channels inside the prototype branch, 0 without segmentation.
    has_fused_prototypes: whether prototypes are made from all levels. end_to_end: whether the head's branches give each
    object to one cell.
    """

    family: Family
    out_channels: dict[int, int]
    hidden_channels: dict[int, int]
    depths: dict[int, int]
    blocks: dict[int, BlockShape]
    num_bins: int
    num_classes: int
    box_channels: int
    score_channels: int
    mask_channels: int = 0
    num_coefficients: int = 0
    prototype_channels: int = 0
    has_fused_prototypes: bool = False
    end_to_end: bool = False

    @property
    def task(self) -> str:
        """Task of the network: "segment" or "detect"."""
        return "segment" if self.num_coefficients else "detect"

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], end_to_end: bool = False) -> Architecture:
        """Derive the sizes from the shapes of a state dict. ValueError, naming a missing tensor, if it is another's."""

        def out_channels_of(name: str) -> int:
            shape = shapes.get(f"model.{name}.weight")
            if shape is None or len(shape) != 4 or 0 in shape:
                raise ValueError(f"the convolution model.{name}.weight is missing or empty")
            return shape[0]

        def count(prefix: str) -> int:
            pattern = re.compile(rf"model\.{re.escape(prefix)}\.(\d+)\.")
            return len({match[1] for match in map(pattern.match, shapes) if match})

        def block(index: int) -> BlockShape:
            first = f"{index}.m.0"
            if f"model.{first}.cv3.conv.weight" in shapes:
                return BlockShape("cross_stage", out_channels_of(f"{first}.cv1.conv"), count(f"{first}.m"))
            if f"model.{first}.1.attn.qkv.conv.weight" in shapes:
                return BlockShape("attention", out_channels_of(f"{first}.0.cv1.conv"))
            return BlockShape("bottleneck", out_channels_of(f"{first}.cv1.conv"))

        (attention,) = YOLO11.indices(ATTENTION)
        has_attention = f"model.{attention}.m.0.attn.qkv.conv.weight" in shapes
        head = (YOLO11 if has_attention else YOLOV8).head_layer
        num_bins = out_channels_of(f"{head}.cv2.0.2") // 4
        family = YOLOV8 if not has_attention else YOLO26 if num_bins == 1 else YOLO11
        stages, halves = family.indices(*STAGES), family.indices(*STAGES, ATTENTION)
        convolutions, pooling = family.indices("Conv"), family.indices(POOLING)
        first_score_layer = "0.1" if family.separable_scores else "0"
        architecture = cls(
            family=family,
            out_channels={index: out_channels_of(f"{index}.conv") for index in convolutions}
            | {index: out_channels_of(f"{index}.cv2.conv") for index in (*halves, *pooling)},
            hidden_channels={index: out_channels_of(f"{index}.cv1.conv") // 2 for index in halves}
            | {index: out_channels_of(f"{index}.cv1.conv") for index in pooling},
            depths={index: count(f"{index}.m") for index in halves},
            blocks={index: block(index) for index in stages},
            num_bins=num_bins,
            num_classes=out_channels_of(f"{head}.cv3.0.2"),
            box_channels=out_channels_of(f"{head}.cv2.0.0.conv"),
            score_channels=out_channels_of(f"{head}.cv3.0.{first_score_layer}.conv"),
            end_to_end=end_to_end,
        )
        if f"model.{head}.proto.cv1.conv.weight" not in shapes:
            return architecture
        return dataclasses.replace(
            architecture,
            mask_channels=out_channels_of(f"{head}.cv4.0.0.conv"),
            num_coefficients=out_channels_of(f"{head}.cv4.0.2"),
            prototype_channels=out_channels_of(f"{head}.proto.cv1.conv"),
            has_fused_prototypes=f"model.{head}.proto.feat_fuse.conv.weight" in shapes,
        )
