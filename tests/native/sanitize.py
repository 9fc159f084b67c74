"""Builds the native module with sanitizers, separate from the one in use, and tests it: `make sanitize`.

AddressSanitizer and UndefinedBehaviorSanitizer check the module inside an ordinary Python. ThreadSanitizer can't do
that, so it checks the fork-join in a C++ program. Leak detection is off, because the interpreter and PyTorch hold
memory until they exit; tests/test_memory_flat.py checks for growth instead. On success, the last line of output is
"sanitize: clean". A sanitizer that finds something ends the process; its report stands above pytest's summary.

    python tests/native/sanitize.py [pytest's options]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "build" / "sanitize"
COMPILER = os.environ.get("CXX", "g++")
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1:verify_asan_link_order=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
# For emulated CUDA kernels: they find accesses outside of tensors.
EMULATION_FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
# Tests that apply to all operations, whether or not they import `siblings`.
GENERAL_TESTS = ("test_bindings.py", "test_determinism.py", "test_ops.py", "test_ops_robust.py")


def run(command: list[str], **environment: str) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **SANITIZER_OPTIONS, **environment})


def build_module() -> Path:
    """Copy the package with an instrumented compiled module; return the folder to import it from."""
    cmake_folder = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    options = [
        "FASTSAM_SANITIZE=ON",
        "FASTSAM_CUDA=OFF",
        # With any other build type pybind11 strips the module, and reports have no line numbers.
        "CMAKE_BUILD_TYPE=Debug",
        "CMAKE_CXX_FLAGS_DEBUG=-O0",
    ]
    options += [f"pybind11_DIR={cmake_folder}", f"Python_EXECUTABLE={sys.executable}", f"CMAKE_CXX_COMPILER={COMPILER}"]
    run([_cmake(), "-S", ".", "-B", str(BUILD), *(f"-D{option}" for option in options)])
    run([_cmake(), "--build", str(BUILD), "--parallel", str(os.cpu_count() or 1)])
    package = BUILD / "python" / "fastsam_core"
    shutil.rmtree(package, ignore_errors=True)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "python" / "fastsam_core", package, ignore=ignore)
    (module,) = BUILD.glob("_cpu*.so")
    shutil.copy(module, package)
    # The import hook of an editable installation takes precedence over PYTHONPATH, so sitecustomize removes it.
    (package.parent / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith('_editable_')]\n"
    )
    return package.parent


def build_emulated() -> None:
    """Build the emulated CUDA module, if possible, before test processes need it."""
    build = "import cuda_emulation as e; e.why_not() or e.build()"
    run([sys.executable, "-c", build], PYTHONPATH=search_path(ROOT / "tests"), FASTSAM_EMULATION_FLAGS=EMULATION_FLAGS)


def search_path(*folders: Path) -> str:
    """Return a PYTHONPATH of these folders followed by its current value."""
    existing = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([existing] if existing else [])])


def _cmake() -> str:
    beside_python = Path(sys.executable).with_name("cmake")
    found = str(beside_python) if beside_python.exists() else shutil.which("cmake")
    if not found:
        raise SystemExit("cmake is needed: python -m pip install cmake")
    return found


def native_tests() -> list[str]:
    """Return GENERAL_TESTS and all test files that import `siblings`, so that new operation families are included."""
    files = [
        path
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if path.name in GENERAL_TESTS or "from siblings import" in path.read_text(encoding="utf-8")
    ]
    return [str(path.relative_to(ROOT)) for path in files]


def library(name: str) -> str:
    path = subprocess.run(
        [COMPILER, f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(path).is_absolute():
        raise SystemExit(
            f"{COMPILER} has no {name}; install its sanitizer libraries, or set CXX to a GCC that has them"
        )
    return path


def run_programs() -> None:
    """Compile and run the C++ test programs with their sanitizers."""
    for name, flags in (
        ("fork_join_test", ["-fsanitize=thread"]),
        ("scratch_test", ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]),
        ("simd_test", ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]),
    ):
        program = BUILD / name
        source = f"tests/native/{name}.cpp"
        run([COMPILER, "-std=c++17", "-g", "-O1", "-w", "-Icsrc", *flags, source, "-o", str(program), "-pthread"])
        # Without address randomisation, because ThreadSanitizer of older compilers can't map its memory with it.
        no_aslr = [tool, "-R"] if (tool := shutil.which("setarch")) else []
        run([*no_aslr, str(program)])


def run_emulator_programs() -> None:
    """Run the emulator's test programs. They are built with sanitizers; the Python that runs pytest is not."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cuda_emulator.py"]
    run(command, FASTSAM_EMULATION_FLAGS=EMULATION_FLAGS)


def run_tests(folder: Path, options: list[str]) -> None:
    """Run the native tests on the package in `folder`, with extra options for pytest."""
    # libstdc++ too, so that AddressSanitizer finds the function that throws exceptions and can wrap it.
    preload = f"{library('libasan.so')} {library('libubsan.so')} {library('libstdc++.so')}"
    check = "import fastsam_core._cpu as m, sys; sys.exit(not m.__file__.startswith(sys.argv[1]))"
    environment = {"LD_PRELOAD": preload, "OMP_NUM_THREADS": "1", "FASTSAM_NATIVE": "1"}
    environment["PYTHONPATH"] = search_path(folder, ROOT / "tests")
    environment["FASTSAM_EMULATION_FLAGS"] = EMULATION_FLAGS
    run([sys.executable, "-c", check, str(folder)], **environment)
    # pytest must not capture file descriptors, or a sanitizer's last report is lost, nor handle the signals it needs.
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-p", "no:faulthandler", "-p", "no:cacheprovider"]
    run([*command, "-m", "not slow", *options, *native_tests()], **environment)


def main() -> None:
    """Build and run everything; exit with an error at the first failure."""
    folder = build_module()
    build_emulated()
    run_programs()
    run_emulator_programs()
    run_tests(folder, sys.argv[1:])
    print("sanitize: clean")


if __name__ == "__main__":
    main()
