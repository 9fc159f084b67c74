"""Files written by `torch.save`: a zip archive since PyTorch 1.6, before that a stream of pickles and raw numbers."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..weights_file import check_archive, file_kind
from .machine import MAX_BYTES, Machine
from .records import StorageRef, TensorRef

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

Reader = Callable[[Mapping[str, StorageRef]], dict[str, bytearray]]


class PickledFile:
    """Content of a checkpoint, and access to its tensors.

    content: plain data that contains `Record`s and `TensorRef`s. read: returns the bytes of storages by key. The
    tensors of one call can't be larger together than the file.
    """

    def __init__(self, path: Path, content: Any, read: Reader) -> None:
        self.path = path
        self.content = content
        self._read = read

    def tensors(self, places: Mapping[str, TensorRef]) -> dict[str, Tensor]:
        """Return the tensors by name, on the CPU. Tensors that share a storage in the file share memory.

        Raises ValueError for tensors whose data the file doesn't contain.
        """
        size, claimed = self.path.stat().st_size, sum(place.size for place in places.values())
        try:
            if claimed > size:
                raise ValueError(f"its tensors claim {claimed:,} bytes, and it has {size:,}")
            wanted = {place.storage.key: place.storage for place in places.values() if place.count}
            held = {
                key: torch.frombuffer(data, dtype=wanted[key].dtype, count=wanted[key].count)
                for key, data in self._read(wanted).items()
            }
        except _BROKEN as error:
            raise _unreadable(self.path, error) from error
        return {
            name: held[place.storage.key].as_strided(place.shape, place.strides, place.offset)
            if place.count
            else torch.empty(place.shape, dtype=place.storage.dtype, device="cpu")
            for name, place in places.items()
        }


# Exceptions that the zip reader raises for damaged files, besides the ValueErrors raised here.
_BROKEN = (ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError)


def open_pickled(path: Path) -> PickledFile:
    """Read a file written by `torch.save`.

    Raises ValueError, naming the file, unless it is such a file and describes plain data and modules.
    """
    kind = file_kind(path)
    if kind == "safetensors":
        raise ValueError(f"{path} is a safetensors file, which holds no pickle")
    if kind == "zip":
        check_archive(path)
    try:
        return _zipped(path) if kind == "zip" else _legacy(path)
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    """Return the error for a file that can't be read, with the first line of its cause."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return ValueError(f"{path} can't be read as a checkpoint: {reason}")


def _zipped(path: Path) -> PickledFile:
    """Read the format since PyTorch 1.6."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member.file_size for member in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in members if f"/{name}".endswith("/data.pkl")]
        if len(roots) != 1 or sum(members.values()) > path.stat().st_size:
            raise ValueError("it is a zip archive, but not one of torch.save")
        root = roots[0]
        if members[f"{root}data.pkl"] > MAX_BYTES:
            raise ValueError(f"its description of the model is larger than {MAX_BYTES:,} bytes")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
        content = Machine(archive.read(f"{root}data.pkl")).run()
    _check_order(order.strip() == b"little")

    def read(wanted: Mapping[str, StorageRef]) -> dict[str, bytearray]:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for key, storage in wanted.items():
                name = f"{root}data/{key}"
                if members.get(name, -1) != storage.size:
                    raise ValueError(
                        f"storage {key!r} should have {storage.size:,} bytes, not {members.get(name, 0):,}"
                    )
                with archive.open(name) as file:
                    found[key] = _bytes(file, storage.size)
            return found

    return PickledFile(path, content, read)


def _legacy(path: Path) -> PickledFile:
    """Read the format before PyTorch 1.6.

    It has three short pickles, the content, a list of storage keys, and then each storage as its number of elements
    followed by these elements.
    """
    with open(path, "rb") as file:
        machine = Machine(file.read(MAX_BYTES))
    if machine.run() != _LEGACY_MAGIC or machine.run() != _LEGACY_PROTOCOL:
        raise ValueError("it is a pickle, but not one of torch.save")
    about = machine.run()
    _check_order(isinstance(about, dict) and about.get("little_endian") is True)
    content, keys = machine.run(), machine.run()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in machine.storages for key in keys):
        raise ValueError("its list of storages is missing or invalid")
    start, storages = machine.position, machine.storages

    def read(wanted: Mapping[str, StorageRef]) -> dict[str, bytearray]:
        with open(path, "rb") as file:
            file.seek(start)
            found = {}
            for key in keys:
                storage = storages[key]
                count = int.from_bytes(_bytes(file, 8), "little")
                if count != storage.count:
                    raise ValueError(f"storage {key!r} should have {storage.count:,} numbers, not {count:,}")
                if key in wanted:
                    found[key] = _bytes(file, storage.size)
                else:
                    file.seek(storage.size, 1)
            if len(found) < len(wanted):
                raise ValueError("it lacks some of its storages")
            return found

    return PickledFile(path, content, read)


def _check_order(little: bool) -> None:
    """Raise ValueError unless both the file and this machine are little-endian."""
    if not little or sys.byteorder != "little":
        raise ValueError(f"its numbers are in another byte order than this machine's ({sys.byteorder})")


def _bytes(file: IO[bytes], size: int) -> bytearray:
    """Read exactly `size` bytes. ValueError if the file ends before."""
    data = bytearray(size)
    view = memoryview(data)
    while len(view):
        part = file.read(min(len(view), 1 << 20))
        if not part:
            raise ValueError("it is truncated")
        view[: len(part)] = part
        view = view[len(part) :]
    return data
