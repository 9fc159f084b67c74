"""Tests CMake's `FASTSAM_CUDA` with an nvcc that is too old: AUTO leaves the CUDA module out, ON is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SWITCH = Path(__file__).parent.parent / "cmake" / "cuda.cmake"
if not SWITCH.is_file():
    pytest.skip("cmake/ belongs to the source tree", allow_module_level=True)

pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not on PATH"),
    pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvcc is a shell script"),
]

PROJECT = """
cmake_minimum_required(VERSION 3.18)
project(switch LANGUAGES NONE)
include({switch})
message(STATUS "configured")
"""


@pytest.fixture
def old_nvcc(tmp_path: Path) -> Path:
    """A stand-in for nvcc that reports version 11.5 and can't compile."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "release 11.5, V11.5.119" && exit 0\nexit 1\n')
    nvcc.chmod(0o755)
    return nvcc


def configure(folder: Path, nvcc: Path, mode: str) -> subprocess.CompletedProcess[str]:
    source = folder / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT.format(switch=SWITCH.as_posix()))
    command = ["cmake", "-S", source, "-B", folder / "build", f"-DFASTSAM_CUDA={mode}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["AUTO", "ON"])
def test_old_nvcc_is_an_error_only_with_on(tmp_path: Path, old_nvcc: Path, mode: str) -> None:
    done = configure(tmp_path, old_nvcc, mode)
    said = " ".join((done.stdout + done.stderr).split())
    assert "3.25 or newer" in said or f"{old_nvcc} is 11.5" in said
    assert (done.returncode == 0) == ("configured" in said) == (mode == "AUTO")
