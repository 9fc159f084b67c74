"""Sizes of Segment Anything models with a ViT of any width, depth, heads and input size, read off their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .image_encoder import sam_vit
from .registry import ModelSpec

_BLOCK = "image_encoder.blocks.{}."
# The decoder has eight heads, and its attention and its masks' features have fewer channels than the embedding.
_EMBED_DIM_MULTIPLE = 16


def vit_spec(state: Mapping[str, Tensor]) -> ModelSpec | None:
    """Return a row, in the form of the registry's, for the model that these tensors seem to belong to.

    It may be a pruned one, one for smaller images, or one with fewer blocks. What no tensor tells is as in the official
    models. The tensors may still differ from those of the row. None if they don't give the sizes, or claim more memory
    than they take.
    """
    if not _is_stored(state):
        return None
    patch = _shape(state, "image_encoder.patch_embed.proj.weight", 4)
    positions = _shape(state, "image_encoder.pos_embed", 4)
    mlp = _shape(state, _BLOCK.format(0) + "mlp.lin1.weight", 2)
    neck = _shape(state, "image_encoder.neck.0.weight", 4)
    decoder_mlp = _shape(state, "mask_decoder.transformer.layers.0.mlp.lin1.weight", 2)
    tables = _relative_positions(state)
    if not (patch and positions and mlp and neck and decoder_mlp and tables):
        return None
    width, grid, head_dim = patch[0], positions[1], tables[0][1]
    sides = [(length + 1) // 2 for length, _ in tables]
    windows = {side for side in sides if side != grid}
    if width % head_dim or neck[0] % _EMBED_DIM_MULTIPLE or len(windows) > 1:
        return None

    def encoder() -> nn.Module:
        return sam_vit(
            width,
            len(sides),
            width // head_dim,
            [index for index, side in enumerate(sides) if side == grid],
            img_size=16 * grid,
            mlp_ratio=(mlp[0] + 0.5) / width,  # the product with the width is rounded down
            window_size=max(windows, default=0),
            out_chans=neck[0],
        )

    return ModelSpec(
        f"sam_vit_{width}x{len(sides)}_{16 * grid}",
        image_size=16 * grid,
        encoder=encoder,
        file_names=(),
        embed_dim=neck[0],
        decoder_mlp_dim=decoder_mlp[0],
    )


def _shape(state: Mapping[str, Tensor], key: str, num_axes: int) -> tuple[int, ...] | None:
    """Return a tensor's shape, or None if there is no such tensor with this number of axes and at least one value."""
    tensor = state.get(key)
    return None if tensor is None or tensor.ndim != num_axes or not tensor.numel() else tuple(tensor.shape)


def _relative_positions(state: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """Return the shapes (2 * side - 1, head_dim) of the blocks' tables of relative positions."""
    shapes: list[tuple[int, ...]] = []
    while shape := _shape(state, _BLOCK.format(len(shapes)) + "attn.rel_pos_h", 2):
        shapes.append(shape)
    return shapes


def _is_stored(state: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors take as much memory as their shapes say.

    A small file can claim a model of any size by tensors that repeat a value, or that share their memory.
    """
    storages = {storage.data_ptr(): storage.nbytes() for storage in (x.untyped_storage() for x in state.values())}
    return sum(tensor.nbytes for tensor in state.values()) <= sum(storages.values())
