"""Tests the check of the compiled CUDA module (`make cuda`): it lists kernels and notices missing ones."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).parent / "native"
if not NATIVE.is_dir():
    pytest.skip("the check belongs to the source tree", allow_module_level=True)
sys.path.insert(0, str(NATIVE))

import check_cuda  # noqa: E402
import fatbin  # noqa: E402

AREA = "_ZN7fastsam3rle12_GLOBAL__N_111area_kernelEPKl"
FILL_FLOAT, FILL_INT = "_Z11fill_kernelIfEvPT_", "_Z11fill_kernelIiEvPT_"
ALL = {AREA, FILL_FLOAT, FILL_INT}


def image(kind: int, architecture: int, content: bytes, flags: int = 0x11) -> bytes:
    content += b"\0" * (-len(content) % 8)
    fields = (kind, 0x101, 64, len(content), 0, 0, 0, 0, architecture, 0, 0, flags, 0, 0)
    return struct.pack("<HHIQIIHHIIIQQQ", *fields) + content


def container(*images: bytes) -> bytes:
    body = b"".join(images)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def ptx(*names: str) -> bytes:
    return "".join(f".visible .entry {name}(\n.param .u64 p)\n{{ ret; }}\n" for name in names).encode() + b"\0"


def elf(*names: str) -> bytes:
    """Return an ELF file with a symbol table of these kernels and one device function, and its strings."""
    strings, symbols = b"\0", b"\0" * 24
    for name, other in [*((name, 0x10) for name in names), ("_Z6helperf", 0)]:
        symbols += struct.pack("<IBBHQQ", len(strings), 0x12, other, 1, 0, 8)
        strings += name.encode() + b"\0"
    strings += b"\0" * (-len(strings) % 8)
    header = b"\x7fELF\x02\x01\x01".ljust(40, b"\0")
    at = 64 + len(strings) + len(symbols)
    header += struct.pack("<QIHHHHHH", at, 0, 64, 0, 0, 64, 2, 0)
    sections = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64, len(strings), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, 64 + len(strings), len(symbols), 0, 0, 8, 24)
    return header + strings + symbols + sections


def test_kernels_of_each_image_are_listed(tmp_path):
    module = tmp_path / "module.so"
    first = container(image(1, 80, ptx(AREA)), image(2, 80, elf(AREA)), image(2, 90, elf(AREA), 0x100011))
    second = container(image(2, 80, elf(FILL_INT, FILL_FLOAT)))
    module.write_bytes(b"\x7fELF and more" + first + b"\0" * 7 + second + b"the rest")
    assert fatbin.kernels(module) == {"compute_80": {AREA}, "sm_80": ALL, "sm_90a": {AREA}}
    module.write_bytes(container(image(1, 80, b"(\xb5/\xfd", 0x8011)))
    with pytest.raises(ValueError, match="no-compress"):
        fatbin.kernels(module)


def test_missing_kernels_are_named():
    complete = {"sm_80": ALL, "sm_90a": ALL, "compute_80": ALL}
    names = ["area_kernel", "fill_kernel"]
    assert check_cuda.find_missing(complete, names) == []
    assert check_cuda.find_missing({**complete, "sm_75": set()}, names) == []
    without = {name: kernels for name, kernels in complete.items() if name != "sm_90a"}
    assert check_cuda.find_missing(without, names) == ["there is no code for sm_90a"]
    assert check_cuda.find_missing(complete, [*names, "kernel"]) == [
        f"kernel is not among the kernels for {name}" for name in check_cuda.IMAGES
    ]
    less = {**complete, "sm_90a": {AREA, FILL_INT}}
    assert check_cuda.find_missing(less, names) == [f"{FILL_FLOAT} is not among the kernels for sm_90a"]


def test_kernels_of_the_source_are_listed(tmp_path, monkeypatch):
    assert "decode_kernel" in check_cuda.find_source_kernels()
    (tmp_path / "csrc" / "x").mkdir(parents=True)
    source = tmp_path / "csrc" / "x" / "x_cuda.cu"
    monkeypatch.setattr(check_cuda, "ROOT", tmp_path)
    source.write_text(
        "__global__ void plain(int* a) {}\n"
        "template <typename T>\n__global__ void __launch_bounds__(Size<T>::kThreads, blocks(2)) bounded(T* a) {}\n"
        "__global__ __launch_bounds__(128) void before(int);  // not a __global__ void comment()\n"
    )
    assert check_cuda.find_source_kernels() == {"plain", "bounded", "before"}
    source.write_text("#define K __global__ void\nK hidden() {}\n")
    with pytest.raises(SystemExit, match=r"x_cuda\.cu: could not parse the declaration of every __global__"):
        check_cuda.find_source_kernels()
