"""Builds the CUDA module for two architectures, loads it, and checks that it contains every kernel: `make cuda`.

No GPU is needed. The module is built with warnings as errors in build/cuda, separate from the one in use. On success,
the last line of output is "cuda: ok".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

import fatbin

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "build" / "cuda"
# What cmake/cuda.cmake builds by default.
IMAGES = ("sm_80", "sm_90a", "compute_80")
FORBIDDEN_LIBRARIES = ("libcudart", "libcuda.", "libtorch", "libc10", "libpython")
LAUNCH_BOUNDS = r"(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?"
KERNEL = re.compile(rf"__global__\s+{LAUNCH_BOUNDS}void\s+{LAUNCH_BOUNDS}(\w+)\s*\(")

LOAD_SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(f"loaded: built for {module.ARCHITECTURES}")
try:
    print(f"found a GPU with {module.shared_memory_per_multiprocessor()} bytes of shared memory")
except RuntimeError as error:
    print(f"no GPU; the module's error is: {error}")
"""


def run(command: list[str]) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def build() -> Path:
    """Compile the module and return its path."""
    cmake = shutil.which("cmake")
    if not cmake:
        raise SystemExit("cmake is needed: python -m pip install cmake")
    if not (os.environ.get("CUDACXX") or shutil.which("nvcc")):
        raise SystemExit("nvcc is needed: put it on PATH, or set CUDACXX to it")
    pybind11 = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    options = ["FASTSAM_CUDA=ON", "FASTSAM_WERROR=ON", "CMAKE_BUILD_TYPE=Release", "CMAKE_CUDA_FLAGS=-no-compress"]
    options += [f"pybind11_DIR={pybind11}", f"Python_EXECUTABLE={sys.executable}"]
    os.environ.pop("CUDAARCHS", None)  # IMAGES are the default architectures
    run([cmake, "-S", ".", "-B", str(BUILD), *(f"-D{option}" for option in options)])
    run([cmake, "--build", str(BUILD), "--target", "_cuda", "--parallel", str(os.cpu_count() or 1)])
    return BUILD / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"


def find_source_kernels() -> set[str]:
    """Return the names of all `__global__` functions in csrc."""
    names: set[str] = set()
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in (".cu", ".cuh"):
            continue
        text = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        kernels = KERNEL.findall(text)
        if len(kernels) != text.count("__global__"):
            raise SystemExit(f"{path.relative_to(ROOT)}: could not parse the declaration of every __global__ function")
        names.update(kernels)
    return names


def find_missing(images: Mapping[str, set[str]], kernels: Iterable[str]) -> list[str]:
    """List what the images lack: an architecture, a kernel of `kernels`, or an instance that another image has."""
    problems = []
    all_kernels = set().union(*images.values())
    for image in IMAGES:
        if image not in images:
            problems.append(f"there is no code for {image}")
            continue
        for kernel in sorted(kernels):
            # A mangled name contains an identifier right after its length.
            if not any(f"{len(kernel)}{kernel}" in name for name in images[image]):
                problems.append(f"{kernel} is not among the kernels for {image}")
        problems += [f"{name} is not among the kernels for {image}" for name in sorted(all_kernels - images[image])]
    return problems


def check_links(module: Path) -> None:
    """Check that the module links no CUDA or PyTorch library, and exports no symbol of its static CUDA runtime."""
    needed = subprocess.run(["readelf", "-dW", module], check=True, capture_output=True, text=True).stdout
    forbidden = [name for name in FORBIDDEN_LIBRARIES if name in needed]
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", module], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    names = [line.split()[-1] for line in symbols]
    exported = [name for name in names if "cuda" in name.lower() and name != "PyInit__cuda"]
    if forbidden or exported:
        raise SystemExit(
            "the module must link and export nothing of these: "
            f"it links {forbidden or 'none'}, exports {exported or 'none'}"
        )


def main() -> None:
    """Build the module and check it; exit with an error at the first failure."""
    kernels = find_source_kernels()
    module = build()
    run([sys.executable, "-c", LOAD_SCRIPT, str(module)])
    check_links(module)
    images = fatbin.kernels(module)
    if problems := find_missing(images, kernels):
        raise SystemExit("\n".join(problems))
    counts = ", ".join(f"{image} {len(names)}" for image, names in sorted(images.items()))
    print(f"{len(kernels)} kernels in csrc; instances in the binary: {counts}; {module.stat().st_size:,} bytes")
    print("cuda: ok")


if __name__ == "__main__":
    main()
