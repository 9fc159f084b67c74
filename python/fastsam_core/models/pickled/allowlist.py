"""The names that may occur in a checkpoint, and what a call of each one stands for.

These tables are the only place where names are looked up; nothing is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from .records import GlobalRef, Record, StorageRef, TensorRef, check_key

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}(\.[A-Za-z_][A-Za-z0-9_]{0,99}){0,9}")

# Packages all of whose classes become records: networks, their layers and their settings.
_PACKAGES = ("ultralytics.", "torch.nn.modules.")
# Single classes that become records too: settings, paths, dates and NumPy scalars from the training metadata.
_CLASSES = frozenset(
    (
        "torch.nn.parameter.Parameter",
        "torch.device",
        "torch.dtype",
        "torch.layout",
        "torch.strided",
        "torch.Tensor",
        "argparse.Namespace",
        "types.SimpleNamespace",
        "builtins.object",
        "datetime.datetime",
        "datetime.date",
        "datetime.timedelta",
        "datetime.timezone",
        "uuid.UUID",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        *(f"pathlib.{flavour}{system}Path" for flavour in ("", "Pure") for system in ("", "Posix", "Windows")),
        *(f"pathlib._local.{flavour}{system}Path" for flavour in ("", "Pure") for system in ("", "Posix", "Windows")),
        *(f"torch.{kind}" for kind in ("float16", "float32", "float64", "bfloat16", "int64", "int32", "uint8", "bool")),
    )
)
STORAGES: dict[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


def resolve_global(module: Any, name: Any) -> GlobalRef:
    """Return the `GlobalRef` of a class or function. ValueError unless the name is known to be harmless and needed."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("it has a name that isn't text")
    ref = GlobalRef({"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module), name)
    full_name = str(ref)
    if full_name in _CALLS or full_name in _CLASSES or full_name in STORAGES:
        return ref
    is_valid = _MODULE.fullmatch(module) and all(_IDENTIFIER.fullmatch(part) for part in name.split(".", 1))
    if is_valid and full_name.startswith(_PACKAGES):
        return ref
    shown_name = full_name if len(full_name) <= 100 else full_name[:100] + "..."
    raise ValueError(
        f"it names {shown_name!r}, which no checkpoint of a YOLO or FastSAM model needs. Nothing of it was imported "
        "or run"
    )


def evaluate_call(function: Any, args: Any) -> Any:
    """Return what `function(*args)` stands for: a container, a tensor reference, or a record.

    Raises ValueError if the call isn't allowed.
    """
    if not isinstance(function, GlobalRef) or not isinstance(args, tuple):
        raise ValueError(f"it calls {_describe(function)}, which is not a name")
    handler = _CALLS.get(str(function))
    if handler is not None:
        return handler(*_check_arg_count(args, str(function)))
    return Record(function, args)


def resolve_persistent_id(persistent_id: Any) -> StorageRef | GlobalRef:
    """Return what a persistent id stands for.

    That is a storage or, in old files, a class with its source, which is ignored. ValueError for anything else.
    """
    match persistent_id:
        case ("module", GlobalRef() as cls, _, _):
            return cls
        case ("storage", GlobalRef() as storage_type, str(key), str(), int(count), *view):
            dtype = STORAGES.get(str(storage_type))
            if dtype is not None and count >= 0 and _is_storage_key(key) and (not view or view == [None]):
                return StorageRef(key, dtype, count)
    raise ValueError(f"it refers to {_describe(persistent_id)}, which is not a tensor's storage")


def _is_storage_key(key: str) -> bool:
    """Return whether a storage key is short and alphanumeric, so that it is safe in a path within the archive."""
    return key.isascii() and key.isalnum() and len(key) <= 40


def _check_arg_count(args: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """Return the arguments of a known call. ValueError if there are too many."""
    if len(args) > 8:
        raise ValueError(f"it calls {name} with {len(args)} arguments")
    return args


def _describe(value: Any) -> str:
    """Return a value's text for a message: only its type, as it may be large or contain itself."""
    return f"{value}" if isinstance(value, GlobalRef) else f"a {type(value).__name__}"


# --- what the known calls stand for ---


def _rebuild_tensor(*args: Any) -> TensorRef:
    match args:
        case (StorageRef() as storage, int(offset), tuple(shape), tuple(strides), *_) if all(
            type(side) is int for side in (offset, *shape, *strides)
        ):
            return TensorRef(storage, offset, shape, strides)
    raise ValueError("it describes a tensor in another way than by a storage, offset, shape and strides")


def _rebuild_parameter(*args: Any) -> TensorRef:
    if not args or not isinstance(args[0], TensorRef):
        raise ValueError("it describes a parameter that isn't a tensor")
    return args[0]


def _make_dict(*args: Any) -> dict[Any, Any]:
    # The pickle sets the entries afterwards.
    if args:
        raise ValueError("it makes a dictionary in another way than pickle does")
    return {}


def _make_default_dict(*args: Any) -> dict[Any, Any]:
    return _make_dict(*args[1:])


def _make_list(*args: Any) -> list[Any]:
    """Return the elements of at most one container as a list."""
    if len(args) > 1 or not all(isinstance(arg, list | tuple | set) for arg in args):
        raise ValueError("it makes a list of something that isn't one")
    return [value for arg in args for value in arg]


def _make_set(*args: Any) -> set[Any]:
    return {check_key(value) for value in _make_list(*args)}


def _make_bytes(*args: Any) -> bytes:
    """Return bytes as protocol 2 writes them: as text, one letter per byte."""
    match args:
        case (str(text), "latin1"):
            return text.encode("latin-1")
        case ():
            return b""
    raise ValueError("it makes bytes in another way than pickle does")


def _make_tuple(*args: Any) -> tuple[Any, ...]:
    return tuple(_make_list(*args))


def _make_member_ref(*args: Any) -> GlobalRef:
    """Return the name of a class's member, from `getattr(class, "forward")`, or with an object of the class.

    Pickles name methods in this way, e.g. in the segmentation heads of YOLOv8 and in the convolutions of fused models.
    """
    match args:
        case (GlobalRef() | Record() as owner, str(name)) if _IDENTIFIER.fullmatch(name):
            cls = owner.name if isinstance(owner, Record) else owner
            if str(cls).startswith(_PACKAGES) and "." not in cls.name and not name.startswith("_"):
                return GlobalRef(cls.module, f"{cls.name}.{name}")
    raise ValueError("it looks up an attribute with 'builtins.getattr'. Nothing of it was imported or run")


def _make_object(*args: Any) -> Record:
    """Return the record that `copyreg` would make of a class, its first argument."""
    if not args or not isinstance(args[0], GlobalRef):
        raise ValueError("it makes an object of something that isn't a class")
    return Record(args[0])


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.Size": _make_tuple,
    "collections.OrderedDict": _make_dict,
    "collections.defaultdict": _make_default_dict,
    "builtins.dict": _make_dict,
    "builtins.list": _make_list,
    "builtins.tuple": _make_tuple,
    "builtins.set": _make_set,
    "builtins.frozenset": _make_set,
    "builtins.bytes": _make_bytes,
    "builtins.getattr": _make_member_ref,
    "_codecs.encode": _make_bytes,
    "copyreg._reconstructor": _make_object,
}
