"""The weights of a prompt's tokens as operations take them: one flat tensor, the fields' values one after the other.

They are read in that order, all of them for each call, and handing over a hundred tensors takes longer than computing.
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
    weight: Tensor  # (out, in); of a norm (channels,)
    bias: Tensor


class Block(NamedTuple):
    """A block of the two-way transformer, without the norm of its image tokens."""

    self_q: Layer
    self_k: Layer
    self_v: Layer
    self_out: Layer
    norm1: Layer
    look_q: Layer  # tokens look at the image
    look_out: Layer
    norm2: Layer
    mlp1: Layer
    mlp2: Layer
    norm3: Layer
    answer_k: Layer  # what image tokens look at
    answer_v: Layer


class Mixes(NamedTuple):
    """(inner, inner), or (inner,) where the name ends in `bias` or `rest`; see `models.decoder_features`."""

    gram1: Tensor
    look1: Tensor
    seen1: Tensor
    seen1_bias: Tensor
    keys: Tensor
    keys_bias: Tensor
    own: Tensor
    own_bias: Tensor
    cross: Tensor
    cross_bias: Tensor
    gram2: Tensor
    look2_first: Tensor
    look2_second: Tensor
    look2_rest: Tensor
    seen2_first: Tensor
    seen2_second: Tensor
    seen2_rest: Tensor
    seen2_bias: Tensor


class TokenWeights(NamedTuple):
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
    """What the image gives to the looks at it, in the shapes that the operations of the looks take."""

    first_keys: Tensor
    first_values: Tensor
    image1: Tensor
    values1: Tensor
    norms1: Tensor
    image2: Tensor
    values2: Tensor
    norms2: Tensor


def pack(part: Any) -> Tensor:
    """A `TokenWeights`, or any tensors, as one flat tensor: each begins at a multiple of 16 values."""
    parts = [tensor.detach().flatten() for tensor in _tensors(part)]
    return torch.cat([F.pad(tensor, (0, -len(tensor) % PANEL)) for tensor in parts])


def unpack(flat: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """The tensors of these shapes that were packed. ValueError unless `flat` holds exactly them."""
    sizes = [math.prod(shape) for shape in shapes]
    if flat.shape != (packed_size(shapes),):
        raise ValueError(f"the weights must have shape ({packed_size(shapes)},) for these sizes; got {flat.shape}")
    parts = flat.split([size + -size % PANEL for size in sizes])
    return [part[:size].view(shape) for part, size, shape in zip(parts, sizes, shapes, strict=True)]


def packed_size(shapes: Sequence[Shape]) -> int:
    """Values of a flat tensor that holds these."""
    return sum(math.prod(shape) + -math.prod(shape) % PANEL for shape in shapes)


def unflatten(kind: type[Part], tensors: Sequence[Tensor]) -> Part:
    """The `kind` of these tensors, in order. ValueError for too few or too many."""
    wanted = _size(cast(Any, kind))
    if len(tensors) != wanted:
        raise ValueError(f"there must be {wanted} tensors, the fields of {kind.__name__}; got {len(tensors)}")
    return _read(kind, iter(tensors))


def _tensors(part: Any) -> list[Tensor]:
    return [part] if isinstance(part, Tensor) else [tensor for field in part for tensor in _tensors(field)]


@lru_cache
def _fields(kind: type) -> tuple[Any, ...]:
    return tuple(get_type_hints(kind).values())


@lru_cache
def _size(kind: type) -> int:
    return 1 if kind is Tensor else sum(map(_size, _fields(kind)))


def _read(kind: Any, tensors: Iterator[Tensor]) -> Any:
    return next(tensors) if kind is Tensor else kind(*[_read(part, tensors) for part in _fields(kind)])


class TokenSizes(NamedTuple):
    """What the shapes of a `TokenWeights` follow from.

    inner: heads * head_dim. hidden: outputs of an MLP's first layer. iou: of the layers that predict IoU.
    """

    width: int
    inner: int
    hidden1: int
    hidden2: int
    iou1: int
    iou2: int
    iou3: int

    @classmethod
    def of(cls, weights: TokenWeights) -> TokenSizes:
        """Those of given weights."""
        layers = weights.first.mlp1, weights.second.mlp1, weights.iou1, weights.iou2, weights.iou3
        inner, width = weights.final_q.weight.shape
        return cls(width, inner, *(layer.weight.shape[0] for layer in layers))


def _layer(inputs: int, outputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)]


@lru_cache(maxsize=8)
def token_shapes(sizes: TokenSizes) -> tuple[list[Shape], int]:
    """The shapes of a `TokenWeights`' tensors, in order, and the size of them all packed."""
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
    mixes: list[Shape] = [(inner,) if name.endswith(("bias", "rest")) else (inner, inner) for name in Mixes._fields]
    shapes = block(hidden1) + block(hidden2) + final + scores + mixes
    return shapes, packed_size(shapes)


def mask_shapes(width: int, first: int, second: int, narrow: int) -> tuple[list[Shape], int]:
    """The shapes of the three layers of a mask's token, and the size of them packed."""
    shapes = _layer(width, first) + _layer(first, second) + _layer(second, narrow)
    return shapes, packed_size(shapes)
