"""Functions that build models, under the names of Meta's package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..models.checkpoint import read_state_dict, resolve
from ..models.image_encoder import sam_vit
from ..models.registry import ModelSpec
from ..models.sam import build
from ..models.sam.build import Checkpoint
from .modeling import Sam


def build_sam_vit_h(checkpoint: Checkpoint = None) -> Sam:
    """Build SAM with the ViT-H image encoder. Without a checkpoint it is untrained."""
    return Sam.from_model(build.build_sam_vit_h(checkpoint))


def build_sam_vit_l(checkpoint: Checkpoint = None) -> Sam:
    """Build SAM with the ViT-L image encoder. Without a checkpoint it is untrained."""
    return Sam.from_model(build.build_sam_vit_l(checkpoint))


def build_sam_vit_b(checkpoint: Checkpoint = None) -> Sam:
    """Build SAM with the ViT-B image encoder. Without a checkpoint it is untrained."""
    return Sam.from_model(build.build_sam_vit_b(checkpoint))


def build_sam_vit_t(checkpoint: Checkpoint = None) -> Sam:
    """Build MobileSAM, which its own package calls vit_t. Without a checkpoint it is untrained."""
    return Sam.from_model(build.build_mobile_sam(checkpoint))


def build_sam_nano(checkpoint: Checkpoint = "sam_nano.pt") -> Sam:
    """Build the bundled model sam_nano. It has its weights by default and is untrained if `checkpoint` is None."""
    return Sam.from_model(build.build_sam_nano(checkpoint))


def _build_sam(
    encoder_embed_dim: int,
    encoder_depth: int,
    encoder_num_heads: int,
    encoder_global_attn_indexes: Sequence[int],
    checkpoint: Checkpoint = None,
) -> Sam:
    """Build a model with a ViT image encoder of any size. For tools that call Meta's function of this name."""

    def encoder() -> nn.Module:
        return sam_vit(encoder_embed_dim, encoder_depth, encoder_num_heads, encoder_global_attn_indexes)

    sam = Sam.from_model(ModelSpec("sam", 1024, encoder, file_names=()).build().eval())
    if checkpoint is not None:
        sam.load_state_dict(read_state_dict(resolve(checkpoint)))
    return sam


build_sam = build_sam_vit_h

sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
    "sam_nano": build_sam_nano,
}
