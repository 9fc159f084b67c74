"""The decoder weights that act on prompts' tokens, packed into one flat tensor, field after field.

Operations read all of them in that order in each call, and passing a hundred tensors would take longer than computing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast, get_type_hints

import torch
from torch import Tensor
from torch.nn import functional as F

from .panels import PANEL

Part = TypeVar("Part")
Shape = tuple[int, ...]


class Layer(NamedTuple):
    weight: Tensor  # (out, in); (channels,) for a LayerNorm
    bias: Tensor


class Block(NamedTuple):
    """Weights of a block of the two-way transformer, without the LayerNorm of its image tokens.

    Only what acts on a prompt's tokens: projections of image tokens are part of `ImageParts`.
    """

    self_q: Layer
    self_k: Layer
    self_v: Layer
    self_out: Layer
    norm1: Layer
    token_to_image_q: Layer  # token-to-image attention
    token_to_image_out: Layer
    norm2: Layer
    mlp1: Layer
    mlp2: Layer
    norm3: Layer
    image_to_token_k: Layer  # image-to-token attention
    image_to_token_v: Layer


class Mixes(NamedTuple):
    """Products of the decoder's weights, which `models.decoder_features` derives.

    Each is (inner, inner), or (inner,) if its name ends in `bias` or `constant`.
    """

    gram1: Tensor
    queries1: Tensor
    values1: Tensor
    values1_bias: Tensor
    keys: Tensor
    keys_bias: Tensor
    gram2_first: Tensor
    gram2_first_bias: Tensor
    cross: Tensor
    cross_bias: Tensor
    gram2_second: Tensor
    queries2_first: Tensor
    queries2_second: Tensor
    queries2_constant: Tensor
    values2_first: Tensor
    values2_second: Tensor
    values2_constant: Tensor
    values2_bias: Tensor


class TokenWeights(NamedTuple):
    """All weights that `decoder_prompts` applies to prompts' tokens."""

    first: Block
    second: Block
    final_q: Layer
    final_out: Layer
    final_norm: Layer
    iou1: Layer
    iou2: Layer
    iou3: Layer
    mixes: Mixes


class ImageParts(NamedTuple):
    """Projections and norms of an image's tokens, in the shapes that the operations on image tokens take.

    The first two are `keys` and `values` of `decoder_first_token_to_image`. The next three are `image`, `values` and
    `norms` of `decoder_first_pass`, the last three those of `decoder_second_pass`.
    """

    first_keys: Tensor
    first_values: Tensor
    image1: Tensor
    values1: Tensor
    norms1: Tensor
    image2: Tensor
    values2: Tensor
    norms2: Tensor


def pack(part: Any) -> Tensor:
    """Pack a `TokenWeights`, or nested sequences of tensors, into one flat tensor.

    Each tensor begins at a multiple of 16 values; zeros fill the gaps.
    """
    parts = [tensor.detach().flatten() for tensor in _tensors(part)]
    return torch.cat([F.pad(tensor, (0, -len(tensor) % PANEL)) for tensor in parts])


def unpack(flat: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """Split a packed tensor into views of these shapes. ValueError unless its size is exactly theirs."""
    sizes = [math.prod(shape) for shape in shapes]
    if flat.shape != (packed_size(shapes),):
        raise ValueError(f"the weights must have shape ({packed_size(shapes)},) for these sizes; got {flat.shape}")
    parts = flat.split([size + -size % PANEL for size in sizes])
    return [part[:size].view(shape) for part, size, shape in zip(parts, sizes, shapes, strict=True)]


def packed_size(shapes: Sequence[Shape]) -> int:
    """Return the number of values of a packed tensor that holds tensors of these shapes."""
    return sum(math.prod(shape) + -math.prod(shape) % PANEL for shape in shapes)


def unflatten(tuple_type: type[Part], tensors: Sequence[Tensor]) -> Part:
    """Build a `tuple_type`, which may nest named tuples, from its tensors in order. ValueError for a wrong number."""
    expected = _size(cast(Any, tuple_type))
    if len(tensors) != expected:
        raise ValueError(f"there must be {expected} tensors, the fields of {tuple_type.__name__}; got {len(tensors)}")
    return _build(tuple_type, iter(tensors))


def _tensors(part: Any) -> list[Tensor]:
    """Flatten nested sequences of tensors."""
    return [part] if isinstance(part, Tensor) else [tensor for field in part for tensor in _tensors(field)]


@lru_cache
def _fields(tuple_type: type) -> tuple[Any, ...]:
    return tuple(get_type_hints(tuple_type).values())


@lru_cache
def _size(tuple_type: type) -> int:
    """Return the number of tensors in a `tuple_type`."""
    return 1 if tuple_type is Tensor else sum(map(_size, _fields(tuple_type)))


def _build(tuple_type: Any, tensors: Iterator[Tensor]) -> Any:
    return (
        next(tensors) if tuple_type is Tensor else tuple_type(*[_build(part, tensors) for part in _fields(tuple_type)])
    )


class TokenSizes(NamedTuple):
    """Sizes that determine the shapes of a `TokenWeights`.

    width: channels of a token. inner: heads * head_dim. hidden1, hidden2: outputs of the first layer of each block's
    MLP. iou1, iou2, iou3: outputs of the layers that predict the IoU; the last is the number of masks.
    """

    width: int
    inner: int
    hidden1: int
    hidden2: int
    iou1: int
    iou2: int
    iou3: int

    @classmethod
    def from_weights(cls, weights: TokenWeights) -> TokenSizes:
        """Return the sizes of these weights."""
        layers = weights.first.mlp1, weights.second.mlp1, weights.iou1, weights.iou2, weights.iou3
        inner, width = weights.final_q.weight.shape
        return cls(width, inner, *(layer.weight.shape[0] for layer in layers))


def _layer(inputs: int, outputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)]


@lru_cache(maxsize=8)
def token_shapes(sizes: TokenSizes) -> tuple[list[Shape], int]:
    """Return the shapes of the tensors of a `TokenWeights`, in order, and their packed size."""
    width, inner, hidden1, hidden2, iou1, iou2, iou3 = sizes
    norm: list[Shape] = [(width,), (width,)]

    def block(hidden: int) -> list[Shape]:
        return [
            *(4 * _layer(width, width) + norm),
            *(_layer(width, inner) + _layer(inner, width) + norm),
            *(_layer(width, hidden) + _layer(hidden, width) + norm),
            *(2 * _layer(width, inner)),
        ]

    final = _layer(width, inner) + _layer(inner, width) + norm
    scores = _layer(width, iou1) + _layer(iou1, iou2) + _layer(iou2, iou3)
    mixes: list[Shape] = [(inner,) if name.endswith(("bias", "constant")) else (inner, inner) for name in Mixes._fields]
    shapes = block(hidden1) + block(hidden2) + final + scores + mixes
    return shapes, packed_size(shapes)


def mask_shapes(width: int, first: int, second: int, narrow: int) -> tuple[list[Shape], int]:
    """Return the shapes of the three layers of a mask token's MLP, and their packed size."""
    shapes = _layer(width, first) + _layer(first, second) + _layer(second, narrow)
    return shapes, packed_size(shapes)
