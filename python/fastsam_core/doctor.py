"""`fastsam doctor`: a report on the installation, the implementations in use, and why others are not."""

from __future__ import annotations

import math
import os
import platform
import sys
from importlib import metadata
from importlib.resources import files
from typing import Any

import torch

from . import __version__, _files, ops
from ._cgroups import processor_limit
from .models import replay
from .models.precision import why_not_bfloat16
from .ops import schema
from .ops._native import cpu_module, cpu_reason
from .ops._native_cuda import UNVALIDATED_KERNELS, cuda_module, cuda_reason, unvalidated_disabled_reason, why_not_on
from .ops._threads import fork_limitation


def collect() -> dict[str, Any]:
    """Collect the findings as plain values, ready for JSON.

    Keys: `versions` (package -> version, or None if it is missing); `platform`; `operations` (name -> {implementation:
    "" if it runs on CPU tensors, else the reason why not}); `native` (`module`, `reason`); `isa` (`chosen`,
    `available`, `forced`); `threads`; `processor_limit` (the container's, or None); `bfloat16` ("" if this CPU
    multiplies it faster than float32, else the reason why not); `cuda` (`available`, `reason`, `devices`; of the
    kernels `module`, `architectures`, `kernels`, which is "in use" or the reason why not, and `unvalidated`, likewise
    for kernels not yet validated on a GPU; `graphs`, likewise for the encoders' CUDA graphs); `home` (folder for
    downloads); `weights` (bundled file -> bytes); `environment` (the FASTSAM_ variables that are set).
    """
    return {
        "versions": _versions(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "operations": {name: ops.why(name) for name in schema.SCHEMAS},
        "native": {"module": getattr(cpu_module, "__file__", None), "reason": cpu_reason},
        "isa": {
            "chosen": ops.isa(),
            "available": ops.available_isas(),
            "forced": os.environ.get("FASTSAM_ISA") or None,
        },
        "threads": torch.get_num_threads(),
        "processor_limit": processor_limit(),
        "bfloat16": why_not_bfloat16(),
        "cuda": _cuda(),
        "home": str(_files.cache_folder()),
        "weights": _bundled_weights(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("FASTSAM_")},
    }


def report() -> str:
    """Return the findings as readable text, for users and bug reports."""
    findings = collect()
    lines = [f"fastsam_core {__version__}", ""]
    lines += _section("Versions", {name: version or "not installed" for name, version in findings["versions"].items()})
    bfloat16_note = "multiplied faster than float32: dtype=bfloat16 uses that in decoders and in ViT encoders"
    bfloat16 = f"not faster than float32: {findings['bfloat16']}" if findings["bfloat16"] else bfloat16_note
    threads = _threads(findings["threads"], findings["processor_limit"])
    machine_rows = {"platform": findings["platform"], "threads": threads, "bfloat16": bfloat16}
    lines += _section("Machine", machine_rows | ({"forks": fork_note} if (fork_note := fork_limitation()) else {}))
    isa = findings["isa"]
    lines += _section(
        "Native CPU operations",
        {
            "module": findings["native"]["module"] or f"not in use: {findings['native']['reason']}",
            "instruction set": _instruction_set(isa),
            "available sets": ", ".join(isa["available"]) or "none",
        },
    )
    lines += _section(
        "Operations on CPU tensors", {op: _implementations_in_use(why) for op, why in findings["operations"].items()}
    )
    lines += _section("Why other implementations aren't used", _reasons(findings["operations"]))
    cuda = findings["cuda"]
    lines += _section(
        "CUDA",
        {
            "PyTorch": ", ".join(cuda["devices"]) if cuda["available"] else f"not available: {cuda['reason']}",
            "CUDA kernels": cuda["kernels"],
            **({"unvalidated": cuda["unvalidated"]} if cuda["module"] else {}),
            "CUDA graphs": cuda["graphs"],
            **({"module": f"{cuda['module']}, for {cuda['architectures']}"} if cuda["module"] else {}),
        },
    )
    weights = {name: f"{size / 1e6:.1f} MB" for name, size in findings["weights"].items()}
    home = findings["home"] if os.path.isdir(findings["home"]) else f"{findings['home']} (does not exist yet)"
    lines += _section("Files", {"downloads": home, **(weights or {"bundled weights": "none found"})})
    lines += _section("Environment", findings["environment"] or {"FASTSAM_...": "nothing set"})
    return "\n".join(lines).rstrip() + "\n"


def _threads(count: int, limit: float | None) -> str:
    if limit is None or count <= math.ceil(limit):
        return str(count)
    advice = f"OMP_NUM_THREADS={math.ceil(limit)} is faster"
    return f"{count}, but this container may use {limit:g} of the machine's processors: {advice}"


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"fastsam_core": __version__, "python": sys.version.split()[0]}
    # Several distributions provide cv2; report the first that is installed.
    packages: dict[str, tuple[str, ...]] = {name: (name,) for name in ("torch", "numpy", "pillow", "safetensors")}
    packages["opencv"] = ("opencv-python-headless", "opencv-python", "opencv-contrib-python")
    for name, distributions in packages.items():
        versions[name] = next((version for version in map(_version, distributions) if version), None)
    versions["pybind11"] = getattr(cpu_module, "PYBIND11_VERSION", None)
    return versions


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> dict[str, Any]:
    available = torch.cuda.is_available()
    built_with_cuda = torch.version.cuda is not None
    no_gpu_reason = (
        "no GPU, or no driver for it, was found" if built_with_cuda else "this PyTorch was built without CUDA"
    )
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if available else []
    gpu_reasons = "; ".join(dict.fromkeys(filter(None, map(_why_not_on, gpus))))
    return {
        "available": available,
        "reason": "" if available else no_gpu_reason,
        "devices": [torch.cuda.get_device_name(gpu) for gpu in gpus],
        "kernels": cuda_reason or (gpu_reasons or "in use" if available else f"switched on, but {no_gpu_reason}"),
        "unvalidated": unvalidated_disabled_reason() or f"{UNVALIDATED_KERNELS}: in use, by FASTSAM_CUDA_KERNELS=1",
        "graphs": replay.disabled_reason or ("in use" if available else f"switched on, but {no_gpu_reason}"),
        "module": getattr(cuda_module, "__file__", None),
        "architectures": getattr(cuda_module, "ARCHITECTURES", None),
    }


