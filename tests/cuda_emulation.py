"""Builds the CUDA module for the CPU: the same .cu and binding files, compiled by g++ against the emulator.

The result lies in build/cuda_emulated, and is built when a test first asks for it; of what is there, files that are
named after the contents they come from are used again:

    module = cuda_emulation.load()
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
# What a sanitizer needs; tests/native/sanitize.py sets it. Shared memory is spoilt as a whole, so that there can't be
# fences between its variables.
EXTRA = os.environ.get("FASTSAM_EMULATION_FLAGS", "").split()
if EXTRA:
    EXTRA.append("--param=asan-globals=0")
BUILD = ROOT / "build" / ("cuda_emulated_sanitized" if EXTRA else "cuda_emulated")
COMPILER = shutil.which("g++")
NAME = "_cuda_emulated"
# Not the headers that PyTorch brings: those of older ones are of a pybind11 before 3.0.
PYBIND11 = import_module("pybind11") if find_spec("pybind11") else None
# No contraction, as in the CPU module.
FLAGS = [
    *("-std=c++17", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas"),
    *("-DFASTSAM_CUDA_EMULATION", '-DFASTSAM_CUDA_ARCHITECTURES="emulated"'),
    *EXTRA,
]


# What kernels read and write is told to csrc/common/emulator/races.cpp, which stands in for the compiler's library.
WATCHED = [] if EXTRA else ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
# Kernels and the emulator run a lot; the bindings, which take a compiler longest, hardly. Sanitizers' checks make
# optimising slow, and leave less to gain by it.
OPTIMISED, PLAIN = "-O1" if EXTRA else "-O2", "-O0"


def why_not() -> str:
    """Why there is no emulated module here, or ""."""
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
    """What the module is made of: its bindings, every .cu file and the emulator, without what nvcc alone can read.

    The largest files are first, so that the processors end together.
    """
    csrc = ROOT / "csrc"
    found = [*csrc.glob("common/emulator/*.cpp"), *csrc.glob("*/*.cu")]
    return [_bindings(), *sorted(found, key=lambda path: ("_cuda_" not in path.name, path))]


def _bindings() -> Path:
    """All files of bindings as one, since most of each one's time goes into the same pybind11."""
    csrc = ROOT / "csrc"
    lines = ""
    for path in [csrc / "bindings_cuda.cpp", *sorted(csrc.glob("bindings_cuda/*.cpp"))]:
        # The digest makes this a new file, to be compiled again, where that one has changed.
        lines += f'#include "{path}"  // {hashlib.sha256(path.read_bytes()).hexdigest()}\n'
    made = BUILD / "bindings_cuda_all.cpp"
    if not made.exists() or made.read_text() != lines:
        made.parent.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}")
        unfinished.write_text(lines)
        unfinished.rename(made)
    return made


def _headers() -> bytes:
    """What any object may depend on besides its own source: the headers, and how it is compiled."""
    assert PYBIND11 is not None
    digest = hashlib.sha256(
        " ".join([str(COMPILER), *FLAGS, *WATCHED, OPTIMISED, PLAIN, PYBIND11.__version__, sys.version]).encode()
    )
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix in (".cuh", ".h", ".inc", ".ld"):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.digest()


def _run(command: list[str]) -> None:
    # What a sanitizer preloads into Python would watch the compiler too, and make it slow.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def compile_objects(files: list[Path], *flags: str, folder: Path = BUILD, watched: bool = True) -> list[Path]:
    """Object files of emulated sources, as many at a time as there are processors; those that are there are kept.

    watched: whether accesses of kernels are looked at for races.
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
    """Test processes side by side ask at the same time; the first one compiles and links."""
    import fcntl  # not on Windows

    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link(objects: list[Path], made: Path, *flags: str) -> None:
    """A module, or with other flags a program, of emulated objects."""
    script = f"-Wl,-T,{ROOT / 'csrc' / 'common' / 'emulator' / 'shared.ld'}"
    _run([str(COMPILER), *(flags or ("-shared",)), *EXTRA, script, *map(str, objects), "-o", str(made), "-pthread"])


def build() -> Path:
    """The module's file, made where that is needed; RuntimeError with the compiler's words where it can't be."""
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
    """The module, built first where that is needed; errors as of `build`."""
    spec = spec_from_file_location(NAME, build())
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
