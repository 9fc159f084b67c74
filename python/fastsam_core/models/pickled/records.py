"""Data types for a pickle's classes, objects, storages and tensors. They have no behaviour."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

# Limits that no network's tensor reaches.
_MAX_DIMENSIONS = 8
_MAX_SIZE = 1 << 48  # of the offset, each side and stride, and the number of elements
# Integers beyond 64 bits can be chosen so that all have the same hash, which makes dictionaries extremely slow.
_MAX_KEY = 1 << 63


@dataclass(frozen=True)
class GlobalRef:
    """A class or function that the file names. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)  # records may contain themselves
class Record:
    """An object of the pickle.

    Attributes:
        name: name of its class.
        args: arguments that it was made with.
        state: attributes that were set.
        items: items that were appended or set, and states in the class's own format.
    """

    name: GlobalRef
    args: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """The class's name without the module."""
        return self.name.name

    def __repr__(self) -> str:
        return f"<record of {self.name}>"


@dataclass(frozen=True)
class StorageRef:
    """A block of numbers in the file. key: its key in the file. count: number of elements."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class TensorRef:
    """A view of a storage. offset and strides are in elements.

    Raises ValueError for a view that exceeds its storage or that has more elements than the storage.
    """

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        values = (self.offset, *self.shape, *self.strides)
        is_plausible = len(self.shape) == len(self.strides) <= _MAX_DIMENSIONS and min(values) >= 0
        # PyTorch computes strides even for tensors without elements, so the other sides of these count as well.
        if not is_plausible or max(*values, math.prod(max(side, 1) for side in self.shape)) > _MAX_SIZE:
            raise ValueError(
                f"invalid tensor: shape {self.shape[:9]}, strides {self.strides[:9]}, offset {self.offset}"
            )
        if 0 in self.shape:
            return
        last_offset = self.offset + sum(
            (side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True)
        )
        # More elements than numbers would mean that elements share memory: a small file could then claim any size.
        if last_offset >= self.storage.count or self.count > self.storage.count:
            raise ValueError(
                f"a tensor of shape {self.shape} and strides {self.strides} from {self.offset} on doesn't fit its "
                f"storage of {self.storage.count} numbers"
            )

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.count * self.storage.dtype.itemsize


_SCALARS = (str, int, float, bytes, bool, type(None), GlobalRef)


def check_key(value: Any) -> Any:
    """Return `value` if it may be a key or a set's member; else raise ValueError.

    Allowed are scalars, whose hash is fast and can't be chosen by the file.
    """
    if not isinstance(value, _SCALARS) or (isinstance(value, int) and not -_MAX_KEY <= value < 2 * _MAX_KEY):
        raise ValueError(f"it uses a {type(value).__name__} as a key")
    return value