def _why_not_on(gpu: torch.device) -> str:
    """Return why the kernels don't run on a GPU, or ""; an error of a GPU that can't be used at all is a reason too."""
    try:
        return why_not_on(gpu)
    except RuntimeError as error:
        return f"{gpu}: {str(error).partition(chr(10))[0]}"


def _bundled_weights() -> dict[str, int]:
    folder = files("fastsam_core").joinpath("weights")
    if not folder.is_dir():
        return {}
    return {
        entry.name: len(entry.read_bytes())
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".safetensors")
    }


def _instruction_set(isa: dict[str, Any]) -> str:
    if isa["chosen"] is None:
        return "none"
    return f"{isa['chosen']} ({'forced by FASTSAM_ISA' if isa['forced'] else 'the best that this machine supports'})"


def _implementations_in_use(why: dict[str, str]) -> str:
    return ", ".join(implementation for implementation, reason in why.items() if not reason) or "nothing"


def _reasons(operations: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the reasons by implementation, each once; where operations differ, the key names the operation too."""
    reasons: dict[str, str] = {}
    for op, why in operations.items():
        for implementation, reason in why.items():
            if reason and reasons.setdefault(implementation, reason) != reason:
                reasons[f"{implementation}, {op}"] = reason
    return reasons


def _section(title: str, rows: dict[str, Any]) -> list[str]:
    width = max((len(name) for name in rows), default=0)
    return [title, *(f"  {name:<{width}}  {value}" for name, value in rows.items()), ""]
