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
    layer that it joins to the one before it. head_inputs: layers that the head reads, finest first. num_areas: number
    of parts among which attention divides the positions, by the index of a stage that has it. residual_pyramid: whether
    bottlenecks of the pyramid add their input to their output, as those of the backbone do. residual_pooling: whether
    the pooling layer does. separable_scores: whether the head's class branches have depthwise convolutions.
    """

    name: str
    layers: tuple[str, ...]
    joined_layers: dict[int, int]
    head_inputs: tuple[int, int, int]
    num_areas: dict[int, int]
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
AREA_STAGE = "A2C2f"
POOLING = "SPPF"
ATTENTION = "C2PSA"


def _family(
    name: str,
    backbone: tuple[str, str, str, str],
    pyramid: tuple[str, str, str, str],
    backbone_end: tuple[str, ...],
    *,
    num_areas: dict[int, int] | None = None,
    residual_pooling: bool = False,
) -> Family:
    """Return the family with these types of stages in the backbone and in the pyramid."""
    layers = ["Conv"]
    for stage in backbone:
        layers += "Conv", stage
    layers += backbone_end
    last = len(layers) - 1
    for before, stage in zip(("Upsample", "Upsample", "Conv", "Conv"), pyramid, strict=True):
        layers += before, "Concat", stage
    is_v8 = backbone[0] == "C2f"
    return Family(
        name=name,
        layers=tuple(layers),
        joined_layers={last + 2: 6, last + 5: 4, last + 8: last + 3, last + 11: last},
        head_inputs=(last + 6, last + 9, last + 12),
        num_areas=num_areas or {},
        residual_pyramid=not is_v8,
        residual_pooling=residual_pooling,
        separable_scores=not is_v8,
    )


_C2F, _C3K2 = ("C2f",) * 4, ("C3k2",) * 4
YOLOV8 = _family("YOLOv8", _C2F, _C2F, (POOLING,))
YOLO11 = _family("YOLO11", _C3K2, _C3K2, (POOLING, ATTENTION))
YOLO12 = _family(
    "YOLO12",
    ("C3k2", "C3k2", AREA_STAGE, AREA_STAGE),
    (AREA_STAGE, AREA_STAGE, AREA_STAGE, "C3k2"),
    (),
    num_areas={6: 4, 8: 1},
)
YOLO26 = _family("YOLO26", _C3K2, _C3K2, (POOLING, ATTENTION), residual_pooling=True)

FAMILIES = "YOLOv8, YOLO11, YOLO12 or YOLO26"  # for messages


class BlockShape(NamedTuple):
    """Kind of a stage's blocks, the channels inside them, and the number of bottlenecks or attentions in each."""

    kind: Literal["bottleneck", "cross_stage", "attention", "area_attention"]
    channels: int
    depth: int = 1


@dataclass(frozen=True)
class Architecture:
    """Sizes that distinguish one network from another.

    family: its family. out_channels: output channels of a layer, by its index. hidden_channels: channels inside a
    stage, the pooling or the attention layer. depths: blocks of a stage or the attention layer. blocks: what they are,
    by the stage's index. scaled_stages: stages that add their output, with a factor per channel, to their input.
    num_bins: bins per distance. num_classes: number of object classes. box_channels,
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
    scaled_stages: frozenset[int] = frozenset()

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
            if f"model.{first}.0.attn.qkv.conv.weight" in shapes:
                return BlockShape("area_attention", out_channels_of(f"{first}.0.mlp.0.conv"), count(first))
            if f"model.{first}.1.attn.qkv.conv.weight" in shapes:
                return BlockShape("attention", out_channels_of(f"{first}.0.cv1.conv"))
            return BlockShape("bottleneck", out_channels_of(f"{first}.cv1.conv"))

        (attention,) = YOLO11.indices(ATTENTION)
        family = YOLOV8
        if f"model.{attention}.m.0.attn.qkv.conv.weight" in shapes:
            family = YOLO11
        elif f"model.{min(YOLO12.num_areas)}.m.0.0.attn.qkv.conv.weight" in shapes:
            family = YOLO12
        head = family.head_layer
        num_bins = out_channels_of(f"{head}.cv2.0.2") // 4
        if family is YOLO11 and num_bins == 1:
            family = YOLO26
        halves, areas = family.indices(*STAGES, ATTENTION), family.indices(AREA_STAGE)
        convolutions, pooling = family.indices("Conv"), family.indices(POOLING)
        first_score_layer = "0.1" if family.separable_scores else "0"
        architecture = cls(
            family=family,
            out_channels={index: out_channels_of(f"{index}.conv") for index in convolutions}
            | {index: out_channels_of(f"{index}.cv2.conv") for index in (*halves, *areas, *pooling)},
            hidden_channels={index: out_channels_of(f"{index}.cv1.conv") // 2 for index in halves}
            | {index: out_channels_of(f"{index}.cv1.conv") for index in (*areas, *pooling)},
            depths={index: count(f"{index}.m") for index in (*halves, *areas)},
            blocks={index: block(index) for index in family.indices(*STAGES, AREA_STAGE)},
            num_bins=num_bins,
            num_classes=out_channels_of(f"{head}.cv3.0.2"),
            box_channels=out_channels_of(f"{head}.cv2.0.0.conv"),
            score_channels=out_channels_of(f"{head}.cv3.0.{first_score_layer}.conv"),
            end_to_end=end_to_end,
            scaled_stages=frozenset(index for index in areas if f"model.{index}.gamma" in shapes),
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
