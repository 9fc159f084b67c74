"""Builds the CUDA module for the CPU: the same .cu and binding files, compiled by g++ against the emulator.

`cuda_emulation.load()` returns the module. It is built in build/cuda_emulated when a test first needs it. Object files
are named after a hash of their inputs, and reused.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
# Flags of a sanitizer, set by tests/native/sanitize.py. AddressSanitizer's redzones around globals are off, because the
# emulator fills shared memory with NaN as one block.
EXTRA = os.environ.get("FASTSAM_EMULATION_FLAGS", "").split()
if EXTRA:
    EXTRA.append("--param=asan-globals=0")
BUILD = ROOT / "build" / ("cuda_emulated_sanitized" if EXTRA else "cuda_emulated")
COMPILER = shutil.which("g++")
NAME = "_cuda_emulated"
# PyTorch's own copy of the headers won't do: older releases have a pybind11 before 3.0.
PYBIND11 = import_module("pybind11") if find_spec("pybind11") else None
# No fused multiply-adds that the source doesn't ask for, as in the CPU module.
FLAGS = [
    *("-std=c++17", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas"),
    *("-DFASTSAM_CUDA_EMULATION", '-DFASTSAM_CUDA_ARCHITECTURES="emulated"'),
    *EXTRA,
]


# The thread sanitizer's instrumentation reports each read and write of a kernel; csrc/common/emulator/races.cpp
# implements the functions that it calls, in place of the compiler's library.
WATCHED = [] if EXTRA else ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
# Kernels and the emulator are optimised. The bindings aren't: they take longest to compile and little time to run.
# With sanitizers, optimising is slower and gains less.
OPTIMISED, PLAIN = "-O1" if EXTRA else "-O2", "-O0"


def why_not() -> str:
    """Return why the emulated module can't be built here, or ""."""
    if not (ROOT / "csrc").is_dir():
        return "the emulated CUDA module is built from the source tree"
    if not os.access(ROOT, os.W_OK):
        return "the emulated CUDA module is built inside the source tree, which is read-only"
    if sys.platform != "linux" or COMPILER is None or _gcc_version() < 11:
        return "the emulated CUDA module needs Linux and GCC 11 or newer"
    if PYBIND11 is None:
        return "the emulated CUDA module needs pybind11's headers"
    return ""


@cache
def _gcc_version() -> int:
    done = subprocess.run([str(COMPILER), "-dumpversion"], capture_output=True, text=True, check=True)
    return int(done.stdout.split(".")[0])


def sources() -> list[Path]:
    """Return the module's source files: bindings, every .cu file and the emulator.

    The largest files come first, so that parallel compilation ends evenly.
    """
    csrc = ROOT / "csrc"
    found = [*csrc.glob("common/emulator/*.cpp"), *csrc.glob("*/*.cu")]
    return [_bindings(), *sorted(found, key=lambda path: ("_cuda_" not in path.name, path))]


def _bindings() -> Path:
    """Return one file that includes all bindings, because parsing pybind11 is most of the time that each one takes."""
    csrc = ROOT / "csrc"
    lines = ""
    for path in [csrc / "bindings_cuda.cpp", *sorted(csrc.glob("bindings_cuda/*.cpp"))]:
        # The digest changes this file, and so recompiles it, when an included file changes.
        lines += f'#include "{path}"  // {hashlib.sha256(path.read_bytes()).hexdigest()}\n'
    made = BUILD / "bindings_cuda_all.cpp"
    if not made.exists() or made.read_text() != lines:
        made.parent.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}")
        unfinished.write_text(lines)
        unfinished.rename(made)
    return made


def _headers() -> bytes:
    """Return a digest of what any object file depends on besides its source: headers, compiler and flags."""
    assert PYBIND11 is not None
    digest = hashlib.sha256(
        " ".join([str(COMPILER), *FLAGS, *WATCHED, OPTIMISED, PLAIN, PYBIND11.__version__, sys.version]).encode()
    )
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix in (".cuh", ".h", ".inc", ".ld"):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.digest()


def _run(command: list[str]) -> None:
    # A sanitizer library that is preloaded into Python would slow down the compiler too.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def compile_objects(files: list[Path], *flags: str, folder: Path = BUILD, watched: bool = True) -> list[Path]:
    """Compile emulated sources in parallel and return the object files; existing up-to-date ones are reused.

    watched: whether accesses of kernels are checked for races.
    """
    assert PYBIND11 is not None
    includes = [f"-I{ROOT / 'csrc'}", "-isystem", PYBIND11.get_include(), f"-I{sysconfig.get_path('include')}"]
    folder.mkdir(parents=True, exist_ok=True)
    common = _headers()

    def compile_one(file: Path) -> Path:
        name = "-".join(file.relative_to(ROOT).parts) if file.is_relative_to(ROOT) else file.name
        made = folder / f"{name}.{hashlib.sha256(common + file.read_bytes()).hexdigest()[:16]}.o"
        if not made.exists():
            for old in folder.glob(f"{name}.*.o"):
                old.unlink()
            level = [PLAIN] if "bindings" in name else [OPTIMISED]
            if watched and file.suffix == ".cu":
                level += WATCHED
            _run([str(COMPILER), *FLAGS, *level, *flags, *includes, "-x", "c++", "-c", str(file), "-o", f"{made}.new"])
            Path(f"{made}.new").rename(made)
        return made

    with _one_at_a_time(folder), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, files))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a file lock on `folder`, so that of parallel test processes only the first one compiles and links."""
    import fcntl  # not on Windows

    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link(objects: list[Path], made: Path, *flags: str) -> None:
    """Link emulated objects to a shared module, or with other flags to a program."""
    script = f"-Wl,-T,{ROOT / 'csrc' / 'common' / 'emulator' / 'shared.ld'}"
    _run([str(COMPILER), *(flags or ("-shared",)), *EXTRA, script, *map(str, objects), "-o", str(made), "-pthread"])


def build() -> Path:
    """Build the module if it isn't up to date; return its path. Raises RuntimeError with the compiler's output."""
    if reason := why_not():
        raise RuntimeError(reason)
    objects = compile_objects(sources())
    contents = hashlib.sha256("".join(path.name for path in objects).encode()).hexdigest()[:16]
    made = BUILD / contents / (NAME + importlib.machinery.EXTENSION_SUFFIXES[0])
    with _one_at_a_time(BUILD):
        if not made.exists():
            for old in BUILD.glob(f"*/{NAME}*"):
                shutil.rmtree(old.parent, ignore_errors=True)
            made.parent.mkdir(exist_ok=True)
            unfinished = made.with_suffix(f".{os.getpid()}")
            link(objects, unfinished)
            unfinished.rename(made)
    return made


@cache
def load() -> ModuleType:
    """Build the module if needed and import it. Raises what `build` raises."""
    spec = spec_from_file_location(NAME, build())
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
