"""Runs the C++ test programs of the CUDA emulator: its results, and its errors where a GPU would hang or race."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import cuda_emulation
from fastsam_core.ops._native import cpu_module

NATIVE = Path(__file__).parent / "native"
EMULATOR = sorted((cuda_emulation.ROOT / "csrc" / "common" / "emulator").glob("*.cpp"))

pytestmark = [
    pytest.mark.skipif(bool(cuda_emulation.why_not()), reason=cuda_emulation.why_not()),
    pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off"),
    pytest.mark.slow,
]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("cuda_warp_test", "cuda warps: ok\n"),  # this one and the next two run on a GPU too, in test_gpu.py
        ("cuda_mma_test", "cuda mma: ok\n"),
        ("cuda_wgmma_test", "cuda wgmma: ok\n"),
        ("cuda_emulator_test", "cuda emulator: ok\n"),
        pytest.param(
            *("cuda_races_test", "cuda races: ok\n"),
            marks=pytest.mark.skipif(not cuda_emulation.WATCHED, reason="another sanitizer is in use"),
        ),
    ],
)
def test_program_succeeds(tmp_path: Path, program: str, said: str) -> None:
    assert build_and_run(tmp_path, program) == said


def test_emulator_works_with_portable_fibers(tmp_path: Path) -> None:
    assert build_and_run(tmp_path, "cuda_emulator_test", "-DFASTSAM_PORTABLE_FIBERS") == "cuda emulator: ok\n"


def build_and_run(folder: Path, program: str, *flags: str) -> str:
    source = NATIVE / f"{program}.cu"
    # Without flags, the emulator's object files are those of the emulated module, and are reused.
    emulator = cuda_emulation.compile_objects(EMULATOR, *flags, folder=folder if flags else cuda_emulation.BUILD)
    # cuda_emulator_test contains races on purpose.
    watched = program != "cuda_emulator_test"
    objects = cuda_emulation.compile_objects([source], f"-I{NATIVE}", "-O1", folder=folder, watched=watched)
    cuda_emulation.link([*objects, *emulator], folder / program, "-g1")
    done = subprocess.run([folder / program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
