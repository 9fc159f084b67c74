"""What a pickle's classes, objects, storages and tensors become: data without behaviour."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

# No network's tensor has as many.
_MAX_DIMENSIONS = 8
_MAX_SIDE = 1 << 48
# Beyond 64bits, numbers can be chosen so that all of them have the same hash, which makes dictionaries crawl.
_MAX_KEY = 1 << 63


@dataclass(frozen=True)
class Name:
    """A class or function that the file names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)  # records may contain themselves
class Record:
    """An object: the name of its class, what it was made with, the attributes that were set, and what was put in it."""

    name: Name
    args: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The class's own name, without the module."""
        return self.name.name

    def __repr__(self) -> str:
        return f"<record of {self.name}>"


@dataclass(frozen=True)
class StorageRef:
    """A block of the file's numbers, by its key in the file."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class TensorRef:
    """A tensor: which numbers of which storage. ValueError for one that its storage can't hold."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        plausible = len(self.shape) == len(self.strides) <= _MAX_DIMENSIONS
        if not plausible or min(numbers) < 0 or max(numbers) > _MAX_SIDE:
            raise ValueError(
                f"a tensor of shape {self.shape[:9]} and strides {self.strides[:9]} from {self.offset} on is no tensor"
            )
        if 0 in self.shape:
            return
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        # Fewer numbers than elements would mean elements that share memory: a small file could claim any size.
        if last >= self.storage.count or self.count > self.storage.count:
            raise ValueError(
                f"a tensor of shape {self.shape} and strides {self.strides} from {self.offset} on doesn't fit its "
                f"storage of {self.storage.count} numbers"
            )

    @property
    def count(self) -> int:
        """Of its elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.storage.dtype.itemsize


_SCALARS = (str, int, float, bytes, bool, type(None), Name)


def key(value: Any) -> Any:
    """`value` if it may be a key or a set's member: a scalar, whose hash is quick and can't be chosen."""
    if not isinstance(value, _SCALARS) or (isinstance(value, int) and not -_MAX_KEY <= value < 2 * _MAX_KEY):
        raise ValueError(f"it uses a {type(value).__name__} as a key")
    return value
