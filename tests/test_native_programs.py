"""C++ test programs for code below the Python bindings: SIMD registers, fork-join, scratch memory.

They are skipped without a compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fastsam_core import ops
from fastsam_core.models.precision import why_not_bfloat16

ROOT = Path(__file__).parent.parent
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd"]
# Compiler flags of each instruction set, as in CMakeLists.txt; "plain" compiles the fallback for other machines.
FLAGS = {
    "baseline": [],
    "neon": [],
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512, bfloat16": [*AVX512, "-mavx512bf16"],
    "plain": ["-U__SSE2__", "-U__aarch64__"],
}

pytestmark = [
    pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="these tests need the source tree"),
    pytest.mark.slow,
]
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def build_and_run(folder: Path, name: str, compiler: str, *flags: str, under: tuple[str, ...] = ()) -> str:
    program = folder / name
    source = ROOT / "tests" / "native" / f"{name}.cpp"
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-w", f"-I{ROOT / 'csrc'}", *flags, str(source)]
    subprocess.run([*command, "-o", str(program), "-pthread", "-ldl"], check=True)
    done = subprocess.run([*under, str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_compiler
@pytest.mark.parametrize("isa", [*(ops.available_isas() or ["baseline"]), "plain"])
def test_simd_registers(tmp_path: Path, isa: str) -> None:
    assert build_and_run(tmp_path, "simd_test", str(COMPILER), *FLAGS[isa]).endswith("ok\n")


@pytest.mark.skipif(not (CROSS and EMULATOR), reason="no cross compiler for aarch64, or no emulator")
def test_neon_registers_in_qemu(tmp_path: Path) -> None:
    given = build_and_run(tmp_path, "simd_test", str(CROSS), "-static", under=(str(EMULATOR),))
    assert given == "simd, 4 lanes: ok\n"


@needs_compiler
@pytest.mark.skipif(why_not_bfloat16() != "", reason=why_not_bfloat16())
def test_simd_registers_with_bfloat16_products(tmp_path: Path) -> None:
    flags = FLAGS["avx512, bfloat16"]
    if subprocess.run([str(COMPILER), *flags, "-E", "-x", "c++", os.devnull], capture_output=True).returncode:
        pytest.skip("the compiler doesn't know these instructions")
    assert build_and_run(tmp_path, "simd_test", str(COMPILER), *flags) == "simd, 16 lanes: ok\n"


@needs_compiler
def test_fork_join(tmp_path: Path) -> None:
    assert build_and_run(tmp_path, "fork_join_test", str(COMPILER)) == "fork_join: ok\n"


@needs_compiler
def test_scratch_memory(tmp_path: Path) -> None:
    assert build_and_run(tmp_path, "scratch_test", str(COMPILER)) == "scratch: ok\n"
