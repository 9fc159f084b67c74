"""Read checkpoint files as dictionaries of tensors, without ever executing anything from them."""

from __future__ import annotations

import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._log import warn_once
from .._tensors import check_dense
from .transformers_names import from_transformers_names

# Usual keys under which training scripts put the state dict in a larger dictionary.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state")
# Prefixes that wrappers such as DataParallel, torch.compile, Lightning and training code add to every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "sam.")
# The first release without the known memory corruption in the weights-only unpickler (CVE-2026-24747).
_MIN_SAFE_TORCH = (2, 10)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors`, `.pt` or `.pth` file by name, on the CPU.

    The format is recognised by the content, not the suffix. A state dict within a larger dictionary is found if its key
    is usual ("model", "state_dict", ...) or no other entry holds tensors. A prefix that all names share ("module.") is
    removed, and entries that are not tensors are left out. The `SamModel` of transformers is returned under the names
    of the official checkpoints. The tensors may be memory-mapped from the file: copy them before it changes.

    Raises FileNotFoundError if there is no such file; ValueError if it is something else, is damaged, or holds pickled
    Python objects or tensors that aren't dense. PyTorch files are read with `weights_only=True`; there is no fallback
    to unpickling.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    kind = file_format(path)
    content = _read_safetensors(path) if kind == "safetensors" else _read_torch(path, mmap=kind == "zip")
    return _unwrap(content, path)


def file_format(path: Path) -> str:
    """Return the format of a file: safetensors, zip (PyTorch since 1.6) or pickle (before).

    Raises ValueError for anything else, saying what it is.
    """
    with open(path, "rb") as file:
        header = file.read(64)
    size = path.stat().st_size
    if not header:
        raise ValueError(f"{path} is empty")
    if header[8:9] == b"{" and 2 <= int.from_bytes(header[:8], "little") <= size - 8:
        return "safetensors"
    if header.startswith(b"PK\x03\x04"):
        return "zip"
    # torch.load first tries its tar reader on tar files; older releases don't apply the weights-only mode there.
    if header.startswith(b"\x80") and not tarfile.is_tarfile(path):
        return "pickle"
    text = header.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        actual = "a web page, as failed downloads leave behind"
    elif text.startswith(b"version https://git-lfs"):
        actual = "a Git LFS pointer; fetch the real file with `git lfs pull`"
    elif header[4:8] == b"TFL3" or b"onnx" in header or b"pytorch" in header[:32]:
        actual = "an exported model (ONNX or TFLite), not a checkpoint"
    else:
        actual = f"of an unknown format (it begins with {header[:8]!r})"
    raise ValueError(f"{path} is not a .pt, .pth or .safetensors checkpoint: it is {actual}, {size:,} bytes")


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is a damaged safetensors file: {error}") from error


def _read_torch(path: Path, *, mmap: bool) -> Any:
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _MIN_SAFE_TORCH:
        warn_once(
            f"torch {torch.__version__} has a known flaw in reading .pt files (CVE-2026-24747, fixed in 2.10): "
            "read only checkpoints from people you trust, or .safetensors files"
        )
    if mmap:
        check_zip_archive(path)
    try:
        if path.suffix == ".safetensors":  # torch.load chooses another reader by this suffix, whatever is inside
            with open(path, "rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        with open(path, "rb") as file:
            if b"ultralytics." in file.read(1 << 20):  # the pickle comes first and is not compressed
                hint = "YOLO and FastSAM read such files (on the command line: fastsam detect predict)"
                raise ValueError(f"{path} is not a Segment Anything model; {hint}") from error
        problem = f"holds pickled Python objects ({match.group(1)})" if match else "is damaged or holds pickled objects"
        raise ValueError(
            f"{path} {problem}, not only tensors, and code from a checkpoint is never executed. Save the tensors "
            "alone, in the program that made it: torch.save(model.state_dict(), 'weights.pt')"
        ) from error
    except Exception as error:  # damaged files make the reader raise all kinds of errors
        raise ValueError(f"{path} is damaged or incomplete: {_first_line(error)}") from error


def check_zip_archive(path: Path) -> None:
    """Raise ValueError unless a zip archive is as `torch.save` writes it: uncompressed, and no TorchScript program."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path} is damaged or incomplete: {_first_line(error)}") from error
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise ValueError(
            f"{path} is a TorchScript program, which would have to be executed to be read; save the state dict of the "
            "model it was made from instead"
        )
    # PyTorch stores tensors uncompressed. Compressed ones can't be mapped, and could unpack to any size.
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(f"{path} is a compressed archive, not a PyTorch checkpoint; unpack it first")


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of the innermost dictionary, without a prefix that all names share."""
    seen: set[int] = set()  # a dictionary may hold itself
    while isinstance(content, Mapping) and id(content) not in seen:
        seen.add(id(content))
        content = _inner(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors (a state dict)")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(repr, list(content)[:5])) or "nothing"
        raise ValueError(f"{path} holds no tensors by name, but {keys}; expected a state dict")
    for name, value in state.items():
        try:
            check_dense(value, f"tensor {name!r}")
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from None
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return from_transformers_names(state)


def _inner(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the dictionary within a training script's dictionary that has the tensors, or else `content` itself."""
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return content[key]
    counts = {key: _num_tensors(value) for key, value in content.items() if isinstance(value, Mapping)}
    keys = [key for key, count in counts.items() if count]
    # There may be single tensors beside it, such as the loss.
    return content[keys[0]] if len(keys) == 1 and counts[keys[0]] > _num_tensors(content) else content


def _num_tensors(content: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, Tensor) for value in content.values())


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
