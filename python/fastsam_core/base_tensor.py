"""Base class of boxes and masks: one row per object, indexing, and conversion between devices and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from ._tensors import to_tensor

Array = torch.Tensor | np.ndarray
Rows = slice | np.ndarray
Self = TypeVar("Self", bound="BaseTensor")


class BaseTensor:
    """Rows of predictions, (N, ...), for one image of `orig_shape` = (height, width).

    Every method returns a new object; only `data` can be assigned. An integer index keeps the row dimension, so
    `boxes[0]` is a `Boxes` with one row.
    """

    def __init__(self, data: Array, orig_shape: Sequence[int]) -> None:
        if not isinstance(data, (torch.Tensor, np.ndarray)):
            raise TypeError(f"{type(self).__name__} takes a torch.Tensor or numpy.ndarray, not {type(data).__name__}")
        self._data: Array = data
        self.orig_shape = image_shape(orig_shape)

    @property
    def data(self) -> Array:
        """Rows as a tensor (an array after `numpy()`). New rows for the same image can be assigned."""
        return self._data

    @data.setter
    def data(self, data: Array) -> None:
        self._replace(data)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return tuple(self._data.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self: Self, index: Any) -> Self:
        """Return the rows chosen by an int, slice, list, or a bool or integer tensor or array."""
        return self.take(resolve_index(index, len(self)))

    def __iter__(self: Self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # Without this method NumPy would iterate rows, and recurse without end because a row is again a BaseTensor.
        rows = to_numpy(self.data)
        return np.array(rows, dtype) if copy else np.asarray(rows, dtype)

    def take(self: Self, rows: Rows) -> Self:
        """Return the rows that `resolve_index` resolved an index to."""
        return self._with(take_rows(self._data, rows))

    def cpu(self: Self) -> Self:
        """Return the rows on the CPU; an array stays an array."""
        return self._with(self.data.cpu() if isinstance(self.data, torch.Tensor) else self.data)

    def numpy(self: Self) -> Self:
        """Return the rows with `data` as a `numpy.ndarray`."""
        return self._with(to_numpy(self.data))

    def cuda(self: Self) -> Self:
        """Return the rows on the current CUDA device."""
        return self.to("cuda")

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Return the rows converted as by `torch.Tensor.to`; an array becomes a tensor first."""
        return self._with(to_tensor(self.data).to(*args, **kwargs))

    def _with(self: Self, data: Array) -> Self:
        return type(self)(data, self.orig_shape)

    def _replace(self, data: Any) -> None:
        vars(self).update(vars(type(self)(data, self.orig_shape)))

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{type(self).__name__}({size}, image {self.orig_shape[0]} x {self.orig_shape[1]})"


def image_shape(shape: Sequence[int], name: str = "orig_shape") -> tuple[int, int]:
    """Return (height, width) as plain integers. Further entries, as in an array's shape (H, W, 3), are ignored.

    Raises ValueError, which calls the argument `name`, for anything but two positive integers.
    """
    try:
        given = tuple(shape)[:2]
        height, width = (int(side) for side in given)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be (height, width), not {shape!r}") from error
    if height < 1 or width < 1 or (height, width) != given:
        raise ValueError(f"{name} must be two positive integers, (height, width), not {shape!r}")
    return height, width


def to_numpy(data: Any) -> np.ndarray:
    """Return `data` as an array, copied from its device and detached from the autograd graph if it is a tensor.

    bfloat16, which NumPy lacks, becomes float32.
    """
    if not isinstance(data, torch.Tensor):
        return np.asarray(data)
    data = data.detach().cpu()
    return (data.float() if data.dtype == torch.bfloat16 else data).numpy()


def resolve_index(index: Any, length: int) -> Rows:
    """Resolve an index into `length` rows to a forward slice, which yields views, or to an int64 array of row numbers.

    Accepts an int, a slice, a list, a one-dimensional bool or integer tensor or array, or the one-element tuple that
    `np.where` and `torch.where` return for one. Raises IndexError for rows that don't exist and TypeError for other
    kinds of index.
    """
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    if isinstance(index, slice):
        start, stop, step = index.indices(length)
        return slice(start, stop, step) if step > 0 else np.arange(start, stop, step)
    if isinstance(index, tuple):
        raise TypeError(f"index rows with an int, slice, list, tensor or array, not {index!r}; for columns use .data")
    indices = to_numpy(index)
    if indices.dtype.kind not in "iub" and indices.size:
        raise TypeError(f"row indices must be integers or booleans, not {index!r}")
    if indices.ndim == 0 and indices.dtype != bool:
        row = int(indices)
        if not -length <= row < length:
            raise IndexError(f"row {row} is out of range for {length} rows")
        row %= length
        return slice(row, row + 1)
    if indices.ndim != 1:
        raise TypeError(f"row indices must have one dimension, not {indices.ndim}")
    if indices.dtype == bool:
        if len(indices) != length:
            raise IndexError(f"a boolean index must have one value for each of the {length} rows; got {len(indices)}")
        return np.flatnonzero(indices)
    rows = indices.astype(np.int64)
    out_of_range = (rows < -length) | (rows >= length)
    if out_of_range.any():
        raise IndexError(f"row {rows[out_of_range][0]} is out of range for {length} rows")
    return np.where(rows < 0, rows + length, rows)


def take_rows(values: Any, rows: Rows) -> Any:
    """Return `values[rows]` for a tensor, an array or a list."""
    if isinstance(values, torch.Tensor) and isinstance(rows, np.ndarray):
        return values[torch.from_numpy(rows).to(values.device)]
    if isinstance(values, list) and isinstance(rows, np.ndarray):
        return [values[row] for row in rows]
    return values[rows]


def as_tensor(values: Any) -> Any:
    """Return a tensor or an array as it is, anything else as a float32 tensor on the CPU."""
    if isinstance(values, (torch.Tensor, np.ndarray)):
        return values
    return torch.as_tensor(values, dtype=torch.float32, device="cpu")


def map_values(values: Any, function: Callable[[Any], Any]) -> Any:
    """Apply `function` to a tensor or array, or to every entry of a list."""
    return [function(value) for value in values] if isinstance(values, list) else function(values)
