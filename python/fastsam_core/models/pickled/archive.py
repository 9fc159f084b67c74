"""Files written by `torch.save`: a zip archive since PyTorch 1.6, before that a stream of pickles and raw numbers."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..weights_file import check_zip_archive, file_format
from .interpreter import MAX_BYTES, PickleInterpreter
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

    def tensors(self, refs: Mapping[str, TensorRef]) -> dict[str, Tensor]:
        """Return the tensors by name, on the CPU. Tensors that share a storage in the file share memory.

        Raises ValueError for tensors whose data the file doesn't contain.
        """
        size, claimed = self.path.stat().st_size, sum(ref.size for ref in refs.values())
        try:
            if claimed > size:
                raise ValueError(f"its tensors claim {claimed:,} bytes, and it has {size:,}")
            storage_refs = {ref.storage.key: ref.storage for ref in refs.values() if ref.count}
            storages = {
                key: torch.frombuffer(data, dtype=storage_refs[key].dtype, count=storage_refs[key].count)
                for key, data in self._read(storage_refs).items()
            }
        except _READ_ERRORS as error:
            raise _unreadable_error(self.path, error) from error
        return {
            name: storages[ref.storage.key].as_strided(ref.shape, ref.strides, ref.offset)
            if ref.count
            else torch.empty(ref.shape, dtype=ref.storage.dtype, device="cpu")
            for name, ref in refs.items()
        }


# Exceptions that the zip reader raises for damaged files, besides the ValueErrors raised here.
_READ_ERRORS = (ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError)


def open_pickled(path: Path) -> PickledFile:
    """Read a file written by `torch.save`.

    Raises ValueError, naming the file, unless it is such a file and describes plain data and modules.
    """
    kind = file_format(path)
    if kind == "safetensors":
        raise ValueError(f"{path} is a safetensors file, which holds no pickle")
    if kind == "zip":
        check_zip_archive(path)
    try:
        return _open_zip(path) if kind == "zip" else _open_legacy(path)
    except _READ_ERRORS as error:
        raise _unreadable_error(path, error) from error


def _unreadable_error(path: Path, error: Exception) -> ValueError:
    """Return the error for a file that can't be read, with the first line of its cause."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return ValueError(f"{path} can't be read as a checkpoint: {reason}")


def _open_zip(path: Path) -> PickledFile:
    """Read the format since PyTorch 1.6."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member.file_size for member in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in members if f"/{name}".endswith("/data.pkl")]
        if len(roots) != 1 or sum(members.values()) > path.stat().st_size:
            raise ValueError("it is a zip archive, but not one of torch.save")
        root = roots[0]
        if members[f"{root}data.pkl"] > MAX_BYTES:
            raise ValueError(f"its description of the model is larger than {MAX_BYTES:,} bytes")
        byte_order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
        content = PickleInterpreter(archive.read(f"{root}data.pkl")).run()
    _check_byte_order(byte_order.strip() == b"little")

    def read(refs: Mapping[str, StorageRef]) -> dict[str, bytearray]:
        with zipfile.ZipFile(path) as archive:
            storages = {}
            for key, ref in refs.items():
                name = f"{root}data/{key}"
                if members.get(name, -1) != ref.size:
                    raise ValueError(f"storage {key!r} should have {ref.size:,} bytes, not {members.get(name, 0):,}")
                with archive.open(name) as file:
                    storages[key] = _read_exactly(file, ref.size)
            return storages

    return PickledFile(path, content, read)


def _open_legacy(path: Path) -> PickledFile:
    """Read the format before PyTorch 1.6.

    It has three short pickles, the content, a list of storage keys, and then each storage as its number of elements
    followed by these elements.
    """
    with open(path, "rb") as file:
        interpreter = PickleInterpreter(file.read(MAX_BYTES))
    if interpreter.run() != _LEGACY_MAGIC or interpreter.run() != _LEGACY_PROTOCOL:
        raise ValueError("it is a pickle, but not one of torch.save")
    sys_info = interpreter.run()
    _check_byte_order(isinstance(sys_info, dict) and sys_info.get("little_endian") is True)
    content, keys = interpreter.run(), interpreter.run()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in interpreter.storages for key in keys):
        raise ValueError("its list of storages is missing or invalid")
    start, refs_by_key = interpreter.position, interpreter.storages

    def read(refs: Mapping[str, StorageRef]) -> dict[str, bytearray]:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(start)
            storages = {}
            for key in keys:
                ref = refs_by_key[key]
                count = int.from_bytes(_read_exactly(file, 8), "little")
                if count != ref.count:
                    raise ValueError(f"storage {key!r} should have {ref.count:,} numbers, not {count:,}")
                if ref.size > size - file.tell():
                    raise ValueError("it is truncated")
                if key in refs:
                    storages[key] = _read_exactly(file, ref.size)
                else:
                    file.seek(ref.size, 1)
            if len(storages) < len(refs):
                raise ValueError("it lacks some of its storages")
            return storages

    return PickledFile(path, content, read)


def _check_byte_order(is_little: bool) -> None:
    """Raise ValueError unless both the file and this machine are little-endian."""
    if not is_little or sys.byteorder != "little":
        raise ValueError(f"its numbers are in another byte order than this machine's ({sys.byteorder})")


def _read_exactly(file: IO[bytes], size: int) -> bytearray:
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
